"""Orthonormal Gegenbauer polynomials of the sphere S^(d-1), their Gauss rule, and the dimensions of its harmonics.

The first coordinate t = u.x of a uniform point of the unit sphere has density proportional to (1 - t^2)^((d-3)/2). The
polynomials p_l orthonormal under it obey t p_l = b_(l+1) p_(l+1) + b_l p_(l-1) with

    b_l^2 = l (l + d - 3) / ((2l + d - 4)(2l + d - 2)),

are p_l = sqrt(N(d, l)) C_l^((d-2)/2)(t) / C_l^((d-2)/2)(1), and N(d, l) is the number of harmonics of degree l (Müller
1966; Atkinson & Han, Spherical Harmonics, 2012, section 2). Nothing overflows in large d: the measure is normalised.
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from math import comb, lgamma, log
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.linalg import eigh_tridiagonal


def degeneracy(inputs: int, degree: int) -> float:
    """N(d, l) = (2l + d - 2)/l binom(l + d - 3, l - 1), N(d, 0) = 1: the number of harmonics of degree l.

    Exact up to the rounding of a float.

    >>> [degeneracy(3, l) for l in range(4)], degeneracy(10, 3)
    ([1.0, 3.0, 5.0, 7.0], 210.0)
    """
    if degree == 0:
        return 1.0
    return float((2 * degree + inputs - 2) * comb(degree + inputs - 3, degree - 1) // degree)


def log_degeneracy(inputs: int, degree: int) -> float:
    """log N(d, l), also where N(d, l) is too large for a float."""
    if degree == 0:
        return 0.0
    return log((2 * degree + inputs - 2) / degree) + lgamma(degree + inputs - 2) - lgamma(degree) - lgamma(inputs - 1)


def recurrence(inputs: int, modes: int) -> np.ndarray:
    """b_1 ... b_(modes - 1) of the module's recurrence."""
    degree = np.arange(1.0, modes)
    return np.sqrt(degree * (degree + inputs - 3) / ((2 * degree + inputs - 4) * (2 * degree + inputs - 2)))


@lru_cache(maxsize=32)
def gauss(inputs: int, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the Gauss-Jacobi rule for the density of t, weights summing to one (Golub & Welsch 1969)."""
    t, vectors = eigh_tridiagonal(np.zeros(nodes), recurrence(inputs, nodes + 1)[: nodes - 1])
    weights = vectors[0] ** 2
    # the rule is symmetric; rounding is not
    return (t - t[::-1]) / 2, (weights + weights[::-1]) / (2 * weights.sum())


def polynomials(t: Any, inputs: int, modes: int) -> Any:
    """p_0 ... p_(modes-1) at t (points,): an array (points, modes), of NumPy or of JAX as t is."""
    b = np.append(0.0, recurrence(inputs, modes))
    if isinstance(t, np.ndarray):
        values = [np.zeros_like(t), np.ones_like(t)]
        for below, above in pairwise(b):
            values.append((t * values[-1] - below * values[-2]) / above)
        return np.stack(values[1:], axis=-1)
    return three_terms(jnp.ones_like(t), lambda p, q, c: (t * p - c[0] * q) / c[1], np.stack([b[:-1], b[1:]], axis=1))


def three_terms(first: Array, step: Callable, coefficients: np.ndarray) -> Float[Array, "points degrees"]:
    """Polynomials p_(n+1) = step(p_n, p_(n-1), coefficients[n]) from p_0 = first and p_(-1) = 0."""

    def advance(carry, c):
        p, q = carry
        following = step(p, q, c)
        return (following, p), following

    _, rest = jax.lax.scan(advance, (first, jnp.zeros_like(first)), jnp.asarray(coefficients, first.dtype))
    return jnp.concatenate([first[None], rest]).T
