"""The replicated action, averaged over a Poisson number of data with mean eta (theory 05, (5) and (6)).

M copies of the outputs f_m with target y and prior variances lambda_k have, over data sets, the weight exp(-S),

    S = sum over m, k of f_mk^2 / 2 lambda_k - eta { E_x exp[-sum over m of (f_m(x) - y(x))^2 / 2 k2] - 1 },

and where the features are independent Gaussians, E_x exp[...] = det(1 + C/k2)^-1/2, C_mn = (f_m - y).(f_n - y).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from fieldprob.theory.learning_curves.setting import check_positive


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: Float[Array, ""]
    error: Float[Array, ""]


def poisson_action(
    f: Float[Array, "replicas modes"],
    target: Float[Array, " modes"],
    eigenvalues: Float[Array, " modes"],
    noise_variance: Any,
    points: Any,
    features: Float[Array, "nodes modes"],
    weights: Float[Array, " nodes"],
) -> Float[Array, ""]:
    """S of M outputs (5), for any features, given at nodes of their measure.

    Args:
        f: coefficients of each copy.
        target: y_k. eigenvalues: prior variances, positive. noise_variance: k2.
        points: eta, the mean number of data.
        features, weights: the eigenfunctions at nodes of the measure, and their weights.

    >>> poisson_action(jnp.ones((1, 1)), jnp.ones(1), jnp.ones(1), 1.0, 5.0, jnp.ones((1, 1)), jnp.ones(1)).item()
    0.5
    """
    squares = jnp.sum((features @ (f - target).T) ** 2, axis=1)
    average = weights @ jnp.expm1(-squares / (2 * noise_variance))
    return 0.5 * jnp.sum(f**2 / eigenvalues) - points * average


def determinant_action(
    f: Float[Array, "replicas modes"],
    target: Float[Array, " modes"],
    eigenvalues: Float[Array, " modes"],
    noise_variance: Any,
    points: Any,
) -> Float[Array, ""]:
    """S of M outputs for independent Gaussian features (6); arguments as `poisson_action`.

    >>> determinant_action(jnp.ones((1, 1)), jnp.zeros(1), jnp.ones(1), 1.0, 2.0).round(12)      # 1/2 - 2 (2^-1/2 - 1)
    Array(1.08578644, dtype=float64)
    """
    return 0.5 * jnp.sum(f**2 / eigenvalues) - points * _exponent(f, target, noise_variance)


def replicated_partition_function(
    target: Float[Array, " modes"],
    eigenvalues: Float[Array, " modes"],
    noise_variance: Any,
    points: Any,
    replicas: int,
    *,
    draws: int = 100_000,
    key: Array,
) -> Estimate:
    """The average of Z^M over data sets, Z = E_prior exp(-sum (f - y)^2 / 2 k2), for Gaussian features.

    An average of exp(eta [det^-1/2 - 1]) over `draws` of the prior; the weights lie between exp(-eta) and 1, so that
    its relative error is at most exp(eta) / sqrt(draws).

    Raises ValueError for a noise that is not positive, points below zero, no replicas, or fewer than two draws.

    >>> one, key = jnp.ones(1), jax.random.key(0)
    >>> value, error = replicated_partition_function(one, one, 1.0, 0.0, 2, draws=9, key=key)
    >>> value.item(), error.item()
    (1.0, 0.0)
    """
    check_positive("noise_variance", jnp.asarray(noise_variance, jnp.result_type(float)))
    if not isinstance(points, Tracer) and not 0 <= points < float("inf"):
        raise ValueError(f"points = {points}: give the mean number of data, finite, zero or positive.")
    if replicas < 1 or draws < 2:
        raise ValueError(f"replicas = {replicas}, draws = {draws}: give one replica and two draws at least.")
    f = jax.random.normal(key, (draws, replicas, eigenvalues.size)) * jnp.sqrt(eigenvalues)
    weights = jnp.exp(points * jax.vmap(lambda f: _exponent(f, target, noise_variance))(f))
    return Estimate(jnp.mean(weights), jnp.std(weights, ddof=1) / jnp.sqrt(draws))


def _exponent(f, target, noise_variance):
    """det(1 + C/k2)^-1/2 - 1."""
    difference = f - target
    inner = jnp.eye(f.shape[0]) + difference @ difference.T / noise_variance
    return jnp.expm1(-0.5 * jnp.linalg.slogdet(inner)[1])
