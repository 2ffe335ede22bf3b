"""The infinite-width limit: exact identities of Gaussian-process regression with a network's kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import fieldprob as fp

RNG = np.random.default_rng(3)
TASK = fp.Task(RNG.normal(size=(7, 4)), RNG.normal(size=(7, 2)), 0.3, RNG.normal(size=(3, 4)), RNG.normal(size=(3, 2)))


def test_reference_numbers_of_a_deep_network_by_hand():
    """Two hidden layers of erf written out with NumPy and scipy, no shared code."""
    net = fp.Mlp(9, 2, "erf", weight_variance=(1.3, 0.8), bias_variance=(0.1, 0.2, 0.05), readout_variance=1.1)
    X = np.concatenate([TASK.X, TASK.X_test])
    K = 0.1 + 1.3 * X @ X.T / 4
    for weight, bias in ((0.8, 0.2), (1.1, 0.05)):
        q = 1 + 2 * np.diag(K)
        K = bias + weight * 2 / np.pi * np.arcsin(2 * K / np.sqrt(np.outer(q, q)))
    S = K[:7, :7] + 0.3 * np.eye(7)
    theory = fp.theory.limit(net, TASK)
    np.testing.assert_allclose(theory.mean["kernel_2"], K, rtol=1e-12)
    np.testing.assert_allclose(theory.mean["f_test"], K[7:, :7] @ np.linalg.solve(S, TASK.y), rtol=1e-10)
    covariance = K[7:, 7:] - K[7:, :7] @ np.linalg.solve(S, K[:7, 7:])
    np.testing.assert_allclose(theory.covariance["f_test"], covariance, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(theory.variance["f_test"][:, 1], np.diag(covariance), rtol=1e-9)
    evidence = sum(multivariate_normal(np.zeros(7), S).logpdf(np.asarray(TASK.y[:, c])) for c in range(2))
    assert np.isclose(theory.log_evidence, evidence, rtol=1e-12)


def test_leave_one_out_residual_is_that_of_leaving_one_out():
    net = fp.Mlp(9, 1, "relu")
    residuals = fp.theory.limit(net, TASK).mean["leave_one_out"]
    for i in range(7):
        keep = np.arange(7) != i
        left = fp.Task(TASK.X[keep], TASK.y[keep], 0.3, TASK.X[i : i + 1])
        np.testing.assert_allclose(residuals[i], TASK.y[i] - fp.theory.limit(net, left).mean["f_test"][0], rtol=1e-9)


def test_large_noise_leaves_linear_response():
    """noise -> infinity: f -> K y / noise."""
    net = fp.Mlp(9, 1, "erf")
    theory = fp.theory.limit(net, TASK.replace(noise_variance=1e7))
    np.testing.assert_allclose(theory.mean["f_test"] * 1e7, net.limit(TASK.X_test, TASK.X) @ TASK.y, rtol=1e-5)


def test_one_point_is_a_scalar_formula():
    net = fp.Mlp(9, 1, "gelu")
    one = fp.Task(TASK.X[:1], TASK.y[:1, 0], 0.3, TASK.X_test)
    k, cross = net.limit(one.X)[0, 0], net.limit(TASK.X_test, one.X)[:, 0]
    np.testing.assert_allclose(
        fp.theory.limit(net, one).mean["f_test"][:, 0], cross * one.y[0, 0] / (k + 0.3), rtol=1e-12
    )


def test_expected_losses_are_those_of_posterior_draws():
    """4e5 exact draws of f, threshold 6 standard errors."""
    theory = fp.theory.limit(fp.Mlp(9, 1, "erf"), TASK)
    root = np.linalg.cholesky(theory.covariance["f_test"] + 1e-12 * np.eye(3))
    f = theory.mean["f_test"] + root @ np.asarray(jax.random.normal(jax.random.key(0), (400_000, 3, 2)))
    loss = np.mean((np.asarray(TASK.y_test) - f) ** 2, axis=(1, 2))
    assert abs(loss.mean() - theory.mean["test_loss"]) < 6 * loss.std() / np.sqrt(len(loss))


def test_evidence_integrates_to_one_over_data():
    """Normalisation over y by a grid, P = 1: a density over data, whatever the noise and chi."""
    net = fp.Mlp(9, 1, "erf", scaling="mean-field")
    y = np.linspace(-3, 3, 4001)
    density = [np.exp(fp.theory.limit(net, fp.Task(TASK.X[:1], [v], 0.3)).log_evidence) for v in y[::40]]
    assert np.isclose(np.trapezoid(density, y[::40]), 1.0, rtol=1e-6)


def test_float32_is_refused():
    with jax.enable_x64(False):
        task = fp.Task(np.ones((2, 1)), [0.0, 1.0], 0.1)
        with pytest.raises(ValueError, match="needs float64, but JAX is in float32"):
            fp.theory.limit(fp.Mlp(4), task)
    with pytest.raises(ValueError, match="task holds float32"):
        fp.theory.limit(fp.Mlp(4), task)


def test_predictions_without_test_points_have_none():
    theory = fp.theory.limit(fp.Mlp(4), fp.Task(TASK.X, TASK.y, 0.3))
    assert "f_test" not in theory.mean and "test_loss" not in theory.mean
    assert jnp.ndim(theory.log_evidence) == 0


def test_a_smooth_kernel_with_little_noise_is_conditioned_accurately():
    """200 points and noise 1e-6 under a squared exponential: condition number 1e8, against extended precision."""
    x = np.linspace(0, 3, 200)
    K, y = jnp.exp(-((x[:, None] - x) ** 2) / 2), jnp.sin(2 * x)[:, None]
    posterior = fp.gp.condition(K, 1e-6, y, K, K)
    eigenvalues, vectors = np.linalg.eigh(K)
    filtered = eigenvalues / (eigenvalues + 1e-6)
    np.testing.assert_allclose(posterior.mean, vectors @ (filtered[:, None] * (vectors.T @ y)), atol=1e-7)
    np.testing.assert_allclose(posterior.variance, (vectors**2) @ (1e-6 * filtered), atol=1e-8)
