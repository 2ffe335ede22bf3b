"""Renormalisation against random data sets in plain NumPy, and the studies that show it.

Thresholds are five standard errors (6e-7 a comparison, less than 1e-5 in each test), plus a bound on the systematic
error of the theory where it is not exact.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from fieldprob import studyfile
from fieldprob.kernels import Spectrum
from fieldprob.tasks import Population
from fieldprob.theory import renormalisation
from fieldprob.theory.learning_curves import effective_ridge

EIGENVALUES = np.arange(1.0, 601) ** -2.0
SPECTRUM = Spectrum(EIGENVALUES)


def study(name):
    return studyfile.find(name).load()


def posterior(phi, eigenvalues, ridge, y):
    """Means and variances of coefficients, by the resolvent of the data."""
    a = phi * eigenvalues
    resolvent = np.linalg.inv(a @ phi.T + ridge * np.eye(len(phi)))
    return a.T @ (resolvent @ y), eigenvalues - np.einsum("ik,ij,jk->k", a, resolvent, a)


def assert_mean(samples, expected, systematic: Any = 0.0):
    error = np.std(samples, axis=0, ddof=1) / np.sqrt(len(samples))
    np.testing.assert_array_less(np.abs(np.mean(samples, axis=0) - expected), 5 * error + systematic)


# --- uniform ridges ---------------------------------------------------------------------------------------------------


def test_the_matched_ridge_keeps_variances_where_the_leading_one_does_not():
    """Table of 05 section 3.5 at cutoff 20: ratios .655, 1.184, .978, .9988, on 20 data sets; systematic .003."""
    rng, noise, cutoff = np.random.default_rng(0), 0.05, 20
    ridges = [
        float(renormalisation.uniform_ridge(SPECTRUM, 100, noise, ridge)[cutoff])
        for ridge in ("bare", "leading", "closed", "matched")
    ]
    ratios = []
    for _ in range(20):
        phi = rng.normal(size=(100, 600))
        whole = posterior(phi, EIGENVALUES, noise, phi[:, 0])[1][:cutoff].sum()
        kept = [posterior(phi[:, :cutoff], EIGENVALUES[:cutoff], s, phi[:, 0])[1].sum() for s in ridges]
        ratios.append(np.array(kept) / whole)
    assert_mean(np.array(ratios)[:, 3], 1.0, 0.003)
    assert_mean(ratios, [0.655, 1.184, 0.978, 0.9988], 0.003)


def test_the_closed_ridge_is_the_trace_of_the_resolvent_of_the_shell():
    """1/s = average of tr (k2 + K_>)^-1 / P; where the contraction is 0.013, to 2e-4."""
    rng, cutoff = np.random.default_rng(1), 80
    traces = []
    for _ in range(40):
        phi = rng.normal(size=(100, 600 - cutoff))
        traces.append(np.trace(np.linalg.inv((phi * EIGENVALUES[cutoff:]) @ phi.T + 0.05 * np.eye(100))) / 100)
    s = float(renormalisation.closed_ridge(SPECTRUM, 100, 0.05, cutoff))
    assert_mean(traces, 1 / s, 2e-4 / s)


@pytest.mark.slow
def test_log_determinant_and_leave_one_out_variance():
    """(28) needs its correction of order one; the mean leave-one-out variance is the effective ridge to 1 %."""
    rng, P, noise = np.random.default_rng(2), 60, 0.05
    spectrum = Spectrum(EIGENVALUES[:300])
    found, left_out = [], []
    for _ in range(300):
        phi = rng.normal(size=(P, 300))
        S = (phi * EIGENVALUES[:300]) @ phi.T + noise * np.eye(P)
        found.append(np.linalg.slogdet(S)[1])
        left_out.append(np.mean(1 / np.diagonal(np.linalg.inv(S))))
    corrected, plain = (float(renormalisation.log_determinant(spectrum, P, noise, corrected=c)) for c in (True, False))
    error = np.std(found) / np.sqrt(300)
    assert abs(np.mean(found) - corrected) < 5 * error + 0.03
    assert abs(np.mean(found) - corrected) < abs(np.mean(found) - plain)
    r = float(effective_ridge(spectrum, P, noise))
    assert_mean(left_out, r, 0.01 * r)


@pytest.mark.slow
def test_the_learning_curve_of_kept_modes_with_the_leading_ridge():
    """(25): kept modes learn labels in which the others are noise; to 3 %."""
    rng, P, noise, cutoff = np.random.default_rng(3), 50, 0.05, 15
    eigenvalues = EIGENVALUES[:200]
    y = np.sqrt(eigenvalues) * np.where(np.arange(200) % 2, 1, -1)
    spectrum = Spectrum(eigenvalues, coefficients=y)
    ridge = float(renormalisation.leading_ridge(spectrum, noise)[cutoff])
    errors = []
    for _ in range(400):
        phi = rng.normal(size=(P, 200))
        labels = phi @ y + np.sqrt(0.02) * rng.normal(size=P)
        mean = posterior(phi[:, :cutoff], eigenvalues[:cutoff], ridge, labels)[0]
        errors.append(np.sum((mean - y[:cutoff]) ** 2) + np.sum(y[cutoff:] ** 2))
    curve = renormalisation.learning_curve(spectrum, Population(P, noise, 0.02), cutoff=cutoff, ridge="leading")
    expected = float(curve.mean["test_error"][0])
    assert_mean(errors, expected, 0.03 * expected)


# --- input-dependent ridges -------------------------------------------------------------------------------------------


def test_a_random_ridge_acts_by_its_harmonic_mean():
    """(23), log-normal ridges: learnabilities to .003; the arithmetic mean is off by .2."""
    rng, P = np.random.default_rng(4), 150
    spectrum, modes = Spectrum(EIGENVALUES[:40]), np.array([0, 4, 14, 39])
    learned = []
    for _ in range(60):
        phi, s = rng.normal(size=(P, 40)), 0.1 * np.exp(1.5 * rng.normal(size=P))
        a = phi * EIGENVALUES[:40]
        resolvent = np.linalg.inv(a @ phi.T + np.diag(s))
        learned.append(np.einsum("ik,ij,jk->k", a, resolvent, phi)[modes])
    nodes = np.exp(1.5 * np.polynomial.hermite_e.hermegauss(60)[0])
    weights = np.polynomial.hermite_e.hermegauss(60)[1] / np.sqrt(2 * np.pi)
    r = float(renormalisation.harmonic_ridge(spectrum, P, 0.1 * nodes, weights))
    assert_mean(learned, P * EIGENVALUES[modes] / (r + P * EIGENVALUES[modes]), 0.003)
    mean = float(effective_ridge(spectrum, P, 0.1 * np.exp(1.5**2 / 2)))
    assert abs(P * EIGENVALUES[39] / (mean + P * EIGENVALUES[39]) - np.mean(learned, axis=0)[3]) > 0.2


def test_heavy_tails_need_an_input_dependent_ridge():
    """A scale mixture, 30 of 200 modes kept: variances of the kept modes, and the evidence of E8, on five data sets.

    Averages of five scatter by .047, .032 and .005 about 1.498, .723 and .047 (relative errors of the variances), the
    heavy-tailed nats lie between 12 and 190, and 0.2 and 3.3, in forty groups: the limits are further off than 6 sigma
    (2e-9), or, for the nats, than twice all that was seen. The seed is fixed.
    """
    rng, noise, P, cutoff = np.random.default_rng(5), 0.01, 100, 30
    eigenvalues = jnp.asarray(EIGENVALUES[:200])
    spectrum = Spectrum(eigenvalues, eigenfunctions=lambda X: X)
    miss, nats = [], []
    for _ in range(5):
        X = rng.normal(size=(P, 200))
        X[:, cutoff:] *= np.exp(1.2 * rng.normal(size=(P, 1)) - 1.2**2)
        y = X @ (np.sqrt(EIGENVALUES[:200]) * rng.normal(size=200)) + 0.1 * rng.normal(size=P)
        cut = renormalisation.split(spectrum, jnp.asarray(X), cutoff)
        kept = {
            ridge: renormalisation.kept_posterior(
                cut.eigenvalues, cut.kept, cut.noise(noise, ridge), jnp.asarray(y)[:, None]
            )
            for ridge in ("exact", "leading", "matched", "first-cumulant")
        }
        exact = kept.pop("exact")
        miss.append([float(jnp.mean(jnp.abs(k.variance / exact.variance - 1))) for k in kept.values()])
        nats.append([float(exact.log_evidence - k.log_evidence) for k in kept.values()])
    leading, matched, first_cumulant = np.mean(miss, axis=0)
    assert first_cumulant < 0.08 and matched > 0.5 and leading > 1.2
    assert np.mean(nats, axis=0)[:2].min() > 6 and abs(np.mean(nats, axis=0)[2]) < 6.6


@pytest.mark.slow
def test_kept_modes_mix_as_printed():
    """05 E5: (21) with (22) within 2 % of every coefficient above .2, 300 data sets; the uniform ridge is far off."""
    result = study("mode_mixing")(datasets=300).run(progress=False)
    samples = result.samples["posterior"]["mean_coefficient"].values
    predicted = {p.theory: np.asarray(p.mean["mean_coefficient"]) for p in result.predictions}
    ours = predicted["input-dependent ridge"]
    assert_mean(samples, ours, np.where(np.abs(ours) > 0.2, 0.02 * np.abs(ours), 0.01))
    error = samples.std(axis=0) / np.sqrt(300)
    assert np.all(np.abs(samples.mean(axis=0) - predicted["uniform ridge"])[:3] > 10 * error[:3])


@pytest.mark.slow
@pytest.mark.long
def test_replicated_partition_functions():
    """05 E2: .3518, .2006, .1500 from the determinant, and random data sets agree."""
    result = study("replicas")(datasets=20_000, draws=50_000).run(progress=False)
    (theory,) = result.predictions
    value, error = (np.asarray(x["partition_function"]) for x in (theory.mean, theory.error))
    np.testing.assert_array_less(np.abs(value - [0.3518, 0.2006, 0.1500]), 5 * np.hypot(error, 1e-4))
    samples = result.samples["posterior"]["partition_function"].values
    combined = np.hypot(error, samples.std(axis=0) / np.sqrt(len(samples)))
    np.testing.assert_array_less(np.abs(samples.mean(axis=0) - value), 5 * combined)


# --- experiments, run by hand -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("ridge", ["exact", "first-cumulant", "leading"])
def test_sampled_kept_modes(ridge):
    """05 E3: every sampler agrees with its own closed form; the exact and the heteroscedastic model with the whole
    process, the uniform one does not."""
    result = study("renormalised_gp")(ridge=ridge, draws=1500, warmup=700).run(progress=False)
    own = "exact" if ridge == "exact" else f"{ridge} ridge"
    assert result.comparison.verdicts[own] == "agrees"
    sampled = result.samples["posterior"]["mode_coefficient"].var(("chain", "draw")).values
    exact = next(p for p in result.predictions if p.theory == "exact").variance["mode_coefficient"]
    off = np.mean(np.abs(sampled / exact - 1))
    assert off > 0.3 if ridge == "leading" else off < 0.08


@pytest.mark.slow
@pytest.mark.long
def test_the_whole_table_of_cutoffs():
    """05 E4: the matched ridge within .003 at every cutoff; the leading one's error falls with the cutoff."""
    result = study("renormalisation")().run(progress=False)
    ratio = result.samples["posterior"]["variance_ratio"].mean("dataset")
    np.testing.assert_allclose(ratio.sel(ridge="matched"), 1.0, atol=0.003)
    assert np.all(np.diff(ratio.sel(ridge="leading").values) < 0)
    printed = {"bare": [0.577, 0.655, 0.788, 0.902, 0.959, 0.985], "leading": [1.593, 1.184, 1.038, 1.006, 1.0007, 1.0]}
    for ridge, expected in printed.items():
        np.testing.assert_allclose(ratio.sel(ridge=ridge), expected, atol=0.015)


@pytest.mark.slow
@pytest.mark.long
def test_digits_row():
    """05 section 3.6, last row of the table: mean |variance ratio - 1|, .18 bare, .012, .009, .008, .007 for (21)."""
    result = study("renormalisation")(
        features="digits", points=150, cutoffs=(150,), datasets=30
    ).run(progress=False)  # fmt: skip
    miss = result.samples["posterior"]["variance_miss"].mean("dataset").isel(cutoff=0)
    ridges = ["bare", "leading", "matched", "first-cumulant", "input-dependent"]
    np.testing.assert_allclose(miss.sel(ridge=ridges), [0.18, 0.012, 0.009, 0.008, 0.007], rtol=0.1, atol=1e-3)
