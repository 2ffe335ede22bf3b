"""Jumps of single neurons between wells: exact for every law and every proposal, and what they are for."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from numpyro.infer import NUTS

from fieldprob.gp import log_evidence
from fieldprob.infer.samplers.hilbert import HilbertHMC
from fieldprob.infer.samplers.jumps import NeuronJumps, NormalButAlong
from fieldprob.infer.samplers.pcn import PreconditionedCrankNicolson
from fieldprob.infer.samplers.tempering import ReplicaExchange
from tests import contract
from tests.test_tempering import run, t_scores, worst

WIDE = dist.Normal(0.0, 1.5)


def factory(model=None, potential_fn=None):
    return NeuronJumps(HilbertHMC(model, potential_fn, step_size=0.4), {"x": WIDE}, jumps=2)


@pytest.mark.slow
def test_chains_are_those_of_numpyro():
    contract.check_chains(factory)


@pytest.mark.slow
def test_the_kernel_follows_the_protocol_of_kernels_inside_kernels():
    contract.check_protocol(factory)


@pytest.mark.slow
def test_a_restored_state_goes_on_with_the_same_bits():
    contract.check_restored(factory)


# --- two coupled neurons, each with two wells, against quadrature -----------------------------------------------------

DEPTH = 14.0  # of a well, in kT: no local move crosses it in a run of this length


def wells(z):
    """Two neurons of one weight (2, 1), wells at +-1, tilted and coupled."""
    x = z[:, 0]
    return jnp.sum(DEPTH * (x**2 - 1) ** 2 - 0.4 * x) + 0.8 * x[0] * x[1]


def quadrature():
    """Means of the functions `measured` under exp(-U)."""
    grid = np.linspace(-2.2, 2.2, 801)
    x, y = np.meshgrid(grid, grid, indexing="ij")
    U = DEPTH * ((x**2 - 1) ** 2 + (y**2 - 1) ** 2) - 0.4 * (x + y) + 0.8 * x * y
    p = np.exp(-U)
    p /= p.sum()
    return np.array([(p * f).sum() for f in ((x > 0) & (y > 0), (x > 0) & (y < 0), x, x * y, x**2)])


def measured(z):
    x, y = z[..., 0, 0], z[..., 1, 0]
    return np.stack([(x > 0) & (y > 0), (x > 0) & (y < 0), x, x * y, x**2], axis=-1)


@pytest.fixture(scope="module")
def from_one_well():
    """kernel -> averages of each chain, all of which start with both neurons in the well at 1."""
    walk = PreconditionedCrankNicolson(potential_fn=wells, step_size=0.08, adapt_step_size=False, num_steps=3)
    kernels = {"walk": walk, "jumps": NeuronJumps(walk, dist.Normal(jnp.zeros(1), 0.9).to_event(1), jumps=3)}

    def averages(kernel):
        draws, _ = run(kernel, chains=256, warmup=60, draws=60, start=jnp.ones((256, 2, 1)))
        return measured(draws).mean(1)

    return {name: averages(kernel) for name, kernel in kernels.items()}


def test_jumps_give_the_weights_of_wells_that_quadrature_gives(from_one_well):
    """Five scores over independent chains, a false alarm 1e-6 in all."""
    assert worst(t_scores(from_one_well["jumps"], quadrature()), 256) < 1


def test_without_jumps_no_neuron_leaves_its_well(from_one_well):
    assert np.all(from_one_well["walk"][:, 0] == 1) and quadrature()[0] < 0.4


@pytest.mark.slow
@pytest.mark.parametrize("inside", ["NUTS", "ReplicaExchange"])
def test_jumps_work_around_numpyro_kernels_and_within_replica_exchange(inside):
    """A false alarm of 1e-6 each."""

    def model():
        x = numpyro.sample("x", dist.Normal(0, 1).expand([2, 1]).to_event(2))
        numpyro.factor("wells", -wells(x) + jnp.sum(x**2) / 2)

    q = {"x": dist.Normal(jnp.zeros(1), 0.9).to_event(1)}
    if inside == "NUTS":
        kernel = NeuronJumps(NUTS(model, max_tree_depth=3), q, jumps=3)
    else:
        kernel = ReplicaExchange(NeuronJumps(HilbertHMC(model, step_size=0.2), q, jumps=3), [1.0, 3.0])
    draws, _ = run(kernel, chains=128, warmup=60, draws=60)
    assert worst(t_scores(measured(draws["x"]).mean(1), quadrature()), 128) < 1


# --- one attempt ------------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(6, 3))
TARGETS = np.sin(2 * X[:, 0])
NOISE, READOUT = 0.1, 0.2


def network(z):
    """-log of prior and evidence of four neurons, by the readout's posterior."""
    phi = jnp.tanh(X @ z["w"].T + z["b"])
    evidence = log_evidence(READOUT / NOISE * phi.T @ phi, jnp.sqrt(READOUT) / NOISE * phi.T @ TARGETS)
    return (jnp.sum(z["w"] ** 2) + jnp.sum(z["b"] ** 2)) / 2 - evidence


Z = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(4, 3))), "b": jnp.array([0.2, -1.0, 0.4, 0.0])}
WALK = PreconditionedCrankNicolson(potential_fn=network)


def dense_log_density(w, b, hot):
    """The prior and the evidence of `network`, and the law of the neuron `hot` that the proposal has, by SciPy."""
    phi = np.tanh(X @ w.T + b)
    K = READOUT * phi @ phi.T + NOISE * np.eye(6)
    evidence = scipy.stats.multivariate_normal(np.zeros(6), K).logpdf(TARGETS)
    prior = scipy.stats.norm.logpdf(w).sum() + scipy.stats.norm.logpdf(b).sum()
    s = w[hot, 0]
    along = scipy.stats.norm(0.5, 1.3).logpdf(s) + scipy.stats.norm(0, np.exp(-(s**2) / 9)).logpdf(w[hot, 1:]).sum()
    return evidence + prior, along + scipy.stats.norm(0, 0.8).logpdf(b[hot])


def test_the_acceptance_of_a_jump_is_the_ratio_of_dense_densities():
    """Of the weights and the bias of one neuron at once; what is not accepted does not move."""
    q = NormalButAlong(np.array([2.0, 0, 0]), dist.Normal(0.5, 1.3), lambda s: jnp.exp(-(s**2) / 9))
    kernel = NeuronJumps(WALK, {"w": q, "b": dist.Normal(0.0, 0.8)}, jumps=1)
    state = kernel.init(jax.random.key(3), 0, Z).inner
    attempt = jax.jit(jax.vmap(partial(kernel._jump, state, model_args=(), model_kwargs={})))
    after, probability = attempt(jax.random.split(jax.random.key(0), 400))
    w, b = (np.asarray(state.z[name]) for name in ("w", "b"))
    changed = np.any(np.asarray(after.z["w"]) != w, axis=2)
    assert set(changed.sum(1)) == {0, 1} and np.array_equal(changed, np.asarray(after.z["b"]) != b)
    accepted = np.flatnonzero(changed.any(1))
    assert len(accepted) > 30
    for k in accepted[:40]:
        hot = int(np.argmax(changed[k]))
        new, q_new = dense_log_density(np.asarray(after.z["w"][k]), np.asarray(after.z["b"][k]), hot)
        old, q_old = dense_log_density(w, b, hot)
        assert np.isclose(probability[k], min(1.0, np.exp(new - old + q_old - q_new)), rtol=1e-9)
        assert np.isclose(after.potential_energy[k] - state.potential_energy, old - new, rtol=1e-9, atol=1e-9)


def test_draws_of_a_proposal_have_its_density():
    """Mean and covariance of 20 000 draws, and of the same by weights of another law; a false alarm of 1e-6."""
    q = NormalButAlong(np.array([3.0, 4.0]), dist.Normal(1.0, 0.5), lambda s: 0.5 + s**2 / 4)
    key = jax.random.key(0)
    x = np.asarray(q.sample(key, (20_000,)))
    z = np.asarray(1.2 * jax.random.normal(jax.random.fold_in(key, 1), (200_000, 2)))
    weight = np.exp(np.asarray(q.log_prob(jnp.asarray(z))) - scipy.stats.norm(0, 1.2).logpdf(z).sum(1))

    def moments(x):
        return np.stack([np.ones(len(x)), x[:, 0], x[:, 1], x[:, 0] * x[:, 1], x[:, 0] ** 2, x[:, 1] ** 2], axis=1)

    direct, weighted = moments(x), weight[:, None] * moments(z)
    error = np.hypot(direct.std(0) / np.sqrt(len(x)), weighted.std(0) / np.sqrt(len(z)))
    assert np.max(np.abs(direct.mean(0) - weighted.mean(0)) / error) < 5.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": "hmc"}, "kernel is 'hmc': give one with"),
        ({"jumps": 0}, "jumps is 0: give a positive integer"),
        ({"proposal": dist.Normal(jnp.zeros(2), 1.0)}, "give the distribution of one neuron without batch dimensions"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    given = {"kernel": HilbertHMC(potential_fn=wells), "proposal": WIDE} | arguments
    with pytest.raises(ValueError, match=message):
        NeuronJumps(**given)


@pytest.mark.parametrize(
    ("proposal", "message"),
    [
        ({"v": WIDE}, r"proposal names \['v'\], which are no latent sites: there are b, w"),
        ({"w": WIDE}, "give each the shape of a row"),
    ],
)
def test_a_proposal_that_does_not_fit_its_site_is_refused(proposal, message):
    with pytest.raises(ValueError, match=message):
        NeuronJumps(WALK, proposal).init(jax.random.key(0), 0, Z)


def test_jumps_on_a_potential_are_not_tempered():
    with pytest.raises(ValueError, match="NeuronJumps, whose potential_fn is that of the kernel in it"):
        ReplicaExchange(
            NeuronJumps(HilbertHMC(potential_fn=wells), WIDE), [1.0, 2.0], prior_potential_fn=lambda z: jnp.sum(z**2)
        )


@pytest.mark.parametrize(("direction", "along"), [(np.zeros(2), WIDE), (np.ones(2), dist.Normal(jnp.zeros(2), 1.0))])
def test_a_law_without_a_direction_or_of_several_numbers_is_refused(direction, along):
    with pytest.raises(ValueError, match="give (a vector of finite numbers|the law of one number)"):
        NormalButAlong(direction, along)
