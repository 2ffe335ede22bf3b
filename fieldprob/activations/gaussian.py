"""Geometry of two correlated centred Gaussians: determinant, sine, angle and correlation, safe at |rho| = 1.

With r = sqrt(a b), the determinant is taken as (r - |c|)(r + |c|) and set to zero where r and |c| agree to rounding, so
that coincident points are recognised; its derivatives are those of a b - c^2. Where the true derivative of the sine or
the angle diverges (|rho| = 1, a zero variance) the rules below give zero, never NaN: callers multiply them by
something that vanishes there, or document the limit.
"""

import jax
import jax.numpy as jnp
from jax import Array

# Relative gap between sqrt(ab) and |c| below which the two are the same number to rounding.
_COINCIDENT = 4.0


def _gap(a: Array, c: Array, b: Array) -> tuple[Array, Array]:
    r = jnp.sqrt(a) * jnp.sqrt(b)
    gap = r - jnp.abs(c)
    return jnp.where(gap > _COINCIDENT * jnp.finfo(r.dtype).eps * r, gap, 0), r + jnp.abs(c)


def reciprocal(x: Array) -> Array:
    """1/x, and 0 at x = 0; safe to differentiate there."""
    return jnp.where(x == 0, 0, 1 / jnp.where(x == 0, 1, x))


@jax.custom_jvp
def determinant(a: Array, c: Array, b: Array) -> Array:
    """a b - c^2, never negative."""
    gap, total = _gap(a, c, b)
    return gap * total


@determinant.defjvp
def _determinant_jvp(primals, tangents):
    (a, c, b), (da, dc, db) = primals, tangents
    return determinant(a, c, b), b * da + a * db - 2 * c * dc


def _half_angle(a: Array, c: Array, b: Array) -> tuple[Array, Array]:
    """tan of half the angle between u and +-v (the smaller of the two), and sqrt(ab) + |c|.

    sin and angle are made of these: one root, one quotient and an arctangent of one argument, where a quadrant-aware
    arctangent takes longer than everything else in a kernel.
    """
    gap, total = _gap(a, c, b)
    return jnp.sqrt(gap / jnp.where(total == 0, 1, total)), total


@jax.custom_jvp
def sine(a: Array, c: Array, b: Array) -> Array:
    """sqrt(a b - c^2) = sqrt(ab) sin(theta)."""
    tangent, total = _half_angle(a, c, b)
    return total * tangent


@sine.defjvp
def _sine_jvp(primals, tangents):
    (a, c, b), (da, dc, db) = primals, tangents
    s = sine(a, c, b)
    return s, reciprocal(s) / 2 * (b * da + a * db - 2 * c * dc)


@jax.custom_jvp
def angle(a: Array, c: Array, b: Array) -> Array:
    """theta = arccos(c / sqrt(ab)) in [0, pi].

    At one zero variance it is pi/2 (the limit at c = 0), at two it is 0 (the limit along the diagonal).
    """
    acute = 2 * jnp.arctan(_half_angle(a, c, b)[0])
    theta = jnp.where(c < 0, jnp.pi - acute, acute)
    return jnp.where((a == 0) != (b == 0), jnp.pi / 2, theta)


@angle.defjvp
def _angle_jvp(primals, tangents):
    (a, c, b), (da, dc, db) = primals, tangents
    slope = reciprocal(sine(a, c, b))
    return angle(a, c, b), slope * (c * (reciprocal(a) * da + reciprocal(b) * db) / 2 - dc)


def correlation(a: Array, c: Array, b: Array) -> Array:
    """rho = c / sqrt(ab) in [-1, 1]; 0 at a zero variance. Not for differentiation."""
    return jnp.clip(c * reciprocal(jnp.sqrt(a)) * reciprocal(jnp.sqrt(b)), -1, 1)
