"""A linear readout integrated out: the evidence of Gaussian coefficients, given what data or a population say of them.

For z ~ N(0, I) and a likelihood exp(b . z - z . A z / 2), A symmetric and positive semidefinite,

    ln E_z[...] = -ln det(1 + A) / 2 + b . (1 + A)^-1 b / 2,      posterior of z: N((1 + A)^-1 b, (1 + A)^-1).

Features F of a data set have A = F^T F / noise and b = F^T y / noise; those of a population of `n` effective points
A = n E[F F^T] and b = n E[F target] (theory 04, (2.5), (2.8)).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fieldprob.gp.marginal import inverse_and_log_determinant


class Coefficients(NamedTuple):
    """The posterior of the coefficients."""

    mean: Float[Array, " features"]
    covariance: Float[Array, "features features"]


def coefficients(A: Float[Array, "features features"], b: Float[Array, " features"]) -> Coefficients:
    """The posterior of the coefficients.

    >>> found = coefficients(jnp.array([[3.0]]), jnp.array([2.0]))
    >>> found.mean.tolist(), found.covariance.tolist()
    ([0.5], [[0.25]])
    """
    inverse, _ = inverse_and_log_determinant(A + jnp.eye(len(b), dtype=A.dtype))
    return Coefficients(inverse @ b, inverse)


@jax.custom_vjp
def log_evidence(A: Float[Array, "features features"], b: Float[Array, " features"]) -> Float[Array, ""]:
    """The logarithm of the evidence. Differentiable in reverse mode only, with a gradient written by hand.

    >>> round(float(log_evidence(jnp.array([[3.0]]), jnp.array([2.0]))), 6)      # -ln(4) / 2 + 1/2
    -0.193147
    """
    return _forward(A, b)[0]


def _forward(A, b):
    inverse, log_det = inverse_and_log_determinant(A + jnp.eye(len(b), dtype=A.dtype))
    mean = inverse @ b
    return (b @ mean - log_det) / 2, (inverse, mean)


def _backward(residuals, cotangent):
    inverse, mean = residuals
    return -cotangent / 2 * (inverse + jnp.outer(mean, mean)), cotangent * mean


log_evidence.defvjp(_forward, _backward)
