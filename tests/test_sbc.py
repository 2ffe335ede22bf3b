"""Simulation-based calibration of model, sampler and ranks (Talts, Betancourt, Simpson, Vehtari & Gelman 2018).

For parameters from the prior and data given them, the rank of a statistic of the true parameters among independent
posterior draws is uniform. Many data sets run side by side, each in its own chain, in one compilation. The ranks are
spread uniformly within their steps, so that they are exactly uniform on (0, 1) if all is right, and go into
Kolmogorov–Smirnov tests, exact at this size: of u, which sees bias, and of |2u − 1|, which sees a posterior that is too
narrow or too wide. Each p-value must be above 1e-7: fewer than 30 in this file, false alarm below 3e-6.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from blackjax.mcmc import mala
from numpyro.infer import NUTS, init_to_sample

from fieldprob.infer.samplers import microcanonical
from fieldprob.infer.samplers.langevin import MALA
from fieldprob.infer.samplers.microcanonical import AdjustedMCLMC
from tests import bnn

DATA_SETS, DRAWS = 300, 15
SMALLEST_P = 1e-7

# (kernel, warm-up, transitions between draws): nearly independent draws, which is asserted
KERNELS = {
    "NUTS": (partial(NUTS, max_tree_depth=4, init_strategy=init_to_sample), 150, 2),
    "MALA": (partial(MALA, step_size=0.05, num_steps=20, init_strategy=init_to_sample), 60, 5),
    "AdjustedMCLMC": (partial(AdjustedMCLMC, init_strategy=init_to_sample), 150, 3),
}


def measured(z, y):
    """What is ranked: an output, a kernel entry, and the log likelihood, which depends on the data as well."""
    s = bnn.statistics(z, y)
    return {"f_test": s["f_test"][0, 0], "kernel": s["kernel_1"][0, 1], "log_likelihood": s["log_likelihood"]}


@cache
def simulate(data_sets, simulated_noise, seed):
    """Data sets (data_sets, points, 1), and what the parameters that they come from have for each statistic."""
    key_z, key_y = jax.random.split(jax.random.key(seed))
    z, _ = bnn.batch(bnn.prior, key_z, data_sets)
    y = bnn.batch(partial(bnn.data, noise_variance=simulated_noise), key_y, data_sets, z)
    return y, jax.tree.map(np.asarray, jax.jit(jax.vmap(measured))(z, y))


def calibrate(kernel, warmup, thinning, data_sets=DATA_SETS, draws=DRAWS, simulated_noise=bnn.NOISE, seed=0):
    """{statistic: (ranks spread over (0, 1), correlation of successive draws)} and the mean acceptance."""
    y, truth = simulate(data_sets, simulated_noise, seed)

    def chain(key, y):
        state = kernel.init(key, warmup, None, (y,), {})

        def transition(state, _):
            return kernel.sample(state, (y,), {}), None

        def draw(state, _):
            state, _ = jax.lax.scan(transition, state, length=thinning)
            return state, (measured(state.z, y), state.accept_prob)

        state, _ = jax.lax.scan(transition, state, length=warmup)
        return jax.lax.scan(draw, state, length=draws)[1]

    values, accepted = bnn.batch(chain, jax.random.key(seed + 1000), data_sets, y)
    rng = np.random.default_rng(seed)
    result = {}
    for name, x in values.items():
        x = np.asarray(x)
        rank = (x < truth[name][:, None]).sum(1)
        centred = x - x.mean(1, keepdims=True)
        # of the deviations from the mean of so few draws it is −1/draws for independent ones
        correlation = (centred[:, 1:] * centred[:, :-1]).mean() / (centred**2).mean() + 1 / draws
        result[name] = (rank + rng.uniform(size=data_sets)) / (draws + 1), correlation
    return result, float(np.mean(accepted))


def p_values(u):
    """Exact Kolmogorov–Smirnov p-values of u and of |2u − 1| against the uniform law."""
    return [float(scipy.stats.kstest(x, "uniform", method="exact").pvalue) for x in (u, np.abs(2 * u - 1))]


def smallest(result):
    return min(p for u, _ in result.values() for p in p_values(u))


@pytest.mark.parametrize(
    "name", [pytest.param(k, marks=pytest.mark.slow) if k in ("MALA", "NUTS", "AdjustedMCLMC") else k for k in KERNELS]
)
def test_ranks_of_outputs_kernel_and_likelihood_are_uniform(name):
    kernel, warmup, thinning = KERNELS[name]
    result, accepted = calibrate(kernel(bnn.model), warmup, thinning)
    report = {k: (*(f"{p:.2g}" for p in p_values(u)), f"correlation {c:.2f}") for k, (u, c) in result.items()}
    print(name, report, f"acceptance {accepted:.2f}")
    assert smallest(result) > SMALLEST_P, report
    assert max(c for _, c in result.values()) < 0.25, report
    assert 0.4 < accepted < 0.98


# --- what is caught ---------------------------------------------------------------------------------------------------


def accepts_always(key, log_ratio, old, new):
    return new, (jnp.ones((), bool), jnp.ones(()), None)


def energies_alone(transition_energy):
    return lambda old, new, step_size: new.logdensity - old.logdensity


DEFECTS = {
    "MALA accepts always": (MALA, mala.proposal, "static_binomial_sampling", accepts_always),
    "MALA forgets the reverse proposal": (
        MALA,
        mala.proposal,
        "compute_asymmetric_acceptance_ratio",
        energies_alone,
    ),
    "AdjustedMCLMC accepts always": (
        AdjustedMCLMC,
        microcanonical,
        "adjusted_mclmc_proposal",
        partial(microcanonical.adjusted_mclmc_proposal, sample_proposal=accepts_always),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "defect",
    [d if d.startswith("Adjusted") else pytest.param(d, marks=(pytest.mark.slow, pytest.mark.long)) for d in DEFECTS],
)
def test_a_broken_acceptance_rule_makes_the_ranks_uneven(defect, monkeypatch):
    """At a fixed step that a right rule would reject too often."""
    Kernel, module, attribute, broken = DEFECTS[defect]
    monkeypatch.setattr(module, attribute, broken)
    if Kernel is MALA:
        kernel = MALA(bnn.model, step_size=0.2, num_steps=20, adapt_step_size=False, init_strategy=init_to_sample)
    else:
        kernel = AdjustedMCLMC(bnn.model, step_size=3.5, L=7.0, adapt=False, init_strategy=init_to_sample)
    result, _ = calibrate(kernel, 40, 6)
    print(defect, {k: p_values(u) for k, (u, _) in result.items()})
    assert smallest(result) < 0.01 * SMALLEST_P


@pytest.mark.slow
def test_a_wrong_noise_variance_makes_the_ranks_uneven():
    kernel, warmup, thinning = KERNELS["MALA"]
    result, _ = calibrate(kernel(bnn.model), warmup, thinning, simulated_noise=2 * bnn.NOISE)
    print("noise", {k: p_values(u) for k, (u, _) in result.items()})
    assert smallest(result) < 0.01 * SMALLEST_P


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", KERNELS)
def test_ranks_are_uniform_over_ten_times_as_many_data_sets(name):
    kernel, warmup, thinning = KERNELS[name]
    result, _ = calibrate(kernel(bnn.model), 2 * warmup, 3 * thinning, data_sets=10 * DATA_SETS, seed=1)
    assert smallest(result) > SMALLEST_P
    assert max(c for _, c in result.values()) < 0.1
