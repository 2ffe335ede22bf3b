"""Microcanonical Langevin: the adjusted kernel is exact, the other biased as its energy error says; tuning is state.

Chains are independent; false alarms have probability 1e-6 a set of t-scores (`tests.gaussian`) unless a test says
otherwise, all of this file together less than 1e-5.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from blackjax.mcmc.proposal import static_binomial_sampling

from fieldprob.infer.samplers import microcanonical
from fieldprob.infer.samplers.microcanonical import MCLMC, AdjustedMCLMC
from tests import contract
from tests.gaussian import Gaussian, assert_moments, sample

D = 20
TARGET = Gaussian(D, condition=30)
EVERY_KERNEL = pytest.mark.parametrize("factory", [partial(MCLMC, num_steps=2), AdjustedMCLMC])


def run_adjusted(**options):
    kernel = AdjustedMCLMC(potential_fn=TARGET.potential_fn, **({"target_accept_prob": 0.6} | options))
    return sample(kernel, TARGET, warmup=300, draws=60, thinning=2, chains=512, collect=lambda s: s.accept_prob)


@pytest.fixture(scope="module")
def adjusted():
    return run_adjusted()


# --- the adjusted kernel ----------------------------------------------------------------------------------------------


def test_adjusted_microcanonical_trajectories_sample_the_target(adjusted):
    assert_moments(adjusted.draws, TARGET.mean, TARGET.covariance)


def test_warm_up_finds_the_variances_of_the_coordinates_and_an_acceptance_near_the_target(adjusted):
    """The variance of the 120 draws of the last window is too small by its autocorrelation, 7 %; L is 1.3 √d."""
    tuned = adjusted.state.adapt_state
    ratio = np.mean(tuned.inverse_mass_matrix, axis=0) / np.diag(TARGET.covariance)
    assert np.all(np.abs(ratio - 0.93) < 0.08)
    np.testing.assert_allclose(tuned.L, 1.3 * np.sqrt(D), rtol=1e-12)
    # dual averaging of so noisy an acceptance stays above the target for long (0.78 here, 0.68 after 1000 transitions)
    assert 0.55 < adjusted.collected.mean() < 0.85
    assert np.ptp(tuned.step_size) > 0  # each chain its own


def always(key, log_ratio, proposal, new_proposal):
    return new_proposal, static_binomial_sampling(key, log_ratio, proposal, new_proposal)[1]


def too_often(key, log_ratio, proposal, new_proposal):
    return static_binomial_sampling(key, 0.5 * log_ratio, proposal, new_proposal)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [None, always, too_often])
def test_a_broken_acceptance_rule_of_the_adjusted_kernel_shows_in_the_covariance(monkeypatch, rule):
    """At a step that is accepted two times out of three; the right rule passes."""
    if rule is not None:
        broken = partial(microcanonical.adjusted_mclmc_proposal, sample_proposal=rule)
        monkeypatch.setattr(microcanonical, "adjusted_mclmc_proposal", broken)
    run = run_adjusted(adapt=False, step_size=4.5, L=9.0)
    if rule is None:
        assert 0.5 < run.collected.mean() < 0.8
        return assert_moments(run.draws, TARGET.mean, TARGET.covariance)
    with pytest.raises(AssertionError, match="largest"):
        assert_moments(run.draws, TARGET.mean, TARGET.covariance)


# --- the unadjusted kernel --------------------------------------------------------------------------------------------

LARGE, SMALL = 3.2e-4, 5e-6  # desired Var(ΔE)/d, a factor of 64: 2 in ε, 4 in the bias
ROUND = Gaussian(D, condition=1.0)  # what preconditioning aims at


@pytest.fixture(scope="module")
def unadjusted():
    def run(desired):
        kernel = MCLMC(
            potential_fn=ROUND.potential_fn, desired_energy_var=desired, diagonal_preconditioning=False, num_steps=3
        )
        return sample(kernel, ROUND, warmup=200, draws=300, chains=1024, collect=lambda s: s.energy_change)

    return {desired: run(desired) for desired in (LARGE, SMALL)}


def excess(run):
    """Relative error of the variance, averaged over the coordinates, for each chain."""
    return ((run.draws - ROUND.mean) ** 2).mean((1, 2)) - 1


@pytest.mark.slow
@pytest.mark.parametrize("desired", [LARGE, SMALL])
def test_the_step_size_meets_the_energy_variance_asked_for(unadjusted, desired):
    """To 10 %: the predictor remembers 150 steps."""
    assert np.var(unadjusted[desired].collected) / D == pytest.approx(desired, rel=0.1)


@pytest.mark.slow
def test_the_bias_of_the_variance_is_as_the_cube_root_of_the_energy_variance(unadjusted):
    """Step sizes are as 2 to 1, biases as 4 to 1 (5 standard errors: 6e-7), and both are resolved."""
    steps = [np.median(unadjusted[desired].state.adapt_state.step_size) for desired in (LARGE, SMALL)]
    assert steps[0] / steps[1] == pytest.approx(2, rel=0.05)
    large, small = excess(unadjusted[LARGE]), excess(unadjusted[SMALL])
    error = np.hypot(scipy.stats.sem(large), 4 * scipy.stats.sem(small))
    assert abs(large.mean() - 4 * small.mean()) < 5 * error
    assert abs(large.mean() - 2 * small.mean()) > 5 * np.hypot(scipy.stats.sem(large), 2 * scipy.stats.sem(small))
    assert -0.03 < large.mean() < 0


@pytest.mark.slow
def test_without_preconditioning_the_length_is_the_radius_of_the_posterior(unadjusted):
    length = unadjusted[SMALL].state.adapt_state.L
    assert np.median(length) == pytest.approx(np.sqrt(D), rel=0.1)
    assert np.all(unadjusted[SMALL].state.adapt_state.inverse_mass_matrix == 1)


def test_a_step_out_of_the_support_is_undone_and_reported():
    """A gamma density, whose energy is NaN for negative z, and steps of its own size."""
    kernel = MCLMC(potential_fn=lambda z: jnp.sum(z - jnp.log(z)), step_size=4.0, L=4.0, adapt=False, num_steps=1)
    run = sample(
        kernel,
        _Support,
        warmup=0,
        draws=200,
        chains=16,
        spread=0.0,
        collect=lambda s: (s.diverging, s.potential_energy),
    )
    assert np.all(run.draws > 0) and np.all(np.isfinite(run.collected[1]))
    assert 0.01 < run.collected[0].mean() < 0.9
    stayed = np.all(run.draws[:, 1:] == run.draws[:, :-1], axis=-1)
    assert np.array_equal(stayed, run.collected[0][:, 1:])


class _Support:
    mean, covariance = 2 * np.ones(3), np.eye(3)


# --- in NumPyro -------------------------------------------------------------------------------------------------------


@EVERY_KERNEL
def test_microcanonical_kernels_run_in_mcmc_sequential_or_vectorized_and_again(factory):
    contract.check_chains(factory)


@EVERY_KERNEL
def test_microcanonical_kernels_follow_the_protocol_of_composite_kernels(factory):
    contract.check_protocol(factory)


@EVERY_KERNEL
def test_tuning_is_restored_within_warm_up_goes_on_with_the_same_bits_and_stops(factory):
    states = contract.check_restored(factory)
    for before, after in zip(*(jax.tree.leaves(state.adapt_state) for state in states[3:]), strict=True):
        assert np.array_equal(before, after)
    assert np.any(states[0].adapt_state.inverse_mass_matrix != states[3].adapt_state.inverse_mass_matrix)


class _Wide:
    """TARGET, a thousand times as wide."""

    mean, covariance = 1e3 * TARGET.mean, 1e6 * TARGET.covariance


@EVERY_KERNEL
def test_microcanonical_kernels_keep_float32_and_find_a_scale_far_from_one(factory):
    with jax.enable_x64(False):
        kernel = factory(None, lambda z: TARGET.potential_fn(z / 1e3))
        run = sample(kernel, _Wide, warmup=400, draws=100, chains=64, dtype=jnp.float32)
    floats = [x.dtype for x in jax.tree.leaves(run.state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert set(floats) == {np.dtype("float32")}
    ratio = run.draws.astype(float).var((0, 1)) / np.diag(_Wide.covariance)
    assert np.all(np.abs(ratio - 1) < 0.25)


@EVERY_KERNEL
def test_one_dimension_is_refused(factory):
    with pytest.raises(ValueError, match=r"MCLMC: the position has dimension 1; .* at least 2"):
        factory(None, lambda z: z**2).init(jax.random.key(0), 10, jnp.zeros(()))


@pytest.mark.parametrize(
    ("Kernel", "arguments", "message"),
    [
        (MCLMC, {"desired_energy_var": 0.0}, "MCLMC: desired_energy_var is 0.0: give a positive number"),
        (MCLMC, {"num_steps": 0}, "MCLMC: num_steps is 0: give a positive integer"),
        (MCLMC, {"L": -1.0}, "MCLMC: L is -1.0: give a positive number"),
        (AdjustedMCLMC, {"step_size": -1.0}, "AdjustedMCLMC: step_size is -1.0: give a positive number"),
        (AdjustedMCLMC, {"target_accept_prob": 1.5}, "AdjustedMCLMC: target_accept_prob is 1.5: give a number"),
        (AdjustedMCLMC, {"max_steps": 0}, "AdjustedMCLMC: max_steps is 0: give a positive integer"),
    ],
)
def test_microcanonical_kernels_name_the_argument_that_is_out_of_range(Kernel, arguments, message):
    with pytest.raises(ValueError, match=message):
        Kernel(potential_fn=TARGET.potential_fn, **arguments)
