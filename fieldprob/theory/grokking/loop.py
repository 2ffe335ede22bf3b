"""Finite width: the first loop about the mean-field solution, for a population.

The evidence of a data set is, to leading order, exp(-D) det(H)^(-1/2) over all functions of the inputs, with H the
Hessian of -D (04 (3.30)). Those along the teacher are kept in full. So are functions p_k'(z) x_e that are linear in one
of the d - 1 other directions, for each of which there is the same matrix H_across: that of degree one alone is 04's
(3.32)-(3.33), but specialised neurons have so much of the higher ones, z x_e for relu, that their eigenvalues exceed
kappa. All others are so many, each so small, that only their trace counts:

    ln det H = ln det H_teacher + (d - 1) ln det H_across + lambda_rest / kappa + constant.

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
    """What a neuron has in the functions that are not along the teacher: `across` as in `overlaps.Features`, in
    `directions` d - 1 of them together, and the squares `rest` of its overlaps with all others."""

    across: Float[Array, "degrees neurons"]
    rest: Float[Array, " neurons"]
    directions: int


class Spectrum(NamedTuple):
    """The Hessian of -D: along the teacher, for each direction `across` it, and the trace `rest` of what it adds to
    kappa for all others."""

    teacher: Float[Array, "degrees degrees"]
    across: Float[Array, "degrees_across degrees_across"]
    rest: Float[Array, ""]


def spectrum(field: Float[Array, " degrees"], at: Tilted, kappa, dual: Dual, others: Rest) -> Spectrum:
    """The Hessian at a field (04 (3.18), (3.33))."""
    curvature = dual.gamma * dual.width * at.probability * (1 + dual.gamma * (field @ dual.overlap) ** 2)
    across = (others.across * curvature) @ others.across.T / others.directions
    return Spectrum(at.hessian, kappa * jnp.eye(len(across)) + across, curvature @ others.rest)


def log_determinant(kappa, H: Spectrum, others: Rest) -> Float[Array, ""]:
    """ln det(H / kappa) over all functions."""
    along, across = (jnp.linalg.slogdet(block / kappa)[1] for block in (H.teacher, H.across))
    return along + others.directions * across + H.rest / kappa


def posterior_variance(kappa, H: Spectrum, others: Rest) -> Float[Array, ""]:
    """The posterior variance of the output, averaged over inputs: tr(kappa - kappa² H^-1), leading order."""

    def variance(block):
        return kappa * len(block) - kappa**2 * jnp.trace(jnp.linalg.inv(block))

    return variance(H.teacher) + others.directions * variance(H.across) + H.rest


def shifted(field: Float[Array, " degrees"], kappa, dual: Dual, others: Rest) -> Float[Array, " degrees"]:
    """The mean field to one loop, T + H^-1 grad ln det H / 2 (04 (3.32))."""

    def half_log_determinant(T):
        return log_determinant(kappa, spectrum(T, tilted(T, kappa, dual), kappa, dual, others), others) / 2

    return field + jnp.linalg.solve(tilted(field, kappa, dual).hessian, jax.grad(half_log_determinant)(field))


def conditional(
    field: Float[Array, " degrees"], mean_field: Float[Array, " degrees"], kappa: Any, dual: Dual, others: Rest
) -> Float[Array, " neurons"]:
    """Probabilities of one neuron given all others (04 (3.34)).

    Args:
        field: the saddle of the others, of which `dual` has the number.
        mean_field: the same with its loop.
    """
    H = spectrum(field, tilted(field, kappa, dual), kappa, dual, others)
    h = dual.overlap
    along, across = (
        jnp.sum(x * jnp.linalg.solve(block, x), axis=0) for x, block in ((h, H.teacher), (others.across, H.across))
    )
    g = dual.gamma * (along + across + others.rest / kappa)
    exponent = dual.log_prior + dual.gamma * (mean_field @ h) ** 2 / (2 * (1 + g)) - jnp.log1p(g) / 2
    return jax.nn.softmax(exponent)
