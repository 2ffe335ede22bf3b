"""Underdamped Langevin: BAOAB has the law of its linear recursion, generalised HMC the target, whatever the step.

Chains are independent; false alarms have probability 1e-6 a set of t-scores (`tests.gaussian`) unless a test says
otherwise, all of this file together less than 1e-5.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from blackjax.mcmc import ghmc

from fieldprob.infer.samplers.underdamped import GHMC, Underdamped
from tests import contract
from tests.gaussian import Gaussian, assert_moments, sample, scores, threshold

D = 20
TARGET = Gaussian(D, condition=30)
MOBILITY = np.geomspace(0.5, 2.0, D)
TEMPERATURE, DECAY, STEP, FRICTION = 0.7, 0.3, 0.6, 0.5

# The potential with weight decay is a quadratic about another mean.
CURVATURE = TARGET.precision + DECAY * np.eye(D)
MEAN = np.linalg.solve(CURVATURE, TARGET.precision @ TARGET.mean)
COVARIANCE = TEMPERATURE * np.linalg.inv(CURVATURE)
SETTINGS = {
    "temperature": TEMPERATURE,
    "mobility": jnp.asarray(MOBILITY),
    "weight_decay": DECAY,
    "friction": FRICTION,
    "potential_fn": TARGET.potential_fn,
}
EVERY_KERNEL = pytest.mark.parametrize(
    "factory", [partial(Underdamped, step_size=0.3, num_steps=2), partial(GHMC, num_steps=2)]
)


# --- the law of BAOAB -------------------------------------------------------------------------------------------------


def baoab_recursion():
    """x' = F x + noise of covariance Q for x = (z − mean, v), written out from the module's B, A and O."""
    unit, zero = np.eye(D), np.zeros((D, D))
    root = np.diag(np.sqrt(MOBILITY))
    kick = np.block([[unit, zero], [-0.5 * STEP * root @ CURVATURE / np.sqrt(TEMPERATURE), unit]])
    drift = np.block([[unit, 0.5 * STEP * root * np.sqrt(TEMPERATURE)], [zero, unit]])
    keep = np.exp(-FRICTION * STEP)
    refresh = np.block([[unit, zero], [zero, keep * unit]])
    noise = kick @ drift @ np.block([[zero, zero], [zero, (1 - keep**2) * unit]]) @ drift.T @ kick.T
    return kick @ drift @ refresh @ drift @ kick, noise


def test_the_discrete_lyapunov_equation_of_baoab_has_the_exact_position_covariance_and_a_cold_momentum():
    """Of z: T A⁻¹ at any step; of v: 1 − ε² √μ A √μ / 4; no correlation between them. Here ε²μλ is 2.3 of at most 4."""
    root = np.diag(np.sqrt(MOBILITY))
    law = scipy.linalg.solve_discrete_lyapunov(*baoab_recursion())
    assert 2 < STEP**2 * np.linalg.eigvalsh(root @ CURVATURE @ root).max() < 4
    expected = scipy.linalg.block_diag(COVARIANCE, np.eye(D) - STEP**2 / 4 * root @ CURVATURE @ root)
    np.testing.assert_allclose(law, expected, atol=1e-12)


@pytest.fixture(scope="module")
def baoab():
    kernel = Underdamped(**SETTINGS, step_size=STEP, num_steps=5)
    return sample(kernel, TARGET, warmup=20, draws=20, chains=1024, collect=lambda s: (s.momentum, s.accept_prob))


def test_positions_and_momenta_of_baoab_have_that_joint_law(baoab):
    law = scipy.linalg.solve_discrete_lyapunov(*baoab_recursion())
    joint = np.concatenate([baoab.draws, baoab.collected[0]], axis=-1)
    assert_moments(joint, np.concatenate([MEAN, np.zeros(D)]), law)
    assert np.all(baoab.collected[1] == 1) and not np.any(baoab.state.diverging)
    # the scores can fail: the momentum of continuous time, and a covariance that is 10 % too large
    for wrong in (scipy.linalg.block_diag(COVARIANCE, np.eye(D)), 1.1 * law):
        t = scores(joint, np.concatenate([MEAN, np.zeros(D)]), wrong)
        assert np.abs(t).max() > threshold(len(t), 1024)


def test_a_step_of_baoab_is_its_linear_map():
    """The difference of two chains with the same noise, to rounding."""
    kernel = Underdamped(**SETTINGS, step_size=STEP, num_steps=1)
    rng = np.random.default_rng(0)
    z, v = rng.standard_normal((2, 2, D))
    state = kernel.init(jax.random.split(jax.random.key(0), 2), 0, jnp.asarray(z))
    same = jnp.stack([state.rng_key[0]] * 2)
    after = kernel.sample(state._replace(rng_key=same, momentum=jnp.asarray(v)), (), {})
    before = np.concatenate([z[1] - z[0], v[1] - v[0]])
    moved = np.concatenate([np.diff(after.z, axis=0)[0], np.diff(after.momentum, axis=0)[0]])
    np.testing.assert_allclose(moved, baoab_recursion()[0] @ before, atol=1e-12)


def test_baoab_with_a_step_that_is_too_large_is_reported_as_diverging():
    kernel = Underdamped(potential_fn=TARGET.potential_fn, step_size=10.0, num_steps=400)
    state = kernel.init(jax.random.key(0), 0, jnp.zeros(D))
    assert not state.diverging and kernel.sample(state, (), {}).diverging


# --- the law of generalised HMC ---------------------------------------------------------------------------------------


def run_ghmc(**options):
    kernel = GHMC(**(SETTINGS | {"num_steps": 5, "target_accept_prob": 0.7} | options))
    keep = {"collect": lambda s: (s.momentum, s.slice, s.accept_prob)}
    return sample(kernel, TARGET, warmup=200, draws=40, thinning=2, chains=512, **keep)


@pytest.fixture(scope="module")
def generalised():
    return run_ghmc()


def test_generalised_hmc_samples_the_target_with_standard_normal_momenta(generalised):
    joint = np.concatenate([generalised.draws, generalised.collected[0]], axis=-1)
    law = scipy.linalg.block_diag(COVARIANCE, np.eye(D))
    assert_moments(joint, np.concatenate([MEAN, np.zeros(D)]), law)


def test_the_slice_of_generalised_hmc_is_uniform(generalised):
    """Kolmogorov–Smirnov on one value a chain; false alarm 1e-6."""
    last = generalised.collected[1][:, -1]
    assert scipy.stats.kstest(last, "uniform", (-1, 2)).pvalue > 1e-6


def test_generalised_hmc_adapts_to_the_acceptance_asked_for(generalised):
    # dual averaging approaches the target from above
    assert -0.03 < generalised.collected[2].mean() - 0.7 < 0.1
    assert np.ptp(generalised.state.adapt_state.step_size) > 0  # each chain its own


def always(slice, delta_energy, proposal, new_proposal):
    *_, info = ghmc_rule(slice, delta_energy, proposal, new_proposal)
    return new_proposal, (jnp.ones((), bool), *info[1:])


def too_often(slice, delta_energy, proposal, new_proposal):
    return ghmc_rule(slice, 0.5 * delta_energy, proposal, new_proposal)


ghmc_rule = ghmc.nonreversible_slice_sampling


@pytest.mark.slow
@pytest.mark.parametrize("rule", [always, too_often])
def test_a_broken_acceptance_rule_of_generalised_hmc_shows_in_the_covariance(monkeypatch, rule):
    monkeypatch.setattr(ghmc, "nonreversible_slice_sampling", rule)
    with pytest.raises(AssertionError, match="largest"):
        assert_moments(run_ghmc().draws, MEAN, COVARIANCE)


@pytest.mark.slow
def test_a_momentum_that_is_not_reversed_at_rejection_shows_in_the_covariance(monkeypatch):
    monkeypatch.setattr(ghmc.hmc, "flip_momentum", lambda state: state)
    with pytest.raises(AssertionError, match="largest"):
        assert_moments(run_ghmc(target_accept_prob=0.4).draws, MEAN, COVARIANCE)


def test_generalised_hmc_rejects_a_hopeless_step_bit_for_bit_and_recovers():
    """An energy error that overflows leaves a finite slice, by which later steps are accepted."""
    kernel = GHMC(potential_fn=TARGET.potential_fn, num_steps=1, mobility=jnp.asarray(MOBILITY))
    step = jax.jit(lambda state: kernel.sample(state, (), {}))
    state = kernel.init(jax.random.key(0), 0, jnp.zeros(D, jnp.float32))
    huge, small = (state.adapt_state._replace(step_size=jnp.float32(x)) for x in (1e12, 0.01))
    after = step(state._replace(adapt_state=huge))
    assert after.diverging and after.accept_prob == 0 and np.isfinite(after.slice)
    for field in ("z", "z_grad", "potential_energy"):
        assert np.array_equal(getattr(after, field), getattr(state, field))
    moved = step(after._replace(adapt_state=small))
    assert not moved.diverging and moved.accept_prob > 0.9 and not np.array_equal(moved.z, state.z)


# --- in NumPyro -------------------------------------------------------------------------------------------------------


@EVERY_KERNEL
def test_underdamped_kernels_run_in_mcmc_sequential_or_vectorized_and_again(factory):
    contract.check_chains(factory)


@EVERY_KERNEL
def test_underdamped_kernels_follow_the_protocol_of_composite_kernels(factory):
    contract.check_protocol(factory)


@EVERY_KERNEL
def test_underdamped_kernels_restore_and_go_on_with_the_same_bits(factory):
    contract.check_restored(factory)


@EVERY_KERNEL
def test_underdamped_kernels_keep_float32(factory):
    with jax.enable_x64(False):
        kernel = factory(None, TARGET.potential_fn, num_steps=5)
        run = sample(kernel, TARGET, warmup=100, draws=20, thinning=2, chains=256, dtype=jnp.float32)
    floats = [x.dtype for x in jax.tree.leaves(run.state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert set(floats) == {np.dtype("float32")}
    assert_moments(run.draws, TARGET.mean, TARGET.covariance)


@pytest.mark.parametrize(
    ("Kernel", "arguments", "message"),
    [
        (Underdamped, {"step_size": 0.0}, "Underdamped: step_size is 0.0: give a positive number"),
        (Underdamped, {"step_size": 0.1, "friction": -1.0}, "Underdamped: friction is -1.0: give a positive number"),
        (Underdamped, {"step_size": 0.1, "num_steps": 0}, "Underdamped: num_steps is 0: give a positive integer"),
        (Underdamped, {"step_size": 0.1, "temperature": 0.0}, "Underdamped: temperature is 0.0"),
        (GHMC, {"target_accept_prob": 1.0}, "GHMC: target_accept_prob is 1.0: give a number between 0 and 1"),
        (GHMC, {"delta": 2.0}, "GHMC: delta is 2.0: give a number from 0 to 1"),
    ],
)
def test_underdamped_kernels_name_the_argument_that_is_out_of_range(Kernel, arguments, message):
    with pytest.raises(ValueError, match=message):
        Kernel(potential_fn=TARGET.potential_fn, **arguments)
