"""Wells of the law of one neuron in many inputs, as functions of t = m² / (1 + 2 |w|²); see `phases`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from fieldprob.theory.solvers import bisect

_SMALLEST = 1e-5  # t, where differences of order t² still have eleven digits


class Couplings(NamedTuple):
    """What the phase depends on: `data` is A, `width` is G, `cubic` is epsilon; numbers, or arrays that broadcast."""

    data: Any
    width: Any
    weight_variance: Any
    cubic: Any

    @property
    def u(self) -> Any:
        return self.data**2 / self.width


def check_norm(norm: str) -> None:
    if norm not in ("free", "fixed"):
        raise ValueError(f"norm = {norm!r}: give 'free', or 'fixed' for the approximation of the paper.")


class Prior(NamedTuple):
    """E(t) and its first two derivatives, and r / weight_variance at t."""

    value: Any
    slope: Any
    curvature: Any
    radius: Any


def prior(t, weight_variance, norm: str) -> Prior:
    x, V = 1 - 2 * t, weight_variance
    common = Prior(t / (2 * V * x), 1 / (2 * V * x**2), 2 / (V * x**3), None)
    if norm == "free":
        return Prior(common.value - jnp.log1p(-2 * t) / 2, common.slope + 1 / x, common.curvature + 2 / x**2, x)
    return Prior(common.value + t / x, common.slope + 1 / x**2, common.curvature + 4 / x**3, jnp.ones_like(t))


def overlap_at(t, weight_variance, norm: str):
    """m at t."""
    r = weight_variance * prior(t, weight_variance, norm).radius
    return jnp.sqrt(t * (1 + 2 * r) / (1 - 2 * t))


def action(m: Float[ArrayLike, "..."], u, linear, cubic, weight_variance, *, norm: str = "free") -> Float[Array, "..."]:
    """S at overlap m, with p(m) = exp(-inputs S) near its wells as inputs grow. Arguments broadcast.

    With a free norm S is stationary in |w|² too; with a fixed one it is 04 (3.14) for every m.

    >>> print(f"{action(0.386, 30.669, 0.29196, -0.3, 0.5, norm='fixed'):.5f}")  # the paper's barrier
    0.01042
    """
    check_norm(norm)
    m2, V = jnp.asarray(m) ** 2, weight_variance
    if norm == "free":  # m² = t / (1 - 2t) + 2 V t
        half = 1 + 2 * V + 2 * m2
        t = 2 * m2 / (half + jnp.sqrt(half**2 - 16 * V * m2))
    else:
        t = m2 / (1 + 2 * V + 2 * m2)
    return action_at(t, u, linear, cubic, V, norm)


def action_at(t, u, b, c, weight_variance, norm):
    return prior(t, weight_variance, norm).value - 2 * u / jnp.pi * t * (b - 2 * c * t) ** 2


def coexisting(t, weight_variance, norm):
    """rho and u c² of a side well at t that is as deep as the central one."""
    E = prior(t, weight_variance, norm)
    sum_ = 2 / (E.slope / E.value - 1 / t)
    return sum_ - t, jnp.pi * E.value / (8 * t * sum_**2)


def newborn(t, weight_variance, norm):
    """rho and u c² of a side well at t that has just appeared: S' = S'' = 0."""
    E = prior(t, weight_variance, norm)
    k = E.curvature / E.slope
    rho = (2 * (1 - k * t) + jnp.sqrt(4 * (1 - k * t) ** 2 - k * (3 * k * t**2 - 6 * t))) / k
    return rho, jnp.pi * E.slope / (8 * (rho + t) * (rho + 3 * t))


def pull_and_gain(u, A, weight_variance):
    """4 u V / (pi s_0) and 4 A V / (pi s_0), with which (3.22) is b (1 + gain / (1 - pull b²)) = 1."""
    factor = 4 * weight_variance / (jnp.pi * (1 + 2 * weight_variance))
    return u * factor, A * factor


def central_well(g: Couplings):
    """b of the phase with a central well only, and its spread (04 (3.22)), a root of a cubic equation."""
    pull, gain = pull_and_gain(g.u, g.data, g.weight_variance)

    def defect(b, args):
        pull, gain = args
        return (b - 1) * (1 - pull * b**2) + b * gain

    b = bisect(defect, jnp.zeros_like(pull), jnp.minimum(1.0, 1 / jnp.sqrt(pull)), (pull, gain))
    return b, g.weight_variance / (1 - pull * b**2)


def crossing(curve, g: Couplings, norm: str):
    """t and A at which wells of a `curve` (rho, u c²) of t occur on the branch with a central well only.

    b = -2 epsilon rho and u follow from t; (3.22) is an equation for t. For epsilon < 0 it is sought where rho falls
    from one to zero, for epsilon > 0 where it falls from zero to -1/2: b then runs over all that it may be.
    """

    def state(t, g):
        rho, strength = curve(t, g.weight_variance, norm)
        u = strength / g.cubic**2
        return -2 * g.cubic * rho, jnp.sqrt(u * g.width), u

    def defect(t, g):
        b, A, u = state(t, g)
        pull, gain = pull_and_gain(u, A, g.weight_variance)
        return (b - 1) * (1 - pull * b**2) + b * gain

    origin = bisect(lambda t, g: curve(t, g.weight_variance, norm)[0], smallest(g), largest(g), g)
    origin = jax.lax.stop_gradient(origin)
    low, high = jnp.where(g.cubic > 0, origin, smallest(g)), jnp.where(g.cubic > 0, largest(g), origin)
    t = bisect(defect, low, high, g)
    return t, state(t, g)


def smallest(g: Couplings):
    return jnp.full_like(g.weight_variance, _SMALLEST)


def largest(g: Couplings):
    return jnp.full_like(g.weight_variance, 0.5 - _SMALLEST)


def newborn_at(rho, g: Couplings, norm: str):
    """t at which a side well appears for a given rho; NaN if at none."""
    return bisect(
        lambda t, args: newborn(t, args[0], norm)[0] - args[1], smallest(g), largest(g), (g.weight_variance, rho)
    )


def minus_slope(t, args):
    """Minus S' at t, in units of (2u / pi) 4 c²."""
    rho, strength, weight_variance, norm = args
    return (rho + t) * (rho + 3 * t) - jnp.pi / (8 * strength) * prior(t, weight_variance, norm).slope
