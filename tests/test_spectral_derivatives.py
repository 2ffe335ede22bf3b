"""Theories in the eigenbasis of a kernel: derivatives where eigenvalues coincide, and null spaces at small noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fieldprob as fp
from fieldprob.gp import modes

Y = np.array([0.5, -1.0, 0.7, 0.2])
INPUTS = {
    "orthogonal": 2 * np.eye(4),
    "equicorrelated": np.ones((4, 4)) + np.eye(4),
    "two points twice": np.array([[1.0, 0.3], [1.0, 0.3], [-0.4, 0.8], [-0.4, 0.8]]),
}


@pytest.mark.slow
@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("theory", [fp.theory.exact_linear, fp.theory.rescaling, fp.theory.adaptation])
def test_derivatives_where_eigenvalues_coincide(theory, inputs):
    """By weight variance, bias variance and the noise of each point, which splits them, against central differences."""

    def numbers(x):
        net = fp.Mlp(30, 1, "linear", x[0], [x[1], 0.0], 1.4)
        prediction = theory(net, fp.Task(INPUTS[inputs], Y, x[2:]))
        f = jnp.concatenate([prediction.mean["f"][:, 0], jnp.diagonal(prediction.covariance["f"])])
        return f if theory is fp.theory.adaptation else jnp.append(f, prediction.log_evidence)

    x, h = jnp.array([1.3, 0.2, 0.3, 0.3, 0.3, 0.3]), 1e-4
    differences = [(numbers(x + h * e) - numbers(x - h * e)) / (2 * h) for e in jnp.eye(6)]
    np.testing.assert_allclose(jax.jit(jax.jacrev(numbers))(x), np.stack(differences, axis=1), rtol=1e-5, atol=2e-6)


def test_derivatives_of_a_likelihood_in_any_direction():
    K = jnp.diag(jnp.array([2.0, 2.0, 1.0, 1.0]))
    V = np.random.default_rng(0).normal(size=(4, 4))

    def log_likelihood(t):
        return modes(K + t * jnp.asarray(V + V.T), jnp.asarray(0.3), jnp.asarray(Y)).log_likelihood(jnp.asarray(1.2))

    def dense(t):
        S = 1.2 * (np.asarray(K) + t * (V + V.T)) + 0.3 * np.eye(4)
        return -0.5 * (Y @ np.linalg.solve(S, Y) + np.linalg.slogdet(2 * np.pi * S)[1])

    expected = (dense(1e-5) - dense(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(log_likelihood)(0.0), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(log_likelihood, (0.0,), (1.0,))[1], expected, rtol=1e-6)


@pytest.mark.parametrize(("width", "noise"), [(1, 1e-8), (10, 1e-6)])
def test_a_null_space_at_small_noise(width, noise):
    """Five points of two inputs: the readout's norm by the singular values of the inputs, of exact rank."""
    random = np.random.default_rng(3)
    X, y = random.normal(size=(5, 2)), random.normal(size=5)
    U, singular, _ = np.linalg.svd(X, full_matrices=False)
    K, seen, noises = 1.3 * singular**2 / 2, U.T @ y, noise * np.ones(2)
    Q = np.exp(np.linspace(-14, 6, 20_001))
    variance = Q[:, None] * K + noises
    log_weight = width / 2 * (np.log(Q) - Q / 0.7) - 0.5 * np.sum(np.log(variance) + seen**2 / variance, axis=1)
    weight = np.exp(log_weight - log_weight.max())
    found = fp.theory.exact_linear(fp.Mlp(width, 1, "linear", 1.3, 0.0, 0.7), fp.Task(X, y, noise))
    np.testing.assert_allclose(found.mean["readout_norm"], weight @ Q / weight.sum(), rtol=1e-6)
