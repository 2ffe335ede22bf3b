"""The exact posterior at up to three points against the linear network's integral, its own identities and sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gammaln

import fieldprob as fp
from fieldprob.theory import exact_small, limit

# 02 E5
X, Y = np.array([[1.2, -0.3], [0.4, 1.1]]), np.array([0.9, -0.6])
PAIR = fp.Task(X, Y, 0.3)


def network(N, activation, scaling="standard", **scales):
    return fp.Mlp(N, 1, activation, **({"weight_variance": 2.0, "readout_variance": 1.5} | scales), scaling=scaling)


def linear_posterior(K, y, points, N, G, noise):
    """02 (7)-(14) by quadrature in ln Q: mean, covariance, mean of kernel_1 and evidence over all points of K."""
    z = np.linspace(np.log(G) - 50, np.log(G) + 8, 20_001)
    Q = np.exp(z)
    lam, U = np.linalg.eigh(K[:points, :points])
    rotated, cross, den = U.T @ y, K[:, :points] @ U, noise + Q[:, None] * lam
    log_w = -N / 2 * (Q / G - np.log(Q / G)) - 0.5 * np.log(den).sum(1) - 0.5 * (rotated**2 / den).sum(1)
    w = np.exp(log_w - log_w.max()) * (z[1] - z[0])
    log_evidence = (
        np.log(w.sum()) + log_w.max() + N / 2 * np.log(N / 2) - gammaln(N / 2) - points / 2 * np.log(2 * np.pi)
    )
    w /= w.sum()

    def second(weights):
        gain = cross @ np.diag((weights * Q**2) @ (1 / den)) @ cross.T
        t = (Q[:, None] * rotated / den) @ cross.T
        return weights @ Q * K - gain + (weights[:, None] * t).T @ t

    mean = w @ ((Q[:, None] * rotated / den) @ cross.T)
    kernel = G * ((1 - 1 / N) * K + second(w / Q) / N)
    return mean, second(w) - np.outer(mean, mean), kernel, log_evidence


@pytest.mark.parametrize("scaling", ["standard", "mean-field"])
@pytest.mark.parametrize(
    ("N", "accuracy"),
    [
        pytest.param(1, 1e-3, marks=[pytest.mark.slow, pytest.mark.long]),
        (8, 1e-9),
        pytest.param(32, 1e-10, marks=[pytest.mark.slow, pytest.mark.long]),
        (128, 1e-10),
    ],
)
def test_linear_network_at_every_width(N, accuracy, scaling):
    """02 quotes 5e-13 at N = 128, 4e-9 at N = 32 and 2e-5 at N = 8; the spacing as sinh covers the tails of small N."""
    net = network(N, "linear", scaling)
    theory = exact_small(net, PAIR, nodes=49)
    mean, covariance, kernel, log_evidence = linear_posterior(X @ X.T, Y, 2, N, 1.5 / net.chi, 0.3 / net.chi)
    np.testing.assert_allclose(theory.mean["f"][:, 0], mean, atol=accuracy)
    np.testing.assert_allclose(theory.covariance["f"], covariance, atol=accuracy)
    np.testing.assert_allclose(net.chi * theory.mean["kernel_1"], net.chi * kernel, atol=accuracy)
    np.testing.assert_allclose(theory.log_evidence, log_evidence, atol=max(accuracy, 1e-10))
    assert np.all(np.abs(theory.mean["f"][:, 0] - mean) < 10 * theory.error["f"][:, 0] + 1e-12)


@pytest.mark.slow
def test_three_points_and_a_test_point():
    points = np.concatenate([X, [[-0.5, 0.8], [0.3, 0.3]]])
    task = fp.Task(points[:3], np.array([0.9, -0.6, 0.2]), 0.3, points[3:])
    theory = exact_small(network(32, "linear"), task, nodes=25)
    y = np.asarray(task.y[:, 0])
    mean, covariance, kernel, log_evidence = linear_posterior(points @ points.T, y, 3, 32, 1.5, 0.3)
    np.testing.assert_allclose(theory.mean["f"][:, 0], mean[:3], atol=3e-6)
    np.testing.assert_allclose(theory.mean["f_test"][:, 0], mean[3:], atol=3e-6)
    np.testing.assert_allclose(theory.variance["f_test"][:, 0], covariance[3, 3], atol=3e-6)
    np.testing.assert_allclose(theory.mean["kernel_1"], kernel, atol=3e-6)
    np.testing.assert_allclose(theory.log_evidence, log_evidence, atol=3e-6)


@pytest.mark.slow
@pytest.mark.long
def test_the_limit_is_as_far_as_the_table_of_02_says():
    """02 section 3.7, columns 'Delta: NNGP' and 'prior': errors of the infinite-width limit, to their digits."""
    printed = {
        ("erf", "standard", 16): (3.5e-2, 2.6e-2),
        ("erf", "standard", 128): (4.5e-3, 3.1e-3),
        ("erf", "mean-field", 16): (2.3e-1, 2.7e-1),
        ("erf", "mean-field", 128): (2.5e-1, 2.6e-1),
        ("relu", "standard", 128): (2.7e-2, 9.1e-3),
        ("relu", "mean-field", 16): (4.5e-1, 3.7e-1),
    }
    for (activation, scaling, N), (discrepancy, kernel) in printed.items():
        net = network(N, activation, scaling)
        exact, base = exact_small(net, PAIR, nodes=49), limit(net, PAIR)
        delta, delta_limit = (PAIR.y - theory.mean["f"] for theory in (exact, base))
        for found, expected in (
            (np.linalg.norm(delta_limit - delta) / np.linalg.norm(delta), discrepancy),
            (
                np.linalg.norm(base.mean["kernel_1"] - exact.mean["kernel_1"]) / np.linalg.norm(exact.mean["kernel_1"]),
                kernel,
            ),
        ):
            assert f"{found:.1e}" == f"{expected:.1e}", (activation, scaling, N)


@pytest.mark.slow
@pytest.mark.long
def test_moments_are_derivatives_of_the_evidence():
    """02 (35): <y - f> = -noise grad ln p, Cov f = noise + noise Hess ln p noise, by central differences."""
    net = network(12, "square", weight_variance=0.7)

    def log_evidence(shift):
        return float(exact_small(net, PAIR.replace(y=Y + shift), nodes=49).log_evidence)

    theory, step, e = exact_small(net, PAIR, nodes=49), 1e-3, np.eye(2)
    gradient = [(log_evidence(step * v) - log_evidence(-step * v)) / (2 * step) for v in e]
    np.testing.assert_allclose(Y - theory.mean["f"][:, 0], -0.3 * np.array(gradient), atol=1e-6)
    mixed = sum(s * t * log_evidence(step * (s * e[0] + t * e[1])) for s in (1, -1) for t in (1, -1)) / (4 * step**2)
    np.testing.assert_allclose(theory.covariance["f"][0, 1], 0.3**2 * mixed, atol=1e-5)


@pytest.mark.slow
@pytest.mark.long
def test_a_kink_and_a_bias_against_importance_sampling():
    """One point and one test point of three inputs; 6 standard errors of 13 numbers."""
    rng = np.random.default_rng(3)
    task = fp.Task(rng.normal(size=(1, 3)), [1.2], 0.2, rng.normal(size=(1, 3)), [0.4])
    net = network(6, "relu", bias_variance=(0.3, 0.0))
    exact = exact_small(net, task)
    found = fp.infer.Importance.sample(net, task, key=jax.random.key(0), draws=40_000)
    for name, value in exact.mean.items():
        if not name.startswith("alignment"):
            sampled = found.posterior.mean[name]
            assert np.all(np.abs(sampled.value - value) < 6 * sampled.error + 1e-12), name
    for name in ("f", "f_test"):
        sampled = found.posterior.variance[name]
        assert np.all(np.abs(sampled.value - exact.variance[name]) < 6 * sampled.error), name
    assert abs(found.log_evidence.value - exact.log_evidence) < 6 * found.log_evidence.error
    assert float(exact.error["f_test"].max()) < 1e-7


@pytest.mark.slow
@pytest.mark.long
def test_symmetries():
    """Rotated inputs leave everything; y, readout and noise scaled together leave the hidden kernel (02 section 6)."""
    net, angle = network(10, "erf"), 0.7
    R = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    theory = exact_small(net, PAIR, nodes=49)
    rotated = exact_small(net, PAIR.replace(X=X @ R), nodes=49)
    np.testing.assert_allclose(rotated.mean["f"], theory.mean["f"], atol=1e-10)
    np.testing.assert_allclose(rotated.log_evidence, theory.log_evidence, atol=1e-10)
    scaled = exact_small(network(10, "erf", readout_variance=6.0), fp.Task(X, 2 * Y, 1.2), nodes=49)
    np.testing.assert_allclose(scaled.mean["kernel_1"] / 4, theory.mean["kernel_1"], atol=1e-10)


@pytest.mark.parametrize(
    ("net", "task", "message"),
    [
        (fp.Mlp(8), fp.Task(np.eye(4)[:, :2], np.ones(4), 0.3), "4 points.*at most three"),
        (fp.Mlp(8), fp.Task(np.eye(3), np.ones(3), 0.3), "depend on 3 numbers.*Take two inputs"),
        (fp.Mlp(8, bias_variance=(0.1, 0.0)), fp.Task(np.eye(3)[:, :2], np.ones(3), 0.3), "depend on 3 numbers"),
        (fp.Mlp(8, activation="random_phase_cosine"), PAIR, "random phases"),
        (fp.Mlp(8, depth=2), PAIR, "is for depth 1"),
    ],
)
def test_what_is_beyond_it_is_refused(net, task, message):
    with pytest.raises(ValueError, match=message):
        exact_small(net, task)


def test_too_few_nodes_are_refused():
    with pytest.raises(ValueError, match="nodes=3: give at least 9"):
        exact_small(fp.Mlp(8), PAIR, nodes=3)


@pytest.mark.slow
@pytest.mark.long
def test_it_can_be_jitted():
    net = network(12, "erf")
    compiled = jax.jit(lambda y: exact_small(net, fp.Task(X, y, 0.3), nodes=49).mean["f"])
    np.testing.assert_allclose(compiled(jnp.asarray(Y)), exact_small(net, PAIR, nodes=49).mean["f"], rtol=1e-10)
