"""Sampled networks of finite width against the kernels, tangent kernels and depth scales of infinite width."""

from typing import Any

import numpy as np
import pytest

from fieldprob import kernels
from tests import finite_networks

X = np.random.default_rng(0).normal(size=(3, 5))
DEPTH, WEIGHT, BIAS = 3, 1.7, 0.2
UPPER = np.triu_indices(3)


def _limits(phi):
    layers: dict[str, Any] = {"weight_variance": [WEIGHT] * (DEPTH + 1), "bias_variance": [BIAS] * (DEPTH + 1)}
    both = kernels.nngp_and_ntk(X, activations=[phi] * DEPTH, every_layer=False, **layers)
    return [np.asarray(k[0]) for k in both]


def _miss(phi, width, nets, seed, dtype: Any = np.float64):
    """(mean - limit) / scale of the upper triangles and its standard error, rows nngp and ntk."""
    rng, batch = np.random.default_rng(seed), max(1, min(nets, 2**25 // width**2))
    parts = [
        finite_networks.kernels(rng, X.astype(dtype), width, DEPTH, phi, WEIGHT, BIAS, batch)
        for _ in range(-(-nets // batch))
    ]
    rows = []
    for index, limit in enumerate(_limits(phi)):
        sampled = np.concatenate([p[index] for p in parts]).astype(float)
        scale = np.sqrt(np.outer(np.diag(limit), np.diag(limit)))[UPPER]
        miss = (sampled - limit)[:, UPPER[0], UPPER[1]] / scale
        rows.append((miss.mean(0), miss.std(0) / np.sqrt(len(miss))))
    return np.array(rows).swapaxes(0, 1)


def test_the_bias_of_narrow_networks_is_depth_over_width():
    """erf, three hidden layers, widths 8, 16 and 32: mean kernel and mean empirical tangent kernel minus their limits
    are A (L / N)^p, A for each of six entries and both kernels. The bias of the narrowest is resolved (6 standard
    errors), p is fitted together: 1 within five of its standard errors, and A (L / N) then leaves no residue (each of
    36 numbers within 6 standard errors, false alarm below 1e-6), with |A| < 0.1."""
    widths = np.array([8, 16, 32])
    misses = [_miss("erf", N, nets, seed=int(N)) for N, nets in zip(widths, (60_000, 50_000, 16_000), strict=True)]
    values, errors = (np.stack([m[i] for m in misses]).reshape(3, 12) for i in (0, 1))
    resolved = np.abs(values[0] / errors[0])
    assert resolved[:6].max() > 6 and resolved[6:].max() > 6

    def fit(power):
        shape = (DEPTH / widths)[:, None] ** power / errors
        slopes = np.sum(shape * values / errors, 0) / np.sum(shape**2, 0)
        return slopes, values / errors - slopes * shape

    powers = np.linspace(0.2, 2.5, 231)
    misfit = np.array([np.sum(fit(p)[1] ** 2) for p in powers])
    best = misfit.argmin()
    curvature = (misfit[best + 5] - 2 * misfit[best] + misfit[best - 5]) / 0.05**2
    error = np.sqrt(2 / curvature)
    assert error < 0.15 and abs(powers[best] - 1) < 5 * error
    slopes, residues = fit(1.0)
    assert np.all(np.abs(residues) < 6) and np.all(np.abs(slopes) < 0.1)


@pytest.mark.parametrize("phi", ["erf", "relu", "gelu"])
def test_networks_of_width_100_have_the_kernels_of_the_limit_up_to_their_bias(phi):
    """1000 networks: each entry within 0.15 L / N + 6 standard errors; errors are 2 per cent at most."""
    miss, error = _miss(phi, 100, 1000, seed=1)
    assert np.all(np.abs(miss) < 0.15 * DEPTH / 100 + 6 * error)
    assert np.all(error < 0.02)


@pytest.mark.slow
@pytest.mark.parametrize("phi", list(finite_networks.PHI))
@pytest.mark.long
def test_wide_networks_of_every_activation_have_the_kernels_of_the_limit(phi):
    """200 networks of width 1024 in single precision: within 0.3 L / N + 6 standard errors."""
    miss, error = _miss(phi, 1024, 200, seed=2, dtype=np.float32)
    assert np.all(np.abs(miss) < 0.3 * DEPTH / 1024 + 6 * error)
    assert np.all(error < 0.03)


@pytest.mark.slow
def test_distances_shrink_in_the_ordered_phase_at_the_rate_of_the_correlation_depth():
    """erf at bias variance 0.05: two inputs at 1 - c = 1e-4, fifty layers. The rate of log(1 - c) is
    1/xi_c + A / N + B / N^2 with widths 50 to 400: the fitted limit within 5 standard errors, A resolved."""
    widths, nets = np.array([50, 100, 200, 400]), 1000
    small = (1 / widths)[:, None] ** np.array([0, 1, 2])
    for w in (1.0, 1.2):
        at = kernels.criticality("erf", w, 0.05)
        rates, errors = np.empty(4), np.empty(4)
        for i, width in enumerate(widths):
            rng = np.random.default_rng(i)
            c = finite_networks.correlations(rng, width, 50, "erf", w, 0.05, float(at.variance), 1 - 1e-4, nets)
            rate = -np.log((1 - c[:, -1]) / (1 - c[:, 0])) / 50
            rates[i], errors[i] = rate.mean(), rate.std() / np.sqrt(nets)
        design = small / errors[:, None]
        covariance = np.linalg.inv(design.T @ design)
        limit, slope, _ = covariance @ design.T @ (rates / errors)
        assert abs(limit - 1 / at.correlation_depth) < 5 * np.sqrt(covariance[0, 0])
        assert np.sqrt(covariance[0, 0]) < 0.05 / at.correlation_depth
        assert slope > 0 and abs(rates[0] - limit) > 10 * errors[0]  # finite width shortens the depth scale


def test_correlations_decay_to_their_fixed_point_in_the_chaotic_phase():
    """Width 1000, two starts at c* +- 0.02 with common random numbers: their difference decays at 1/xi_c, within 6
    standard errors and 1/N a layer; and 1000 networks end at c* within 1 per cent."""
    for w, b in ((2.0, 0.1), (3.0, 0.05)):
        at = kernels.criticality("erf", w, b)
        q, c = float(at.variance), float(at.correlation)
        up, down = (
            finite_networks.correlations(np.random.default_rng(2), 1000, 8, "erf", w, b, q, c + shift, 1000)
            for shift in (0.02, -0.02)
        )
        gap = (up - down)[:, [0, 8]]
        rate = -np.log(gap[:, 1].mean() / gap[:, 0].mean()) / 8
        error = gap[:, 1].std() / np.sqrt(1000) / gap[:, 1].mean() / 8
        assert abs(rate - 1 / at.correlation_depth) < 6 * error + 1e-3
        assert error < 0.01 / at.correlation_depth * 10
        assert abs(up[:, -1].mean() + down[:, -1].mean() - 2 * c) < 0.02 * c


@pytest.mark.slow
@pytest.mark.long
def test_correlation_through_depth_of_networks_with_all_their_weights():
    """erf, width 1000, fifty layers, sweep of the weight variance at bias variance 0.05: the mean correlation of
    sixteen networks follows the map of infinite width to 6 standard errors and depth / N."""
    rng, width = np.random.default_rng(5), 1000
    phi = finite_networks.PHI["erf"][0]
    inputs = np.array([[1.0, 0.0], [0.6, 0.8]]) * np.sqrt(2)
    for w in (0.8, 1.2, 1.6, 2.4):
        layers: dict[str, Any] = {"weight_variance": [w] * 51, "bias_variance": [0.05] * 51}
        exact = kernels.nngp(inputs, activations=["erf"] * 50, **layers)
        limit = [k[0, 1] / np.sqrt(k[0, 0] * k[1, 1]) for k in exact]
        paths = []
        for _ in range(16):
            h = np.sqrt(w / 2) * rng.normal(size=(width, 2)) @ inputs.T + np.sqrt(0.05) * rng.normal(size=(width, 1))
            path = []
            for _ in range(50):
                weights = rng.normal(size=(width, width)).astype(np.float32)
                h = np.sqrt(w / width) * (weights @ phi(h).astype(np.float32)) + np.sqrt(0.05) * rng.normal(
                    size=(width, 1)
                )
                second = h.T @ h
                path.append(second[0, 1] / np.sqrt(second[0, 0] * second[1, 1]))
            paths.append(path)
        mean, error = np.mean(paths, 0), np.std(paths, 0, ddof=1) / 4
        assert np.all(np.abs(mean - limit[1:]) < 6 * error + np.arange(1, 51) / width)
