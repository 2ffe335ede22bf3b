"""The contract of every kernel: NumPyro's MCMC in all its ways, a batch of keys, repeated runs, saving and restoring,
kernels inside kernels, constrained sites, float32, potentials that are not finite, and arguments that are refused."""

import pickle
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from numpyro.infer import MCMC

from fieldprob.infer.samplers.hilbert import HilbertHMC
from fieldprob.infer.samplers.langevin import MALA, ULA, LeimkuhlerMatthews
from fieldprob.infer.samplers.pcn import PreconditionedCrankNicolson
from tests.gaussian import Gaussian, assert_moments, sample

KERNELS = {
    "ULA": partial(ULA, step_size=0.01),
    "LeimkuhlerMatthews": partial(LeimkuhlerMatthews, step_size=0.01, num_steps=2),
    "MALA": partial(MALA, step_size=0.05),
    "HilbertHMC": HilbertHMC,
    "PreconditionedCrankNicolson": PreconditionedCrankNicolson,
}
ADJUSTED = ("MALA", "HilbertHMC", "PreconditionedCrankNicolson")
FIELDS = ("potential_energy", "num_steps", "accept_prob", "mean_accept_prob", "diverging", "adapt_state.step_size")
WARMUP, DRAWS, CHAINS = 10, 20, 3
ARGUMENTS = (jnp.asarray(0.7),)


def model(y):
    """A constrained site, a vector, a deterministic site and an observation."""
    rate = numpyro.sample("rate", dist.Gamma(3.0, 2.0))
    w = numpyro.sample("w", dist.Normal(1.0, 2.0).expand([2]).to_event(1))
    numpyro.deterministic("twice", 2 * rate)
    numpyro.sample("y", dist.Normal(jnp.sum(w), 1 / jnp.sqrt(rate)), obs=y)


@pytest.fixture(params=KERNELS)
def name(request):
    return request.param


def mcmc_of(kernel, method="vectorized", warmup=WARMUP, draws=DRAWS, chains=CHAINS):
    return MCMC(
        kernel, num_warmup=warmup, num_samples=draws, num_chains=chains, chain_method=method, progress_bar=False
    )


@pytest.fixture(scope="module", params=KERNELS)
def run(request):
    """(name, kernel, MCMC after a vectorised run)."""
    kernel = KERNELS[request.param](model)
    mcmc = mcmc_of(kernel)
    mcmc.run(jax.random.key(0), *ARGUMENTS, extra_fields=FIELDS)
    return request.param, kernel, mcmc


def test_mcmc_samples_a_model_with_constrained_sites_and_records_its_state(run):
    name, kernel, mcmc = run
    samples, fields = mcmc.get_samples(group_by_chain=True), mcmc.get_extra_fields(group_by_chain=True)
    assert samples["w"].shape == (CHAINS, DRAWS, 2) and samples["rate"].shape == (CHAINS, DRAWS)
    assert np.all(samples["rate"] > 0) and np.allclose(samples["twice"], 2 * samples["rate"])
    assert len(np.unique(np.round(samples["w"][:, -1, 0], 12))) == CHAINS  # the chains differ
    assert {field: x.shape for field, x in fields.items()} == dict.fromkeys(FIELDS, (CHAINS, DRAWS))
    assert np.all((fields["accept_prob"] >= 0) & (fields["accept_prob"] <= 1)) and np.any(fields["accept_prob"] > 0)
    if name not in ADJUSTED:
        assert np.all(fields["accept_prob"] == 1)
    assert not np.any(fields["diverging"]) and np.all(fields["num_steps"] >= 1)
    # adaptation ends with warm-up
    assert np.all(fields["adapt_state.step_size"] == fields["adapt_state.step_size"][:, :1])
    adapts = fields["adapt_state.step_size"][0, 0] != mcmc.sampler._step_size
    assert adapts == (name in ADJUSTED)
    mean = np.cumsum(fields["accept_prob"], axis=1) / np.arange(1, DRAWS + 1)
    np.testing.assert_allclose(fields["mean_accept_prob"], mean, rtol=1e-10)
    assert kernel.model is model and kernel.sample_field == "z" and kernel.default_fields == ("z", "diverging")
    assert np.all(mcmc.last_state.i == WARMUP + DRAWS)


def test_energy_and_gradient_of_the_state_belong_to_its_position(run):
    _, kernel, mcmc = run
    state = mcmc.last_state
    energy, grad = jax.vmap(jax.value_and_grad(kernel.get_potential_fn(ARGUMENTS)))(state.z)
    np.testing.assert_allclose(state.potential_energy, energy, rtol=1e-10)
    rate, w = np.exp(state.z["rate"]), np.asarray(state.z["w"])
    log_density = (
        scipy.stats.gamma.logpdf(rate, 3, scale=1 / 2)
        + np.log(rate)
        + scipy.stats.norm.logpdf(w, 1, 2).sum(1)
        + scipy.stats.norm.logpdf(0.7, w.sum(1), rate**-0.5)
    )
    np.testing.assert_allclose(energy, -log_density, rtol=1e-10)
    if hasattr(state, "z_grad"):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-10), state.z_grad, grad)


def test_a_run_continues_where_the_last_one_stopped_without_starting_afresh(run, monkeypatch):
    """A second run from `last_state` does not call `init`; the two are one long run, and that of chains one by one."""
    name, kernel, mcmc = run
    calls = []
    init = type(kernel).init
    monkeypatch.setattr(type(kernel), "init", lambda *a, **k: calls.append(1) or init(*a, **k))
    first = mcmc.get_samples(group_by_chain=True)["w"]
    mcmc.post_warmup_state = mcmc.last_state
    mcmc.run(mcmc.post_warmup_state.rng_key, *ARGUMENTS, extra_fields=FIELDS)
    assert not calls and kernel._sample_fn is not None
    both = np.concatenate([first, mcmc.get_samples(group_by_chain=True)["w"]], axis=1)
    long = mcmc_of(KERNELS[name](model), "sequential", draws=2 * DRAWS)
    long.run(jax.random.key(0), *ARGUMENTS)
    assert len(calls) == CHAINS
    np.testing.assert_allclose(long.get_samples(group_by_chain=True)["w"], both, rtol=1e-6)


def potential(z):
    return 0.5 * jnp.sum(z["x"] ** 2) + 2 * (z["y"] - z["x"][0]) ** 2


POSITION = {"x": jnp.ones(3), "y": jnp.zeros(())}


def test_a_saved_kernel_and_state_continue_bit_by_bit(name):
    kernel = KERNELS[name](potential_fn=potential)
    z = jax.tree.map(lambda x: jnp.stack([x, x + 1]), POSITION)

    def walk(kernel):
        return jax.jit(lambda state, steps: jax.lax.fori_loop(0, steps, lambda _, s: kernel.sample(s, (), {}), state))

    # saved in the middle of warm-up, with all that adapts
    advance = walk(kernel)
    state = advance(kernel.init(jax.random.split(jax.random.key(1), 2), 20, z), 7)
    leaves, structure = jax.tree.flatten(state._replace(rng_key=jax.random.key_data(state.rng_key)))
    saved = pickle.dumps((kernel, structure, [np.asarray(x) for x in leaves]))
    kernel_2, structure, leaves = pickle.loads(saved)
    assert kernel_2._sample_fn is None
    state_2 = jax.tree.unflatten(structure, [jnp.asarray(x) for x in leaves])
    state_2 = state_2._replace(rng_key=jax.random.wrap_key_data(state_2.rng_key))
    kernel_2.init(jax.random.split(jax.random.key(9), 2), 20, z)
    ends = jax.tree.leaves(advance(state, 20)), jax.tree.leaves(walk(kernel_2)(state_2, 20))
    for a, b in zip(*ends, strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert a.dtype == b.dtype and np.array_equal(a, b)


def test_a_batch_of_keys_gives_a_batch_of_independent_states(name):
    kernel = KERNELS[name](model)
    keys = jax.random.split(jax.random.key(0), CHAINS)
    state = kernel.init(keys, WARMUP, None, ARGUMENTS, {})
    assert state.i.shape == (CHAINS,) and state.z["w"].shape == (CHAINS, 2)
    alone = KERNELS[name](model).init(keys[1], WARMUP, None, ARGUMENTS, {})
    jax.tree.map(lambda one, all: np.testing.assert_allclose(one, all[1], rtol=1e-12), alone.z, state.z)
    np.testing.assert_allclose(alone.potential_energy, state.potential_energy[1], rtol=1e-12)


@pytest.mark.parametrize("name", ["HilbertHMC"])
def test_init_may_be_compiled_and_the_kernel_used_after_it(name):
    """What a kernel keeps for itself, its reference for example, is no traced value."""
    kernel = KERNELS[name](model)
    state = jax.jit(lambda key: kernel.init(key, 0, None, ARGUMENTS, {}))(jax.random.key(0))
    state = jax.jit(lambda state: kernel.sample(state, ARGUMENTS, {}))(state)
    assert state.i == 1 and np.isfinite(state.potential_energy)


def test_refresh_gives_the_energy_for_other_data_and_wrap_model_another_model(name):
    kernel = KERNELS[name](model)
    with pytest.raises(RuntimeError, match="run `init` first"):
        kernel.get_potential_fn(ARGUMENTS)
    state = kernel.init(jax.random.key(0), 0, None, ARGUMENTS, {})
    other = (jnp.asarray(-3.0),)
    new = kernel.refresh(state, other, {})
    fresh = kernel.init(jax.random.key(0), 0, state.z, other, {})
    np.testing.assert_allclose(new.potential_energy, fresh.potential_energy, rtol=1e-12)
    assert abs(new.potential_energy - state.potential_energy) > 1
    if hasattr(new, "z_grad"):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), new.z_grad, fresh.z_grad)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, new.z, state.z)) and new.rng_key == state.rng_key

    wrapped = kernel.wrap_model(lambda m: numpyro.handlers.condition(m, data={"rate": jnp.asarray(2.0)}))
    assert wrapped is not kernel and kernel.model is model and kernel._sample_fn is not None
    assert wrapped._sample_fn is None
    assert set(wrapped.init(jax.random.key(0), 0, None, ARGUMENTS, {}).z) == {"w"}
    with pytest.raises(ValueError, match="wrap_model"):
        KERNELS[name](potential_fn=potential).wrap_model(lambda m: m)


def test_float32_positions_stay_float32_whether_or_not_float64_is_on(name):
    def types(state):
        return {x.dtype for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)}

    for x64 in (True, False) if name == "MALA" else (True,):
        with jax.enable_x64(x64):
            kernel = KERNELS[name](potential_fn=potential)
            z = jax.tree.map(lambda x: x.astype(jnp.float32), POSITION)

            def two_states(key, kernel=kernel, z=z):
                start = kernel.init(key, 5, z)
                return start, kernel.sample(start, (), {})

            start, state = jax.jit(two_states)(jax.random.key(0))
            assert types(state.z) == {np.dtype("float32")}
            # a scan needs the types of all fields to stay
            assert jax.tree.map(jnp.result_type, start) == jax.tree.map(jnp.result_type, state)
            assert np.isfinite(state.potential_energy)


# --- where the potential is not finite --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "bad"), [*((name, jnp.nan) for name in ADJUSTED), ("HilbertHMC", jnp.inf)])
def test_where_the_potential_is_nan_or_infinite_nothing_is_accepted(name, bad):
    """½z² where z < ½ and not a number beyond: the truncated normal, and no chain is caught."""
    kernel = {
        "MALA": partial(MALA, step_size=0.7, adapt_step_size=False),
        "HilbertHMC": partial(HilbertHMC, trajectory_length=1.0, adapt_step_size=False),
        "PreconditionedCrankNicolson": partial(PreconditionedCrankNicolson, step_size=0.7, adapt_step_size=False),
    }[name](potential_fn=lambda z: jnp.where(z < 0.5, 0.5 * z**2, bad))
    chains = 4000
    state = kernel.init(jax.random.split(jax.random.key(0), chains), 0, jnp.zeros(chains))

    def step(state, _):
        state = kernel.sample(state, (), {})
        return state, (jnp.max(state.z), jnp.all(jnp.isfinite(state.accept_prob)), jnp.mean(state.diverging))

    state, (largest, finite, diverging) = jax.jit(lambda s: jax.lax.scan(step, s, length=30))(state)
    assert np.all(largest < 0.5) and np.all(finite) and np.all(np.isfinite(state.potential_energy))
    if name == "HilbertHMC":
        assert np.all(diverging > 0.05)
    exact = scipy.stats.truncnorm(-np.inf, 0.5)
    z = np.asarray(state.z)
    # false alarm 2 x 6e-7
    assert abs(z.mean() - exact.mean()) < 5 * z.std() / np.sqrt(chains)
    assert abs((z**2).mean() - exact.moment(2)) < 5 * (z**2).std() / np.sqrt(chains)


@pytest.mark.parametrize("name", ["ULA", "LeimkuhlerMatthews"])
def test_an_unadjusted_kernel_says_so_when_the_potential_is_nan(name):
    kernel = partial(KERNELS[name], step_size=0.5)(potential_fn=lambda z: jnp.where(z < 0.5, 0.5 * z**2, jnp.nan))
    state = kernel.init(jax.random.split(jax.random.key(0), 50), 0, jnp.zeros(50))
    advance = jax.jit(lambda state: kernel.sample(state, (), {}))
    for _ in range(10):
        state = advance(state)
        lost = ~np.isfinite(state.z) | (np.asarray(state.z) >= 0.5)
        assert np.all(np.asarray(state.diverging)[lost])
    assert lost.sum() > 0


# --- stationary law ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def target():
    return Gaussian(dimension=20, condition=30.0)


@pytest.mark.optimised
@pytest.mark.parametrize("name", ADJUSTED)
def test_adjusted_kernels_have_the_mean_and_covariance_of_a_correlated_gaussian(name, target):
    """With adaptation, from starts out of equilibrium; the reference is not that of the target."""
    kernel, warmup, thinning = {
        "MALA": (MALA(potential_fn=target.potential_fn), 500, 10),
        "HilbertHMC": (HilbertHMC(potential_fn=target.potential_fn, reference=(0.5, 1.5)), 100, 2),
        "PreconditionedCrankNicolson": (
            PreconditionedCrankNicolson(potential_fn=target.potential_fn, reference=(0.5, 1.5), num_steps=10),
            500,
            10,
        ),
    }[name]
    run = sample(kernel, target, warmup=warmup, draws=10, thinning=thinning, collect=lambda state: state.accept_prob)
    assert_moments(run.draws, target.mean, target.covariance)
    assert 0.15 < run.collected.mean() < 0.9  # rejections matter


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MALA(), "MALA: give either a model or a potential_fn"),
        (lambda: ULA(model, potential, step_size=0.1), "ULA: give either a model or a potential_fn"),
        (lambda: ULA(model, step_size=0.0), "ULA: step_size is 0.0"),
        (lambda: MALA(model, step_size=-1), "MALA: step_size is -1"),
        (lambda: LeimkuhlerMatthews(model, step_size=0.1, temperature=0), "temperature is 0"),
        (lambda: LeimkuhlerMatthews(model, step_size=0.1, num_steps=0), "num_steps is 0"),
        (lambda: MALA(model, num_steps=-1), "num_steps is -1"),
        (lambda: MALA(model, target_accept_prob=1.5), "target_accept_prob is 1.5"),
        (lambda: HilbertHMC(model, step_size=0), "step_size is 0"),
        (lambda: HilbertHMC(model, trajectory_length=0), "trajectory_length is 0"),
        (lambda: HilbertHMC(model, jitter=1.0), "jitter is 1.0"),
        (lambda: HilbertHMC(model, target_accept_prob=0), "target_accept_prob is 0"),
        (lambda: HilbertHMC(model, max_steps=1), "max_steps is 1"),
        (lambda: PreconditionedCrankNicolson(model, step_size=1.5), "step_size is 1.5"),
        (lambda: PreconditionedCrankNicolson(model, num_steps=0), "num_steps is 0"),
        (lambda: PreconditionedCrankNicolson(model, target_accept_prob=1), "target_accept_prob is 1"),
    ],
)
def test_arguments_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (partial(ULA, step_size=0.1, mobility={"x": 1.0}), r"mobility has entries x: give one for each site \(x, y\)"),
        (partial(MALA, mobility={"x": 1.0, "z": 2.0}), "mobility has entries x, z"),
        (partial(MALA, mobility={"x": jnp.ones(4), "y": 1.0}), r"mobility does not fit a site of shape \(3,\)"),
        (partial(ULA, step_size=0.1, mobility=-1.0), "ULA: mobility is -1.0: give positive numbers"),
        (partial(MALA, mobility={"x": -1.0, "y": 1.0}), "MALA: mobility is .*: give positive numbers"),
        (partial(ULA, step_size=0.1, weight_decay={"y": 1.0}), "weight_decay has entries y"),
        (partial(LeimkuhlerMatthews, step_size=0.1, weight_decay=[1.0]), "weight_decay: give a number, or a pytree"),
        (partial(HilbertHMC, reference=2.0), "reference is 2.0: give a pair"),
        (partial(HilbertHMC, reference=(0.0, {"x": 1.0})), r"reference \(scale\) has entries x"),
        (partial(PreconditionedCrankNicolson, reference=(0.0, 0.0)), "reference: the scale must be positive"),
    ],
)
def test_arguments_that_do_not_fit_the_sites_are_named(kernel, message):
    with pytest.raises(ValueError, match=message):
        kernel(potential_fn=potential).init(jax.random.key(0), 0, POSITION)


def test_a_potential_needs_a_starting_point(name):
    with pytest.raises(ValueError, match="init_params"):
        KERNELS[name](potential_fn=potential).init(jax.random.key(0), 0)
