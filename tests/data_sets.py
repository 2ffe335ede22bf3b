"""Kernel regression on many random data sets at once: the brute force behind the tests of learning curves.

Regression in the space of M features phi (P, M), prior coefficients ~ N(0, diag(eigenvalues)):
A = phi' phi / ridge + diag(1 / eigenvalues), mean coefficients A^-1 phi' y / ridge, posterior covariance A^-1.
Nothing is shared with the package.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Average(NamedTuple):
    mean: np.ndarray
    error: np.ndarray  # standard error over data sets


def gaussian(key, P, modes):
    return jax.random.normal(key, (P, modes))


def cosine(key, P, modes):
    x = jax.random.uniform(key, (P, 1))
    return jnp.sqrt(2.0) * jnp.cos(jnp.pi * jnp.arange(1, modes + 1) * x)


def circle(key, P, modes):
    """cos 1, sin 1, cos 2, sin 2, ...: modes is even."""
    angle = jnp.arange(1, modes // 2 + 1) * jax.random.uniform(key, (P, 1), maxval=2 * jnp.pi)
    return jnp.sqrt(2.0) * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1).reshape(P, modes)


def regression(features, eigenvalues, y, P, ridge, label_noise, sets, *, seed=0, poisson=False, batch=200):
    """Averages over data sets of everything that a learning curve predicts, each an `Average`."""
    eigenvalues, y = jnp.asarray(eigenvalues), jnp.asarray(y)
    modes = eigenvalues.shape[0]
    most = int(P + 8 * np.sqrt(P) + 10) if poisson else P

    def one(key):
        keys = jax.random.split(key, 3)
        phi = features(keys[0], most, modes)
        noisy = phi @ y + jnp.sqrt(label_noise) * jax.random.normal(keys[1], (most,))
        count = jax.random.poisson(keys[2], P) if poisson else P
        present = jnp.arange(most) < count
        phi, noisy = jnp.where(present[:, None], phi, 0.0), jnp.where(present, noisy, 0.0)
        if modes > most:
            S = (phi * eigenvalues) @ phi.T + ridge * jnp.eye(most)
            resolvent = jnp.linalg.inv(S)
            f = eigenvalues * (phi.T @ (resolvent @ noisy))
            variance = eigenvalues - eigenvalues**2 * jnp.einsum("im,ij,jm->m", phi, resolvent, phi)
            trace = jnp.trace(resolvent)
        else:
            covariance = jnp.linalg.inv(phi.T @ phi / ridge + jnp.diag(1 / eigenvalues))
            f = covariance @ (phi.T @ noisy) / ridge
            variance = jnp.diagonal(covariance)
            trace = (most - jnp.einsum("im,mn,in->", phi, covariance, phi) / ridge) / ridge
        return {
            "predictor": f,
            "posterior_variance": jnp.sum(variance),
            "mode_variance": variance,
            "test_error": jnp.sum((f - y) ** 2),
            "train_error": jnp.sum((noisy - phi @ f) ** 2) / jnp.maximum(count, 1),
            "resolvent": trace / P,
        }

    keys = jax.random.split(jax.random.key(seed), (sets // batch, batch))
    draws = jax.jit(lambda keys: jax.lax.map(jax.vmap(one), keys))(keys)
    draws = {name: np.asarray(value).reshape(-1, *value.shape[2:]) for name, value in draws.items()}
    result = {name: _average(value) for name, value in draws.items()}
    f = draws["predictor"] - draws["predictor"].mean(axis=0)
    result["predictor_variance"] = _average(f**2)
    if modes <= 20:
        result["predictor_covariance"] = _average(f[:, :, None] * f[:, None, :])
    return result


def _average(values):
    return Average(values.mean(axis=0), values.std(axis=0) / np.sqrt(len(values)))
