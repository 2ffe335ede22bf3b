"""Any smooth activation, by its Hermite expansion (and, with slow convergence, any activation at all).

With h_n = He_n / sqrt(n!) and alpha_n(q) = E[phi(sqrt(q) zeta) h_n(zeta)], zeta ~ N(0, 1),
E[phi(u) phi(v)] = sum_n alpha_n(a) alpha_n(b) rho^n (Mehler's formula). The sum stops after `terms` terms; by
Cauchy-Schwarz and Parseval the rest is at most sqrt(T(a) T(b)) |rho|^terms with T(q) = E[phi^2] - sum_n alpha_n(q)^2.

The coefficients are trapezoidal sums: for analytic functions under a Gaussian weight these converge exponentially in
the spacing, faster than Gauss-Hermite rules (Trefethen 2022, Exactness of quadrature formulas).
"""

import dataclasses
from collections.abc import Callable
from functools import lru_cache, partial
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fieldprob.activations.base import Activation, distributional
from fieldprob.activations.gaussian import correlation, reciprocal

# The integrand phi(z) h_n(z) exp(-z^2/2) is below rounding beyond this many standard deviations.
_RANGE = 13.0


@dataclasses.dataclass(frozen=True)
class Derivative:
    """The derivative of an elementwise function; equal for equal functions, so that compiled code is reused."""

    fn: Callable

    def __call__(self, z):
        return jax.jvp(self.fn, (z,), (jnp.ones_like(z),))[1]


@dataclasses.dataclass(frozen=True)
class Euler:
    """z fn'(z): what the Euler operator makes of an elementwise function."""

    fn: Callable

    def __call__(self, z):
        return z * Derivative(self.fn)(z)


class HermiteRule(NamedTuple):
    """How many terms of the expansion, and how many nodes for each coefficient."""

    terms: int
    nodes: int


@lru_cache
def _nodes(rule: HermiteRule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes z (nodes,), Gaussian weights (nodes,) and weights times h_n(z) (terms, nodes)."""
    # Half a step off centre: no node at 0, where activations have their kinks.
    z = _RANGE * (2 * np.arange(rule.nodes) + 1 - rule.nodes) / rule.nodes
    root = np.exp(-(z**2) / 4) * np.sqrt((z[1] - z[0]) / np.sqrt(2 * np.pi))
    psi = np.zeros((rule.terms, rule.nodes))
    psi[0] = root
    if rule.terms > 1:
        psi[1] = z * root
    for n in range(1, rule.terms - 1):
        psi[n + 1] = (z * psi[n] - np.sqrt(n) * psi[n - 1]) / np.sqrt(n + 1)
    return z, root**2, psi * root


def _values(fn: Callable, rule: HermiteRule, q: Array) -> Array:
    z = jnp.asarray(_nodes(rule)[0], q.dtype)
    return fn(jnp.sqrt(q)[..., None] * z)


# Compiled on their own: a program that differentiates many times calls them often, and holds their tables once.
@partial(jax.jit, static_argnums=(0, 1))
def _coefficients(fn: Callable, rule: HermiteRule, q: Array) -> Array:
    """alpha_n(q), shape (terms,) + q.shape."""
    projector = jnp.asarray(_nodes(rule)[2], q.dtype)
    alpha = jnp.matmul(_values(fn, rule, q), projector.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(alpha, -1, 0)


def _mehler_sum(alpha: Array, beta: Array, rho: Array) -> Array:
    """sum_n alpha_n beta_n rho^n by Horner's rule, a (points, points) array at a time."""

    def step(total, coefficients):
        return total * rho + coefficients[0] * coefficients[1], None

    zero = jnp.zeros(jnp.broadcast_shapes(alpha.shape[1:], beta.shape[1:], rho.shape), rho.dtype)
    return jax.lax.scan(step, zero, (alpha[::-1], beta[::-1]), unroll=min(8, alpha.shape[0]))[0]


def _moment(f: Callable, g: Callable, rule: HermiteRule, a: Array, c: Array, b: Array) -> Array:
    """E[f(u) g(v)], not differentiable."""
    return _mehler_sum(_coefficients(f, rule, a), _coefficients(g, rule, b), correlation(a, c, b))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def smooth_moment(f: Callable, g: Callable, rule: HermiteRule, a: Array, c: Array, b: Array) -> Array:
    """E[f(u) g(v)] for smooth f and g; its derivatives are moments of derivatives (Price, Bonnet), to any order."""
    return _moment(f, g, rule, a, c, b)


@smooth_moment.defjvp
def _smooth_moment_jvp(f, g, rule, primals, tangents):
    (a, c, b), (da, dc, db) = primals, tangents
    df, dg = Derivative(f), Derivative(g)
    tangent = (
        smooth_moment(Derivative(df), g, rule, a, c, b) * da / 2
        + smooth_moment(df, dg, rule, a, c, b) * dc
        + smooth_moment(f, Derivative(dg), rule, a, c, b) * db / 2
    )
    return smooth_moment(f, g, rule, a, c, b), tangent


def first_order_moment(moment: Callable) -> tuple[Callable, Callable]:
    """E[fn fn] and E[fn' fn'] of a function with kinks, the former with first derivatives only.

    Both take (fn, rule, name, continuous, a, c, b); `moment(f, g, rule, a, c, b)` is E[f(u) g(v)].

    The first derivative is free of phi'', which is a distribution at a kink: by Stein's lemma
    dC/da = (E[u phi'(u) phi(v)] - c E[phi' phi']) / 2a. It is set to 0 at a = 0, where it may be infinite.
    """

    @partial(jax.custom_jvp, nondiff_argnums=(0, 1))
    def last(fn, rule, a, c, b):
        return moment(fn, fn, rule, a, c, b)

    @last.defjvp
    def last_jvp(fn, rule, primals, tangents):
        raise ValueError(
            "second derivatives of the Gaussian averages of a callable with a kink are not available: "
            "use a smooth activation or a named one such as 'relu'"
        )

    @partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
    def dual(fn, rule, name, continuous, a, c, b):
        return moment(fn, fn, rule, a, c, b)

    @dual.defjvp
    def dual_jvp(fn, rule, name, continuous, primals, tangents):
        if not continuous:
            raise distributional(name)
        (a, c, b), (da, dc, db) = primals, tangents
        slope = last(Derivative(fn), rule, a, c, b)
        along_a = (moment(Euler(fn), fn, rule, a, c, b) - c * slope) * reciprocal(2 * a)
        along_b = (moment(fn, Euler(fn), rule, a, c, b) - c * slope) * reciprocal(2 * b)
        return dual(fn, rule, name, continuous, a, c, b), along_a * da + slope * dc + along_b * db

    def derivative(fn, rule, name, continuous, a, c, b):
        if not continuous:
            raise distributional(name)
        return last(Derivative(fn), rule, a, c, b)

    return dual, derivative


_rough_dual, _rough_derivative = first_order_moment(_moment)


def _check_rule(activation) -> None:
    if not callable(activation.fn):
        raise ValueError(f"fn = {activation.fn!r} is not callable: pass an elementwise JAX function")
    for field in ("terms", "nodes"):
        value = getattr(activation, field)
        if not isinstance(value, int) or value < 2:
            raise ValueError(f"{field} = {value!r} must be an integer of at least 2")


class _Hermite(Activation):
    """What `Smooth` and `Rough` share: the expansion and its error estimate."""

    fn: eqx.AbstractVar[Callable]
    terms: eqx.AbstractVar[int]
    nodes: eqx.AbstractVar[int]
    label: eqx.AbstractVar[str]

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.label

    @property
    def _rule(self) -> HermiteRule:
        return HermiteRule(self.terms, self.nodes)

    def phi(self, z, phase=None):
        return self.fn(z)

    def _dual_error(self, a, c, b):
        return _expansion_error(self.fn, self._rule, a, c, b)

    def _dual_derivative_error(self, a, c, b):
        if not getattr(self, "continuous", True):
            raise distributional(self.name)
        return _expansion_error(Derivative(self.fn), self._rule, a, c, b)


def _expansion_error(fn, rule, a, c, b):
    """Estimated error of E[fn(u) fn(v)]: coarser quadratures, what lies beyond the last node, and what Parseval's sum
    says the expansion leaves out."""
    outermost = np.abs(_nodes(rule)[0]) > 0.9 * _RANGE

    def expansion(q):
        squares = jnp.asarray(_nodes(rule)[1], q.dtype) * _values(fn, rule, q) ** 2
        square, edge = jnp.sum(squares, axis=-1), jnp.sum(squares * outermost, axis=-1)
        alpha = _coefficients(fn, rule, q)
        tail = jnp.maximum(square - jnp.sum(alpha**2, axis=0), 0)
        return alpha, jnp.sqrt(square), jnp.sqrt(tail), jnp.sqrt(edge)

    rho = correlation(a, c, b)
    (alpha, size_a, tail_a, edge_a), (beta, size_b, tail_b, edge_b) = expansion(a), expansion(b)
    fine = _mehler_sum(alpha, beta, rho)
    # Several coarser rules: at a jump the error depends on where the nodes fall, and one may agree by accident.
    coarse = [HermiteRule(rule.terms, max(2, rule.nodes * k // 12)) for k in (6, 7, 5)]
    misses = jnp.stack([jnp.abs(fine - _moment(fn, fn, r, a, c, b)) for r in coarse])
    rounding = 8 * jnp.finfo(a.dtype).eps * size_a * size_b
    tail = tail_a * tail_b * jnp.abs(rho) ** rule.terms
    return jnp.max(misses, axis=0) + tail + edge_a * edge_b + rounding


class Smooth(_Hermite):
    """A smooth elementwise function `fn`, through the first `terms` terms of its Hermite expansion.

    Exact to rounding where phi varies over distances larger than the standard deviation of its argument (tanh:
    variances up to about 2); `dual_error` says what is lost elsewhere (steep functions, large variances, |rho| near 1),
    `dual_derivative_error` what is lost in gradients, which converge more slowly.
    `dual` is differentiable to any order, by moments of derivatives of `fn`.

    Raises ValueError if `fn` is not callable or `terms`, `nodes` are not integers of at least 2.

    >>> import jax.numpy as jnp
    >>> from fieldprob.activations import Smooth
    >>> print(round(float(Smooth(jnp.sin).dual(1.3, -0.55, 0.8)), 4))
    -0.2023
    """

    fn: Callable = eqx.field(static=True)
    terms: int = eqx.field(static=True, default=128)
    nodes: int = eqx.field(static=True, default=512)
    label: str = eqx.field(static=True, default="smooth")
    smooth: ClassVar[bool] = True
    random_phase: ClassVar[bool] = False

    def __check_init__(self):
        _check_rule(self)

    def _dual(self, a, c, b):
        return smooth_moment(self.fn, self.fn, self._rule, a, c, b)

    def _dual_derivative(self, a, c, b):
        return smooth_moment(Derivative(self.fn), Derivative(self.fn), self._rule, a, c, b)


class Rough(_Hermite):
    """An elementwise function `fn` with kinks or jumps away from zero, through its Hermite expansion.

    The expansion converges slowly (at |rho| = 1 like terms^(-3/2) for kinks, terms^(-1/2) for jumps): look at
    `dual_error`. First derivatives of `dual`, and `dual_derivative`, are right to 1 per cent at |rho| = 1 and much
    better away from it; second ones raise ValueError, as does any derivative if `continuous` is False (a jump).

    Raises ValueError if `fn` is not callable or `terms`, `nodes` are not integers of at least 2.

    >>> import jax
    >>> from fieldprob.activations import Rough
    >>> hard_tanh = Rough(jax.nn.hard_tanh)
    >>> bool(hard_tanh.dual_error(1.0, 0.5, 1.0) < 1e-4)
    True
    """

    fn: Callable = eqx.field(static=True)
    terms: int = eqx.field(static=True, default=256)
    nodes: int = eqx.field(static=True, default=4096)
    label: str = eqx.field(static=True, default="rough")
    continuous: bool = eqx.field(static=True, default=True)
    smooth: ClassVar[bool] = False
    random_phase: ClassVar[bool] = False

    def __check_init__(self):
        _check_rule(self)

    def _dual(self, a, c, b):
        return _rough_dual(self.fn, self._rule, self.name, self.continuous, a, c, b)

    def _dual_derivative(self, a, c, b):
        return _rough_derivative(self.fn, self._rule, self.name, self.continuous, a, c, b)
