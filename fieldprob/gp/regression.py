"""Posterior of the outputs given their covariance and noisy observations: mean, (co)variance, evidence, leave-one-out.

With S = K + noise, resolvent S^-1 and normalised discrepancy delta = S^-1 y (Rasmussen & Williams 2006, eqs. 2.23,
2.24, 2.30, 5.12): mean K_* delta, covariance K_** - K_* S^-1 K_*^T, log evidence -1/2 y^T delta - 1/2 log det S
- P/2 log 2 pi, leave-one-out residual delta_i / (S^-1)_ii and variance 1 / (S^-1)_ii.

Nothing is added to S unless `jitter` says so; a system that cannot be solved is an error that says why.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from fieldprob.gp.checks import check_covariance, check_finite, check_noise


class Posterior(NamedTuple):
    """Result of `condition`. One row per query point, outputs share the covariance.

    Attributes:
        mean, variance, covariance: of the noiseless outputs at the queries.
        log_evidence: log density of all targets.
        leave_one_out: y_i minus its prediction from all other targets.
        leave_one_out_variance: variance of that prediction, noise of y_i included.
        normalised_discrepancy: delta = S^-1 y.
        jitter: the variance that was added to every noise variance.
    """

    mean: Float[Array, "queries outputs"]
    variance: Float[Array, " queries"]
    covariance: Float[Array, "queries queries"] | None
    log_evidence: Float[Array, ""]
    leave_one_out: Float[Array, "points outputs"]
    normalised_discrepancy: Float[Array, "points outputs"]
    leave_one_out_variance: Float[Array, " points"]
    jitter: Float[Array, ""] | float

    @property
    def leave_one_out_log_density(self) -> Float[Array, ""]:
        """Sum of log p(y_i | all other targets) (Rasmussen & Williams 2006, eqs. 5.10-5.11)."""
        v = self.leave_one_out_variance[:, None]
        return -0.5 * jnp.sum(self.leave_one_out**2 / v + jnp.log(2 * jnp.pi * v))


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
    *,
    jitter=0.0,
) -> Posterior:
    """Condition outputs ~ N(0, K) on y = f + noise and predict at query points (which may include the data's).

    Args:
        K: prior covariance of the noiseless outputs at the data.
        noise_variance: effective noise; scalar, (points,) or (points, points).
        y: observations, outputs independent with the same covariance.
        K_cross: prior covariance between queries and data.
        K_query: prior covariance of the queries, or their prior variances alone: then `covariance` is None.
        jitter: variance added to the diagonal of the noise, for singular K without noise; reported in the result.

    Raises:
        ValueError: shapes that do not fit; entries that are NaN or infinite; a covariance or noise that is not
            symmetric and positive semidefinite; K_cross and K_query that cannot belong to this K, so that a posterior
            variance is negative; K + noise so nearly singular that it cannot be solved. Traced values are not checked;
            there the result is NaN or inaccurate.

    >>> import jax.numpy as jnp
    >>> one = jnp.ones((1, 1))
    >>> post = condition(one, 1.0, 2 * one, one, one)
    >>> round(post.mean.item(), 6), round(post.variance.item(), 6)
    (1.0, 0.5)
    """
    K, y, K_cross, K_query = (_floats(x) for x in (K, y, K_cross, K_query))
    _check_arguments(K, noise_variance, y, K_cross, K_query, jitter)
    S = add_noise(K, noise_variance)
    S = S + jitter * jnp.eye(S.shape[-1], dtype=S.dtype)
    # not the recursion of `marginal`, which is faster but loses the square of the condition number
    factor = jax.scipy.linalg.cho_factor(S, lower=True)
    resolvent = jax.scipy.linalg.cho_solve(factor, jnp.eye(len(S), dtype=S.dtype))
    log_det = 2.0 * jnp.sum(jnp.log(jnp.diagonal(factor[0])))
    delta = jax.scipy.linalg.cho_solve(factor, y)
    _check_solved(K, S, resolvent, noise_variance)
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
    _check_variance(variance, K_query)
    variance = jnp.maximum(variance, 0.0)  # rounding may leave it just below
    return Posterior(
        mean=K_cross @ delta,
        variance=variance,
        covariance=covariance,
        log_evidence=log_evidence,
        leave_one_out=delta / jnp.diagonal(resolvent)[:, None],
        normalised_discrepancy=delta,
        leave_one_out_variance=1.0 / jnp.diagonal(resolvent),
        jitter=jitter,
    )


def solver_tolerance(dtype) -> float:
    """The relative residual, and the negative variance in units of the prior's, from which a system counts as unsolved.

    >>> solver_tolerance(jnp.float64)
    1e-06
    """
    return 1e-6 if dtype == jnp.float64 else 1e-2


def _floats(array) -> Array:
    array = jnp.asarray(array)
    return array.astype(jnp.result_type(array, float))


def _check_arguments(K, noise_variance, y, K_cross, K_query, jitter) -> None:
    P, queries = len(K), len(K_cross)
    for name, array, fits, shape in (
        ("K", K, K.shape == (P, P), "(points, points)"),
        ("y", y, y.ndim == 2 and len(y) == P, "(points, outputs), y[:, None] for one output"),
        ("K_cross", K_cross, K_cross.shape == (queries, P), "(queries, points)"),
        ("K_query", K_query, K_query.shape in ((queries,), (queries, queries)), "(queries, queries) or (queries,)"),
    ):
        if not fits:
            raise ValueError(f"{name} has shape {array.shape}, but K has {P} points: give {shape}.")
        check_finite(name, array)
    check_covariance("K", K)
    if K_query.ndim == 2:
        check_covariance("K_query", K_query)
    check_noise(jnp.asarray(noise_variance), P)
    if not isinstance(jitter, Tracer) and not 0 <= jitter < np.inf:
        raise ValueError(f"jitter is {jitter!r}: give zero or a small positive variance.")


def _check_variance(variance, K_query) -> None:
    """Raise if a posterior variance is negative beyond what the solver leaves."""
    if isinstance(variance, Tracer):
        return
    prior = np.abs(np.diagonal(K_query) if K_query.ndim == 2 else K_query).max(initial=0.0)
    if (smallest := np.min(variance, initial=0.0)) < -solver_tolerance(variance.dtype) * prior:
        raise ValueError(
            f"the posterior variance falls to {smallest:.3g}, where that of the prior is at most {prior:.3g}: K_cross "
            "and K_query are no covariances of outputs with covariance K. Take all three from one kernel."
        )


def _check_solved(K, S, resolvent, noise_variance) -> None:
    """Raise unless S times its inverse is one, on a vector that has all modes, to the tolerance of the solver."""
    if any(isinstance(x, Tracer) for x in (S, resolvent)):
        return
    probe = np.cos(np.arange(1.0, len(S) + 1) ** 2)
    residual = np.max(np.abs(np.asarray(S) @ (np.asarray(resolvent) @ probe) - probe))
    if residual < solver_tolerance(S.dtype):
        return
    largest, noise = np.linalg.eigvalsh(np.asarray(K, float))[-1], np.asarray(noise_variance)
    smallest = np.linalg.eigvalsh(noise)[0] if noise.ndim == 2 else noise.min()
    raise ValueError(
        f"noise_variance is too small ({smallest:.3g} at its smallest): the covariance of the data is singular in "
        f"{resolvent.dtype} (relative residual {residual:.1g}), as with coincident points or fewer features than "
        f"points. Use a larger noise_variance, remove coincident points, or pass jitter={1e-10 * largest:.1g}."
    )
