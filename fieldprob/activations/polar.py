"""Activations with a kink or a jump at zero, by quadrature in polar coordinates.

u = sqrt(a) r cos(psi), v = sqrt(b) r cos(psi - theta) with density r exp(-r^2/2) dr dpsi / 2 pi. The rays where u or v
vanishes cut the circle into two arcs of length pi - theta (equal signs) and two of length theta (opposite signs). On
each arc the integrand is smooth: Gauss-Legendre in psi times the Gauss rule for r exp(-r^2/2) on the half line.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fieldprob.activations.base import Activation, distributional
from fieldprob.activations.gaussian import angle
from fieldprob.activations.hermite import Derivative, first_order_moment


class PolarRule(NamedTuple):
    """How many angles on each of the four arcs, and how many radii."""

    angles: int
    radii: int


@lru_cache
def radial_rule(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the Gauss rule for r exp(-r^2/2) on (0, inf) (Golub and Welsch 1969).

    The three-term recurrence of the orthogonal polynomials comes from a fine discretisation (Stieltjes' procedure).
    """
    x, w = np.polynomial.legendre.leggauss(40)
    panels = (2.0 * np.sqrt(count) + 12.0) / 40 * np.arange(40)[:, None]
    x, w = (panels + panels[1] * (x + 1) / 2).ravel(), np.tile(panels[1] * w / 2, 40)
    w = w * x * np.exp(-(x**2) / 2)
    w = w / w.sum()
    diagonal, off_diagonal = np.zeros(count), np.zeros(count)
    previous, current = np.zeros_like(x), np.ones_like(x)
    for n in range(count):
        diagonal[n] = np.sum(w * x * current**2)
        following = (x - diagonal[n]) * current - off_diagonal[n - 1] * previous
        off_diagonal[n] = np.sqrt(np.sum(w * following**2))
        previous, current = current, following / off_diagonal[n]
    jacobi = np.diag(diagonal) + np.diag(off_diagonal[:-1], 1) + np.diag(off_diagonal[:-1], -1)
    nodes, vectors = np.linalg.eigh(jacobi)
    return nodes, vectors[0] ** 2


@lru_cache
def _angular_rule(count: int) -> np.ndarray:
    """Rows (p0, p1, w0, w1): an angle psi = p0 + p1 theta with weight w0 + w1 theta; weights sum to 1."""
    s, w = np.polynomial.legendre.leggauss(count)
    s, w = (1 + s) / 2, w / (4 * np.pi)
    one = np.ones(count)
    equal = np.stack([np.pi * (s - 0.5), 1 - s, np.pi * w, -w])
    opposite = np.stack([np.pi / 2 * one, s, 0 * one, w])
    half_turn = np.array([np.pi, 0.0, 0.0, 0.0])[:, None]
    return np.concatenate([equal, opposite, equal + half_turn, opposite + half_turn], axis=1).T


def _moment(f: Callable, g: Callable, rule: PolarRule, a: Array, c: Array, b: Array) -> Array:
    """E[f(u) g(v)], not differentiable."""
    theta = angle(a, c, b)
    radii, radial_weights = (jnp.asarray(x, theta.dtype) for x in radial_rule(rule.radii))
    # A zero variance is the limit of a small one: the average of fn' over the two sides of its jump.
    size_u, size_v = (jnp.sqrt(jnp.maximum(q, jnp.finfo(q.dtype).tiny)) for q in (a, b))

    def over_angles(total, node):
        p0, p1, w0, w1 = node
        psi = p0 + p1 * theta
        u, v = size_u * jnp.cos(psi), size_v * jnp.cos(psi - theta)

        def over_radii(inner, radial):
            r, weight = radial
            return inner + weight * f(r * u) * g(r * v), None

        inner = jax.lax.scan(over_radii, jnp.zeros_like(total), (radii, radial_weights), unroll=4)[0]
        return total + (w0 + w1 * theta) * inner, None

    zero = jnp.zeros_like(theta)
    return jax.lax.scan(over_angles, zero, jnp.asarray(_angular_rule(rule.angles), theta.dtype))[0]


_dual, _derivative = first_order_moment(_moment)


class Kinked(Activation):
    """An elementwise function `fn` that is smooth on either side of zero, with a kink or a jump at zero.

    `angles` (per arc) times `radii` nodes per kernel entry; the error estimate compares with half as many of each.
    First derivatives of `dual` are right everywhere, second ones raise ValueError. If `continuous` is False (a jump at
    zero), `dual_derivative` and derivatives of `dual` raise ValueError.

    Raises ValueError if `fn` is not callable or `angles`, `radii` are not integers of at least 2.

    >>> import jax
    >>> from fieldprob.activations import Kinked
    >>> print(round(float(Kinked(jax.nn.relu).dual(1.3, -0.55, 0.8)), 4))
    0.049
    """

    fn: Callable = eqx.field(static=True)
    angles: int = eqx.field(static=True, default=20)
    radii: int = eqx.field(static=True, default=32)
    label: str = eqx.field(static=True, default="kinked")
    continuous: bool = eqx.field(static=True, default=True)
    smooth: ClassVar[bool] = False
    random_phase: ClassVar[bool] = False

    def __check_init__(self):
        if not callable(self.fn):
            raise ValueError(f"fn = {self.fn!r} is not callable: pass an elementwise JAX function")
        for field in ("angles", "radii"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 2:
                raise ValueError(f"{field} = {value!r} must be an integer of at least 2")

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.label

    @property
    def _rule(self) -> PolarRule:
        return PolarRule(self.angles, self.radii)

    def phi(self, z, phase=None):
        return self.fn(z)

    def _dual(self, a, c, b):
        return _dual(self.fn, self._rule, self.name, self.continuous, a, c, b)

    def _dual_derivative(self, a, c, b):
        return _derivative(self.fn, self._rule, self.name, self.continuous, a, c, b)

    def _dual_error(self, a, c, b):
        return self._error(self.fn, a, c, b)

    def _dual_derivative_error(self, a, c, b):
        if not self.continuous:
            raise distributional(self.name)
        return self._error(Derivative(self.fn), a, c, b)

    def _error(self, fn, a, c, b):
        fine = _moment(fn, fn, self._rule, a, c, b)
        coarse = _moment(fn, fn, PolarRule(self.angles // 2, self.radii // 2), a, c, b)
        size_a = jnp.sqrt(jnp.abs(_moment(fn, fn, self._rule, a, a, a)))
        size_b = jnp.sqrt(jnp.abs(_moment(fn, fn, self._rule, b, b, b)))
        return jnp.abs(fine - coarse) + 64 * jnp.finfo(a.dtype).eps * size_a * size_b
