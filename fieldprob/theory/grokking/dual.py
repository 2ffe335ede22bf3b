"""The self-consistent residual: the maximum of a concave function of one field for each degree.

Given the residual of the network its neurons are independent, p(w) ~ prior(w) exp[gamma (T . h(w))² / 2], with h the
overlaps of `overlaps`, gamma the variance of a readout weight, and T = effective points times the residual in
orthonormal polynomials. T maximises

    D(T) = T . Y - kappa |T|² / 2 - N ln E_prior exp[gamma (T . h)² / 2],     kappa = 1 / effective points,

which is strictly concave, so that there is one solution (04 (3.17)). At the maximum kappa T is the residual.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp
from jaxtyping import Bool, Float

from fieldprob.theory.solvers import Derivatives, minimise_convex


class Dual(NamedTuple):
    """What D depends on. Neurons are flat; `growth` are slopes of h² as |w| grows, for a set of directions, in units
    in which the measure exists where gamma (T . growth)² < 1: zero for a bounded activation."""

    overlap: Float[Array, "degrees neurons"]
    log_prior: Float[Array, " neurons"]
    growth: Float[Array, "degrees directions"]
    target: Float[Array, " degrees"]
    gamma: Any
    width: Any


class Tilted(NamedTuple):
    """The measure at a field: probabilities of neurons, ln E exp, the mean <h h^T>, and the Hessian of -D."""

    probability: Float[Array, " neurons"]
    log_normaliser: Float[Array, ""]
    gram: Float[Array, "degrees degrees"]
    hessian: Float[Array, "degrees degrees"]


def tilted(field: Float[Array, " degrees"], kappa, dual: Dual) -> Tilted:
    """The measure of a neuron at a field; its normaliser is infinite where there is none."""
    h, gamma = dual.overlap, dual.gamma
    u = field @ h
    exponent = dual.log_prior + gamma * u**2 / 2
    log_normaliser = logsumexp(exponent)
    p = jnp.exp(exponent - log_normaliser)
    gram = (h * p) @ h.T
    along = gram @ field
    # (3.18): kappa + gamma N <h h^T> + N Cov(gamma u h)
    spread = (h * (p * u**2)) @ h.T - jnp.outer(along, along)
    hessian = kappa * jnp.eye(len(field)) + dual.width * gamma * (gram + gamma * spread)
    exists = jnp.max(gamma * (field @ dual.growth) ** 2) < 1
    return Tilted(p, jnp.where(exists, log_normaliser, jnp.inf), gram, hessian)


def negative_dual(field: Float[Array, " degrees"], args: tuple[Any, Dual]) -> Derivatives:
    """-D with its derivatives."""
    kappa, dual = args
    at = tilted(field, kappa, dual)
    return Derivatives(
        value=kappa * field @ field / 2 - field @ dual.target + dual.width * at.log_normaliser,
        gradient=kappa * field - dual.target + dual.width * dual.gamma * at.gram @ field,
        hessian=at.hessian,
    )


def solve(kappa: Float[Array, ""], dual: Dual) -> tuple[Float[Array, " degrees"], Bool[Array, ""]]:
    """The field that maximises D, and whether it was found."""
    start = dual.target / (2 * kappa)
    # a start at which the measure exists
    largest = jnp.sqrt(jnp.max(dual.gamma * (start @ dual.growth) ** 2))
    start = start / jnp.maximum(1.0, 2 * largest)
    return minimise_convex(negative_dual, jax.lax.stop_gradient(start), (kappa, dual))
