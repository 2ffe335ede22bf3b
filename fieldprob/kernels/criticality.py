"""How signals travel through very deep networks: fixed points, susceptibilities, depth scales, the edge of chaos.

With C(a, c, b) = E[phi(u) phi(v)] and C' = E[phi'(u) phi'(v)], a layer of weight and bias variance w, b maps a variance
q to V(q) = b + w C(q, q, q), and at the fixed point q* a correlation c to R(c) = [b + w C(q*, c q*, q*)] / q*. Then

    q* = V(q*),                                     c* = R(c*)
    variance susceptibility     chi_q = V'(q*),     depth scale -1 / ln |chi_q|
    correlation susceptibility  chi_1 = R'(1) = w C'(q*, q*, q*)
    depth scale of correlations -1 / ln R'(c*), which is -1 / ln chi_1 where c* = 1
    edge of chaos               chi_1 = 1:   w = 1 / C'(q*, q*, q*),   b = q* - w C(q*, q*, q*)

(Poole et al. 2016, Exponential expressivity, eq. 3-7; Schoenholz et al. 2017, Deep information propagation, eq. 5-9;
theory 01, A16-A18). R is a power series in c with coefficients that are not negative (Mehler), so that c* is 1 where
chi_1 <= 1 and otherwise the one other root in [0, 1). Fixed points are bracketed and bisected, never iterated to: at
the edge of chaos the iteration converges only algebraically. Derivatives are those of the implicit function.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jax import Array
from jax.core import Tracer
from jaxtyping import ArrayLike, Float, Num

from fieldprob.activations import Activation, get
from fieldprob.activations.accuracy import warn_if_inaccurate
from fieldprob.kernels.recursion import require_continuous

# Variances between 1e-30 and 1e30 times the start, eight or nine to a factor of e.
_LOG_RANGE = 30 * np.log(10.0)
_CELLS = 1200
_CLOSEST = 1e-7  # 1 - c* below which c* is 1: closer by, R(c) - c is lost in rounding


class Criticality(NamedTuple):
    """Fixed point, susceptibilities and depth scales of a deep network; arrays over its variances.

    `variance` is q*, `correlation` c*; the depths are in layers, infinite where the approach is slower than
    exponential.
    """

    weight_variance: Array
    bias_variance: Array
    variance: Array
    correlation: Array
    variance_susceptibility: Array
    correlation_susceptibility: Array
    variance_depth: Array
    correlation_depth: Array


class PhaseDiagram(NamedTuple):
    """`criticality` on a grid (weight variances, bias variances) and the edge of chaos, from q* = 0 until beyond it."""

    activation: str
    grid: Criticality
    edge_weight_variance: Array
    edge_bias_variance: Array


type _Variance = Sequence[float] | Num[ArrayLike, "*#batch"]


def criticality(activation, weight_variance: _Variance, bias_variance: _Variance, *, start: float = 1.0) -> Criticality:
    """All of the above. The variances broadcast; every field has their shape. Differentiable in the variances and in
    the parameters of the activation.

    `start` as in `variance_fixed_point`. Where q* is infinite everything else is NaN; where q* = 0, signals vanish and
    the correlation and its depth are NaN.

    Raises ValueError for an unknown activation, one that jumps, or variances that are negative or not finite.

    >>> from fieldprob import kernels
    >>> at = kernels.criticality("erf", 1.2, 0.05)
    >>> print(f"{at.variance:.7f} {at.correlation_susceptibility:.7f} {at.correlation_depth:.5f}")
    0.4038641 0.9447516 17.59532
    """
    phi, w, b = _arguments(activation, weight_variance, bias_variance)
    q = _variance_fixed_point(phi, w, b, _start(start))
    chi_q = w * _slope_of_square(phi, q)
    chi_1 = w * phi.dual_derivative(q, q, q)
    c = _correlation_fixed_point(phi, w, b, q)
    warn_if_inaccurate(phi, q, slope=True)
    slope = w * phi.dual_derivative(q, c * q, q)
    chi_q, chi_1, slope = (jnp.where(jnp.isinf(q), jnp.nan, chi) for chi in (chi_q, chi_1, slope))
    return Criticality(w, b, q, c, chi_q, chi_1, _depth(jnp.abs(chi_q)), _depth(slope))


def variance_fixed_point(
    activation, weight_variance: _Variance, bias_variance: _Variance, *, start: float = 1.0
) -> Float[Array, "*batch"]:
    """The variance q* = b + w E[phi^2] that deep layers tend to from the variance `start` (0, finite, or infinite).

    If several are fixed, the first on the way: up from `start` if a layer increases it, else down. If every variance
    is fixed (ReLU at w = 2, b = 0) it is `start` itself. It is stable if |chi_q| < 1. Same errors as `criticality`.

    >>> from fieldprob import kernels
    >>> print(f"{kernels.variance_fixed_point('erf', 2.0, 0.1):.13f}")
    1.0462553601214
    """
    return _variance_fixed_point(*_arguments(activation, weight_variance, bias_variance), _start(start))


def correlation_fixed_point(
    activation, weight_variance: _Variance, bias_variance: _Variance, *, start: float = 1.0
) -> Float[Array, "*batch"]:
    """The correlation c* that two inputs tend to with depth: 1 in the ordered phase, less in the chaotic one.

    NaN where q* is 0 or infinite. Same errors as `criticality`.

    >>> from fieldprob import kernels
    >>> print(f"{kernels.correlation_fixed_point('erf', 2.0, 0.1):.10f}")
    0.6472293691
    """
    return criticality(activation, weight_variance, bias_variance, start=start).correlation


def variance_susceptibility(
    activation, weight_variance: _Variance, bias_variance: _Variance, *, start: float = 1.0
) -> Float[Array, "*batch"]:
    """chi_q: the factor by which a small deviation of the variance from q* shrinks in a layer.

    >>> from fieldprob import kernels
    >>> print(f"{kernels.variance_susceptibility('erf', 2.0, 0.1):.10f}")
    0.3616209828
    """
    return criticality(activation, weight_variance, bias_variance, start=start).variance_susceptibility


def correlation_susceptibility(
    activation, weight_variance: _Variance, bias_variance: _Variance, *, start: float = 1.0
) -> Float[Array, "*batch"]:
    """chi_1: the factor by which a small distance between two inputs (its square) grows in a layer; also that of
    back-propagated gradients. Chaos above 1, order below.

    >>> from fieldprob import kernels
    >>> print(f"{kernels.correlation_susceptibility('erf', 2.0, 0.1):.13f}")
    1.1183167661184
    """
    return criticality(activation, weight_variance, bias_variance, start=start).correlation_susceptibility


def edge_of_chaos(activation, variance: _Variance) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """(weight_variance, bias_variance) of the critical networks, chi_1 = 1, whose fixed point is q* = `variance`.

    NaN where that would need a bias variance below zero, or an infinite weight variance. Nothing is solved: both are
    closed in q*. Whether q* itself is stable is another question (chi_q < 1: erf, tanh; chi_q > 1: GELU).

    Raises ValueError for an unknown activation, one that jumps, or a variance that is negative or not finite.

    >>> from fieldprob import kernels
    >>> [round(float(v), 10) for v in kernels.edge_of_chaos("relu", 0.3)]
    [2.0, 0.0]
    """
    phi, q, _ = _arguments(activation, variance, 0.0, first="variance")
    square = phi.dual(q, q, q)
    w = 1 / phi.dual_derivative(q, q, q)
    b = q - w * square
    rounding = 16 * jnp.finfo(b.dtype).eps * q
    b = jnp.where(jnp.abs(b) <= rounding, jnp.maximum(b, 0), b)
    none = (b < 0) | ~jnp.isfinite(w)
    return jnp.where(none, jnp.nan, w), jnp.where(none, jnp.nan, b)


def phase_diagram(
    activation,
    weight_variance: Num[ArrayLike, " weights"],
    bias_variance: Num[ArrayLike, " biases"],
    *,
    start: float = 1.0,
) -> PhaseDiagram:
    """`criticality` on the grid of all pairs, (weights, biases), with the edge of chaos.

    `fieldprob.plots_criticality.phase_diagram` draws it. Same errors as `criticality`.

    >>> from fieldprob import kernels
    >>> kernels.phase_diagram("erf", [0.5, 1.0, 2.0], [0.0, 0.1]).grid.variance.shape
    (3, 2)
    """
    w, b = np.asarray(weight_variance, float), np.asarray(bias_variance, float)
    for name, values in (("weight_variance", w), ("bias_variance", b)):
        if values.ndim != 1:
            raise ValueError(f"{name} has shape {values.shape}: it must be a list of values along one side of the grid")
    grid = criticality(activation, w[:, None], b[None, :], start=start)
    # The edge runs from q* = 0 out of the grid: there q* = b + w E[phi^2] is more than the largest b alone.
    largest = 10 * jnp.max(jnp.where(jnp.isfinite(grid.variance), grid.variance, 1.0))
    edge = edge_of_chaos(activation, jnp.concatenate([jnp.zeros(1), largest * jnp.logspace(-6, 0, 500)]))
    return PhaseDiagram(get(activation).name, grid, *edge)


# --- fixed points -----------------------------------------------------------------------------------------------------


def _square(phi: Activation, q: Array) -> Array:
    return phi.dual(q, q, q)


def _slope_of_square(phi: Activation, q: Array) -> Array:
    return jax.jvp(partial(_square, phi), (q,), (jnp.ones_like(q),))[1]


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _variance_fixed_point(phi: Activation, w: Array, b: Array, start: float) -> Array:
    return _flow(phi, w, b, start)


@_variance_fixed_point.defjvp
def _variance_fixed_point_jvp(start, primals, tangents):
    phi, w, b = primals
    q = _variance_fixed_point(phi, w, b, start)
    _, explicit = jax.jvp(lambda phi, w, b: b + w * _square(phi, q), primals, tangents)
    return q, explicit / (1 - w * _slope_of_square(phi, q))


@partial(jax.jit, static_argnums=3)
def _flow(phi: Activation, w: Array, b: Array, start: float) -> Array:
    steps = jnp.arange(_CELLS + 1)
    log_q = jnp.log(jnp.asarray(start, w.dtype)) + jnp.linspace(-_LOG_RANGE, _LOG_RANGE, _CELLS + 1, dtype=w.dtype)
    q = jnp.exp(log_q)
    tolerance = 32 * jnp.finfo(w.dtype).eps
    square = _square(phi, q)

    def solve(w, b):
        growth = (b + w * square) / q - 1  # relative: it keeps its sign however small q is
        middle = _CELLS // 2
        at_start = growth[middle]
        down = jnp.where((steps < middle) & (growth > tolerance), steps, -1).max()
        up = jnp.where((steps > middle) & ((growth < -tolerance) | jnp.isnan(growth)), steps, _CELLS + 1).min()
        rising = at_start > 0
        found = jnp.where(rising, up <= _CELLS, down >= 0)
        low = jnp.where(rising, jnp.maximum(up - 2, middle), down)
        high = jnp.where(rising, up, jnp.minimum(down + 2, middle))
        low, high = (log_q[jnp.clip(i, 0, _CELLS)] for i in (low, high))
        root = jnp.exp(_bisect(lambda x: (b + w * _square(phi, jnp.exp(x))) / jnp.exp(x) - 1, low, high, found))
        root = jnp.where(found, root, jnp.where(rising, jnp.inf, 0.0))
        return jnp.where(jnp.abs(at_start) <= tolerance, start, root)

    return _elementwise(solve, w, b)


@jax.custom_jvp
def _correlation_fixed_point(phi: Activation, w: Array, b: Array, q: Array) -> Array:
    return _decorrelation(phi, w, b, q)


@_correlation_fixed_point.defjvp
def _correlation_fixed_point_jvp(primals, tangents):
    phi, w, _, q = primals
    c = _correlation_fixed_point(*primals)
    _, explicit = jax.jvp(lambda phi, w, b, q: (b + w * phi.dual(q, c * q, q)) / q, primals, tangents)
    chaotic = c < 1
    slope = w * phi.dual_derivative(q, c * q, q)
    return c, jnp.where(chaotic, explicit / jnp.where(chaotic, 1 - slope, 1), jnp.where(jnp.isnan(c), jnp.nan, 0))


@jax.jit
def _decorrelation(phi: Activation, w: Array, b: Array, q: Array) -> Array:
    def solve(w, b, q):
        usable = (q > 0) & jnp.isfinite(q)
        q = jnp.where(usable, q, 1.0)

        def excess(x):
            """(R(c) - c) / (1 - c) with c = 1 - exp(x): free of the root at 1, 1 - chi_1 there."""
            gap = jnp.exp(x)
            return 1 - w * (phi.dual(q, q, q) - phi.dual(q, (1 - gap) * q, q)) / (q * gap)

        low = jnp.log(jnp.asarray(_CLOSEST if w.dtype == jnp.float64 else 1e-3, w.dtype))
        chaotic = (w * phi.dual_derivative(q, q, q) > 1) & (excess(low) < 0)
        correlation = 1 - jnp.exp(_bisect(excess, low, jnp.zeros_like(low), chaotic))
        return jnp.where(usable, jnp.where(chaotic, correlation, 1.0), jnp.nan)

    return _elementwise(solve, w, b, q)


def _bisect(fn: Callable, low: Array, high: Array, wanted: Array) -> Array:
    """The root of `fn` between `low` and `high` to rounding; nothing is done unless `wanted`."""
    high = jnp.where(wanted, high, low)
    # Not flip="detect": it would refuse brackets that are not wanted.
    sign = jnp.where(fn(low) > fn(high), -1.0, 1.0)
    solver = optx.Bisection(rtol=0.0, atol=4 * float(jnp.finfo(low.dtype).eps), flip=False)
    options = {"lower": low, "upper": high}
    return optx.root_find(lambda x, _: sign * fn(x), solver, (low + high) / 2, options=options, throw=False).value


def _elementwise(solve: Callable, *arrays: Array) -> Array:
    flat = [x.ravel() for x in arrays]
    return jax.vmap(solve)(*flat).reshape(arrays[0].shape)


def _depth(chi: Array) -> Array:
    """-1 / ln chi; infinite at and above 1 (to rounding), where nothing decays."""
    marginal = chi >= 1 - 16 * jnp.finfo(chi.dtype).eps
    positive = (chi > 0) & ~marginal
    decaying = jnp.where(positive, chi, 0.5)
    return jnp.where(marginal, jnp.inf, jnp.where(positive, -1 / jnp.log(decaying), jnp.where(chi == 0, 0.0, jnp.nan)))


def _start(value) -> float:
    if not 0 < float(value) < np.inf:
        raise ValueError(f"start = {value} must be a positive, finite variance")
    return float(value)


def _arguments(activation, weight_variance, bias_variance, first: str = "weight_variance"):
    phi = get(activation)
    require_continuous(phi)
    for name, value in ((first, weight_variance), ("bias_variance", bias_variance)):
        if isinstance(value, Tracer):
            continue
        values = np.asarray(value, float)
        wrong = ~((values >= 0) & (values < np.inf))
        if np.any(wrong):
            raise ValueError(f"{name} holds {values[wrong][0]}: a variance must be finite, zero or positive")
    w, b = (jnp.asarray(value, jnp.result_type(float)) for value in (weight_variance, bias_variance))
    return phi, *jnp.broadcast_arrays(w, b)
