"""What every kernel of `fieldprob.infer` must do inside NumPyro; `factory` makes one, from a model or a potential."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC

FIELDS = ("potential_energy", "num_steps", "accept_prob", "mean_accept_prob", "diverging", "adapt_state.step_size", "i")
Y = 0.7


def model(y=None):
    """Four latent dimensions, one of them positive, and a deterministic site."""
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    x = numpyro.sample("x", dist.Normal(0, 1).expand([3]).to_event(1))
    total = numpyro.deterministic("total", scale * jnp.sum(x))
    numpyro.sample("y", dist.Normal(total, 0.5), obs=y)


def potential(z):
    return 0.5 * jnp.sum(z["x"] ** 2) + 0.5 * jnp.sum((z["scale"] - z["x"][0]) ** 2)


def check_chains(factory):
    """Sequential and vectorized chains agree, have all fields, and a second run goes on from the first."""
    runs = {}
    for method in ("sequential", "vectorized"):
        mcmc = MCMC(
            factory(model), num_warmup=20, num_samples=20, num_chains=2, chain_method=method, progress_bar=False
        )
        mcmc.run(jax.random.key(0), Y, extra_fields=FIELDS)
        runs[method] = mcmc, mcmc.get_samples(group_by_chain=True), mcmc.get_extra_fields(group_by_chain=True)
    mcmc, samples, fields = runs["vectorized"]
    for name, value in samples.items():
        np.testing.assert_allclose(value, runs["sequential"][1][name], rtol=1e-5, atol=1e-8, err_msg=name)
    assert set(samples) == {"scale", "x", "total"} and samples["x"].shape == (2, 20, 3)
    assert np.all(samples["scale"] > 0) and np.std(samples["scale"]) > 0
    np.testing.assert_allclose(samples["total"], samples["scale"] * samples["x"].sum(-1), rtol=1e-6)
    assert set(fields) == {*FIELDS, *factory(model).default_fields} - {"z"} and all(
        value.shape == (2, 20) for value in fields.values()
    )
    assert np.array_equal(fields["i"], np.tile(np.arange(21, 41), (2, 1)))
    assert np.all((fields["accept_prob"] >= 0) & (fields["accept_prob"] <= 1)) and np.all(fields["num_steps"] > 0)
    assert np.all(fields["adapt_state.step_size"] == fields["adapt_state.step_size"][:, :1])

    # MCMC starts a kernel afresh whose `_sample_fn` is None
    assert mcmc.sampler._sample_fn is not None
    mcmc.post_warmup_state = mcmc.last_state
    mcmc.run(mcmc.post_warmup_state.rng_key, Y, extra_fields=("i",))
    assert np.array_equal(mcmc.get_extra_fields(group_by_chain=True)["i"], np.tile(np.arange(41, 61), (2, 1)))
    return runs


def check_protocol(factory):
    """`model`, `sample_field`, `refresh`, `wrap_model`; potentials of pytrees, which have nothing to wrap."""
    kernel = factory(model)
    state = kernel.init(jax.random.key(0), 5, model_args=(Y,))
    assert kernel.model is model and kernel.sample_field == "z" and set(state.z) == {"scale", "x"}
    assert kernel.get_diagnostics_str(state)
    fresh = kernel.refresh(state, (3.0,), {})
    energy, grad = jax.value_and_grad(kernel.get_potential_fn((3.0,)))(state.z)
    assert fresh.potential_energy == energy != state.potential_energy
    assert all(np.array_equal(grad[name], fresh.z_grad[name]) for name in grad)

    wrapped = kernel.wrap_model(lambda model: numpyro.handlers.condition(model, {"scale": 2.0}))
    assert type(wrapped) is type(kernel) and wrapped._sample_fn is None and kernel._sample_fn is not None
    assert set(wrapped.init(jax.random.key(0), 5, model_args=(Y,)).z) == {"x"}
    assert kernel.model is model

    bare = factory(None, potential)
    start = {"x": jnp.ones(3), "scale": jnp.ones(())}
    mcmc = MCMC(bare, num_warmup=5, num_samples=10, progress_bar=False)
    mcmc.run(jax.random.key(0), init_params=start)
    assert mcmc.get_samples()["x"].shape == (10, 3) and np.std(mcmc.get_samples()["x"]) > 0


def freeze(state):
    """The leaves of a state as NumPy arrays, as a file holds them, and how to put them together."""
    leaves, treedef = jax.tree.flatten(state)
    keys = [jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in leaves]
    arrays = [np.array(jax.random.key_data(x) if k else x) for x, k in zip(leaves, keys, strict=True)]
    return arrays, keys, treedef


def thaw(frozen):
    arrays, keys, treedef = frozen
    return treedef.unflatten(
        [jax.random.wrap_key_data(x) if k else jnp.asarray(x) for x, k in zip(arrays, keys, strict=True)]
    )


def check_restored(factory):
    """A state saved within warm-up, or after it, goes on with the same bits in a kernel that was pickled and reborn."""

    def walk(kernel):
        return jax.jit(lambda s: jax.lax.fori_loop(0, 30, lambda _, s: kernel.sample(s, (Y,), {}), s))

    kernel, keys = factory(model), jax.random.split(jax.random.key(0), 2)
    ahead = walk(kernel)
    states = [kernel.init(keys, 75, model_args=(Y,))]
    for _ in range(4):
        states.append(ahead(states[-1]))
    reborn = pickle.loads(pickle.dumps(kernel))
    reborn.init(keys, 75, model_args=(Y,))
    ahead = walk(reborn)
    for before, after in ((1, 2), (3, 4)):  # 30 and 90 transitions done, of which 75 are warm-up
        again, first = freeze(ahead(thaw(freeze(states[before]))))[0], freeze(states[after])[0]
        assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(again, first, strict=True))
    steps = [state.adapt_state.step_size for state in states]
    assert np.array_equal(steps[3], steps[4])
    return states
