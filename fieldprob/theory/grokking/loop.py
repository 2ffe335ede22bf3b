"""Finite width: the first loop about the mean-field solution, for a population.

The evidence of a data set is, to leading order, exp(-D) det(H)^(-1/2) over all functions of the inputs, with H the
Hessian of -D (04 (3.30)). Those along the teacher are kept in full; the d - 1 linear functions orthogonal to it share
one eigenvalue, and all others are so many, each so small, that only their trace counts (04 (3.32)-(3.33)):

    ln det H = ln det H_teacher + (d - 1) ln(kappa + lambda_linear) + lambda_rest / kappa + constant.

The mean residual is a derivative of the log evidence with respect to the targets (04 (3.31)), which shifts T by
H^-1 grad ln det H / 2. The law of one neuron is its exact conditional given all others, taken at their mean (04
(3.34)).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from fieldprob.theory.grokking.dual import Dual, Tilted, tilted


class Rest(NamedTuple):
    """What a neuron has in the functions that are not along the teacher, given its measure: `linear` squares of its
    overlaps with the d - 1 other linear functions, `rest` with all others."""

    linear: Float[Array, " neurons"]
    rest: Float[Array, " neurons"]
    linear_modes: int


class Spectrum(NamedTuple):
    """The Hessian of -D: along the teacher, its eigenvalue kappa + `linear` for each other linear function, and the
    trace `rest` of what it adds to kappa for all others."""

    teacher: Float[Array, "degrees degrees"]
    linear: Float[Array, ""]
    rest: Float[Array, ""]


def spectrum(field: Float[Array, " degrees"], at: Tilted, dual: Dual, others: Rest) -> Spectrum:
    """The Hessian at a field (04 (3.18), (3.33))."""
    curvature = dual.gamma * dual.width * at.probability * (1 + dual.gamma * (field @ dual.overlap) ** 2)
    return Spectrum(at.hessian, curvature @ others.linear / others.linear_modes, curvature @ others.rest)


def log_determinant(kappa, H: Spectrum, others: Rest) -> Float[Array, ""]:
    """ln det(H / kappa) over all functions."""
    along = jnp.linalg.slogdet(H.teacher / kappa)[1]
    return along + others.linear_modes * jnp.log1p(H.linear / kappa) + H.rest / kappa


def posterior_variance(kappa, H: Spectrum, others: Rest) -> Float[Array, ""]:
    """The posterior variance of the output, averaged over inputs: tr(kappa - kappa² H^-1), leading order."""
    along = jnp.trace(kappa * jnp.eye(len(H.teacher)) - kappa**2 * jnp.linalg.inv(H.teacher))
    return along + others.linear_modes * kappa * H.linear / (kappa + H.linear) + H.rest


def shifted(field: Float[Array, " degrees"], kappa, dual: Dual, others: Rest) -> Float[Array, " degrees"]:
    """The mean field to one loop, T + H^-1 grad ln det H / 2 (04 (3.32))."""

    def half_log_determinant(T):
        return log_determinant(kappa, spectrum(T, tilted(T, kappa, dual), dual, others), others) / 2

    return field + jnp.linalg.solve(tilted(field, kappa, dual).hessian, jax.grad(half_log_determinant)(field))


def conditional(
    field: Float[Array, " degrees"], mean_field: Float[Array, " degrees"], kappa: Any, dual: Dual, others: Rest
) -> Float[Array, " neurons"]:
    """Probabilities of one neuron given all others (04 (3.34)).

    Args:
        field: the saddle of the others, of which `dual` has the number.
        mean_field: the same with its loop.
    """
    H = spectrum(field, tilted(field, kappa, dual), dual, others)
    h = dual.overlap
    own = jnp.sum(h * jnp.linalg.solve(H.teacher, h), axis=0)
    g = dual.gamma * (own + others.linear / (kappa + H.linear) + others.rest / kappa)
    exponent = dual.log_prior + dual.gamma * (mean_field @ h) ** 2 / (2 * (1 + g)) - jnp.log1p(g) / 2
    return jax.nn.softmax(exponent)
