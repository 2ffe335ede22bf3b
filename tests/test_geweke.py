"""Joint-distribution tests of kernels on a Bayesian network (Geweke 2004, Getting it right).

Parameters and data have the joint law p(θ) p(y|θ). The marginal-conditional simulator draws from it directly. The
successive-conditional one alternates data given parameters with transitions of a kernel that should leave p(θ|y)
invariant: it has the same joint law if, and for all functions only if, the model that is simulated is the one that is
sampled and the kernel is right.

Here it runs in thousands of independent chains, which start in the joint law, so that a right kernel has no transient
and every score is a Student t between chains. A test compares at most 20 averages; false alarm 1e-6 each test, less
than 1e-5 for this file.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from blackjax.mcmc import ghmc, mala

from fieldprob.infer.samplers import hilbert, microcanonical, pcn
from fieldprob.infer.samplers.base import metropolis
from fieldprob.infer.samplers.hilbert import HilbertHMC
from fieldprob.infer.samplers.jumps import NeuronJumps
from fieldprob.infer.samplers.langevin import MALA, ULA
from fieldprob.infer.samplers.microcanonical import AdjustedMCLMC
from fieldprob.infer.samplers.pcn import PreconditionedCrankNicolson
from fieldprob.infer.samplers.underdamped import GHMC
from tests import bnn
from tests.gaussian import threshold

CHAINS, ROUNDS, TRANSITIONS = 2048, 20, 2
MARGINAL = 50_000

# Steps that reject often enough for the acceptance rule to matter; nothing adapts.
KERNELS = {
    "HilbertHMC": partial(HilbertHMC, step_size=0.25, trajectory_length=1.1),
    "MALA": partial(MALA, step_size=0.06, num_steps=4),
    "GHMC": partial(GHMC, step_size=0.25, num_steps=4),
    "AdjustedMCLMC": partial(AdjustedMCLMC, step_size=1.8, L=4.0, adapt=False),
    "PreconditionedCrankNicolson": partial(PreconditionedCrankNicolson, step_size=0.4, num_steps=4),
    "NeuronJumps": lambda model, **options: NeuronJumps(
        HilbertHMC(model, **{"step_size": 0.4} | options),
        {"weight_0": dist.Normal(jnp.zeros(2), 1.3).to_event(1)},
        jumps=2,
    ),
}


def functions(z, y, face):
    """Functions of parameters and data whose means are compared: every moment that a defect could spare another."""
    s = bnn.statistics(z, y, face)
    f = s["f"]
    result = [jnp.mean(x**2) for x in z.values()] + [jnp.mean(x) for x in z.values()]
    result += [jnp.mean(f**2), jnp.mean(f * y), jnp.mean((y - f) ** 2), jnp.mean(y**2), jnp.mean(y)]
    result += [jnp.sum(s["f_test"]), jnp.sum(s["f_test"] ** 2), jnp.trace(s["kernel_1"]), s["kernel_1"][0, 1]]
    return jnp.stack([*result, s["log_likelihood"]])


@pytest.fixture(scope="module")
def marginal():
    """face -> means of the functions in the marginal-conditional simulator, with standard errors."""

    def moments(face):
        def draw(key):
            return functions(*bnn.prior(key, face), face)

        values = np.asarray(bnn.batch(draw, jax.random.key(5), MARGINAL))
        return values.mean(0), values.std(0) / np.sqrt(MARGINAL)

    return {face: moments(face) for face in ("weights", "collapsed")}


def successive(kernel, face, simulated_noise=bnn.NOISE, chains=CHAINS, rounds=ROUNDS, seed=0):
    """(each chain's average of the functions, mean acceptance) of the successive-conditional simulator."""

    def transition(state, y):
        state = kernel.sample(state, (y, face), {})
        return state, state.accept_prob

    def step(state, key):
        y = bnn.data(key, state.z, face, simulated_noise)
        state = kernel.refresh(state, (y, face), {})
        state, accepted = jax.lax.scan(lambda state, _: transition(state, y), state, length=TRANSITIONS)
        return state, (functions(state.z, y, face), accepted)

    def chain(key):
        key_start, key_kernel, key_run = jax.random.split(key, 3)
        z, y = bnn.prior(key_start, face)
        state = kernel.init(key_kernel, 0, z, (y, face), {})
        values, accepted = jax.lax.scan(step, state, jax.random.split(key_run, rounds))[1]
        return values.mean(0), accepted.mean()

    values, accepted = bnn.batch(chain, jax.random.key(seed), chains)
    return np.asarray(values), float(jnp.mean(accepted))


def largest_score(kernel, face, marginal, **options):
    """(largest |t| of all functions, what it should stay below, mean acceptance)."""
    values, accepted = successive(kernel, face, **options)
    mean, error = marginal[face]
    t = (values.mean(0) - mean) / np.hypot(values.std(0, ddof=1) / np.sqrt(len(values)), error)
    worst = float(np.max(np.abs(t))) if np.all(np.isfinite(t)) else np.inf
    return worst, threshold(len(t), len(values)), accepted


@pytest.mark.parametrize(
    ("name", "face", "options"),
    [
        ("HilbertHMC", "weights", {}),
        pytest.param("HilbertHMC", "collapsed", {"step_size": 0.55}, marks=pytest.mark.slow),
        pytest.param("MALA", "weights", {}, marks=pytest.mark.slow),
        pytest.param("GHMC", "weights", {}, marks=pytest.mark.slow),
        pytest.param("AdjustedMCLMC", "weights", {}, marks=pytest.mark.slow),
        pytest.param("PreconditionedCrankNicolson", "collapsed", {}, marks=pytest.mark.slow),
        pytest.param("NeuronJumps", "collapsed", {}, marks=pytest.mark.slow),
    ],
)
def test_data_and_parameters_keep_their_joint_law(name, face, options, marginal):
    worst, bound, accepted = largest_score(KERNELS[name](bnn.model, **options), face, marginal)
    print(f"{name} {face}: largest |t| {worst:.1f} of {bound:.1f}, acceptance {accepted:.2f}")
    assert worst < bound
    assert 0.3 < accepted < 0.97


# --- what is caught ---------------------------------------------------------------------------------------------------


class WrongPrior(PreconditionedCrankNicolson):
    """½|u|² with the wrong sign where the prior is taken out of the potential: Φ = U + ½|u|²."""

    def get_potential_fn(self, model_args=(), model_kwargs=None):
        potential = super().get_potential_fn(model_args, model_kwargs)
        return lambda z: potential(z) + sum(jnp.sum(x**2) for x in z.values())


def accept_always(key, log_ratio):
    return jnp.ones((), bool), jnp.exp(jnp.minimum(log_ratio, 0.0))


def half_the_ratio(key, log_ratio):
    return metropolis(key, 0.5 * log_ratio)


def blackjax_accepts_always(key, log_ratio, old, new):
    return new, (jnp.ones((), bool), jnp.ones(()), None)


def energies_alone(transition_energy):
    return lambda old, new, step_size: new.logdensity - old.logdensity


def slice_accepts_always(slice, change, old, new):
    return new, (jnp.ones((), bool), jnp.ones(()), slice)


DEFECTS = {
    "HilbertHMC accepts always": ("HilbertHMC", hilbert, "metropolis", accept_always),
    "HilbertHMC halves the log ratio": ("HilbertHMC", hilbert, "metropolis", half_the_ratio),
    "pCN accepts always": ("PreconditionedCrankNicolson", pcn, "metropolis", accept_always),
    "MALA accepts always": ("MALA", mala.proposal, "static_binomial_sampling", blackjax_accepts_always),
    "MALA forgets the reverse proposal": ("MALA", mala.proposal, "compute_asymmetric_acceptance_ratio", energies_alone),
    "GHMC accepts always": ("GHMC", ghmc, "nonreversible_slice_sampling", slice_accepts_always),
    "AdjustedMCLMC accepts always": (
        "AdjustedMCLMC",
        microcanonical,
        "adjusted_mclmc_proposal",
        partial(microcanonical.adjusted_mclmc_proposal, sample_proposal=blackjax_accepts_always),
    ),
}


QUICK = ("HilbertHMC accepts always", "MALA forgets the reverse proposal")  # the others take long to compile


@pytest.mark.slow
@pytest.mark.parametrize(
    "defect", [d if d in QUICK else pytest.param(d, marks=(pytest.mark.slow, pytest.mark.long)) for d in DEFECTS]
)
def test_a_broken_acceptance_rule_is_caught(defect, marginal, monkeypatch):
    name, module, attribute, broken = DEFECTS[defect]
    assert hasattr(module, attribute)
    monkeypatch.setattr(module, attribute, broken)
    worst, bound, _ = largest_score(KERNELS[name](bnn.model), "weights", marginal)
    print(f"{defect}: largest |t| {worst:.1f} of {bound:.1f}")
    assert worst > 1.5 * bound


@pytest.mark.slow
def test_a_prior_of_the_wrong_sign_is_caught(marginal):
    worst, bound, _ = largest_score(WrongPrior(bnn.model, step_size=0.4, num_steps=4), "collapsed", marginal)
    print(f"prior of the wrong sign: {worst:.1f} of {bound:.1f}")
    assert worst > 3 * bound


@pytest.mark.slow
def test_the_bias_of_an_unadjusted_kernel_is_caught(marginal):
    worst, bound, _ = largest_score(ULA(bnn.model, step_size=0.12, num_steps=4), "weights", marginal)
    print(f"ULA: {worst:.1f} of {bound:.1f}")
    assert worst > 3 * bound


@pytest.mark.slow
def test_a_noise_variance_that_is_a_fifth_too_large_is_caught(marginal):
    worst, bound, _ = largest_score(
        KERNELS["HilbertHMC"](bnn.model), "weights", marginal, simulated_noise=1.2 * bnn.NOISE
    )
    print(f"noise: {worst:.1f} of {bound:.1f}")
    assert worst > 3 * bound


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("face", [pytest.param("weights", marks=pytest.mark.long), "collapsed"])
@pytest.mark.parametrize("name", KERNELS)
def test_data_and_parameters_keep_their_joint_law_in_ten_times_the_draws(name, face, marginal):
    worst, bound, _ = largest_score(
        KERNELS[name](bnn.model), face, marginal, chains=5 * CHAINS, rounds=2 * ROUNDS, seed=1
    )
    assert worst < bound
