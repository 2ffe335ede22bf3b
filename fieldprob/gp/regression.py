"""Posterior of the outputs given their covariance and noisy observations: mean, (co)variance, evidence, leave-one-out.

With S = K + noise, resolvent S^-1 and normalised discrepancy delta = S^-1 y (Rasmussen & Williams 2006, eqs. 2.23,
2.24, 2.30, 5.12): mean K_* delta, covariance K_** - K_* S^-1 K_*^T, log evidence -1/2 y^T delta - 1/2 log det S
- P/2 log 2 pi, leave-one-out residual delta_i / (S^-1)_ii.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from fieldprob.gp.marginal import inverse_and_log_determinant


class Posterior(NamedTuple):
    """Result of `condition`. One row per query point, outputs share the covariance."""

    mean: Float[Array, "queries outputs"]
    variance: Float[Array, " queries"]
    covariance: Float[Array, "queries queries"] | None
    log_evidence: Float[Array, ""]
    leave_one_out: Float[Array, "points outputs"]
    normalised_discrepancy: Float[Array, "points outputs"]


def add_noise(K: Float[Array, "points points"], noise_variance) -> Float[Array, "points points"]:
    """K plus the noise covariance; noise scalar, (points,) or (points, points)."""
    noise = jnp.asarray(noise_variance, K.dtype)
    return K + (noise if noise.ndim == 2 else noise * jnp.eye(K.shape[-1], dtype=K.dtype))


def condition(
    K: Float[Array, "points points"],
    noise_variance,
    y: Float[Array, "points outputs"],
    K_cross: Float[Array, "queries points"],
    K_query: Float[Array, "queries queries"] | Float[Array, " queries"],
) -> Posterior:
    """Condition outputs ~ N(0, K) on y = f + noise and predict at query points (which may include the data's).

    Args:
        K: prior covariance of the noiseless outputs at the data.
        noise_variance: effective noise; scalar, (points,) or (points, points).
        y: observations, outputs independent with the same covariance.
        K_cross: prior covariance between queries and data.
        K_query: prior covariance of the queries, or their prior variances alone: then `covariance` is None.

    >>> import jax.numpy as jnp
    >>> one = jnp.ones((1, 1))
    >>> post = condition(one, 1.0, 2 * one, one, one)
    >>> round(post.mean.item(), 6), round(post.variance.item(), 6)
    (1.0, 0.5)
    """
    S = add_noise(K, noise_variance)
    resolvent, log_det = inverse_and_log_determinant(S)
    delta = resolvent @ y
    points, outputs = y.shape
    log_evidence = -0.5 * (jnp.sum(y * delta) + outputs * (log_det + points * jnp.log(2 * jnp.pi)))
    gain = K_cross @ resolvent
    covariance = None
    if K_query.ndim == 2:
        covariance = K_query - gain @ K_cross.T
        covariance = 0.5 * (covariance + covariance.T)
        variance = jnp.diagonal(covariance)
    else:
        variance = K_query - jnp.sum(gain * K_cross, axis=-1)
    variance = jnp.maximum(variance, 0.0)  # rounding may leave it just below
    return Posterior(
        mean=K_cross @ delta,
        variance=variance,
        covariance=covariance,
        log_evidence=log_evidence,
        leave_one_out=delta / jnp.diagonal(resolvent)[:, None],
        normalised_discrepancy=delta,
    )
