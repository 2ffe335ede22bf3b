"""Phases of an erf network that learns z + epsilon He_3(z), in infinitely many inputs, in closed form.

At width, points and inputs d all large the phase depends on

    A = readout_variance n / (noise_variance d),   G = width readout_variance / d,   u = A² / G,

weight_variance and epsilon (04 (3.10)). The norm of weights concentrates, and m = w . teacher of one neuron has the law
exp(-d S(m)) with, in the variable t = m² / (s_0 + 2 m²) of [0, 1/2), s_0 = 1 + 2 weight_variance,

    S = s_0 t / (2 weight_variance (1 - 2t)) - (2u / pi) t (b - 2 c t)²                                      (04 (3.14))

where y - f = b He_1 + c He_3. Its extrema are roots of (1 - 2t)² (b - 2ct)(b - 6ct) = pi s_0 / (4 u weight_variance).
Three phases: only the well at m = 0, with c = epsilon; one in which side wells exist but are higher; and the mixed one,
in which they are exactly as deep, held there by the residual, and hold droplets / d of the neurons.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from fieldprob.activations import Erf
from fieldprob.tasks import Gaussian
from fieldprob.theory.grokking.setting import setting
from fieldprob.theory.precision import require_float64
from fieldprob.theory.solvers import bisect

_SCAN = 4001
_NAME = "grokking phases"


class Couplings(NamedTuple):
    """What the phase depends on: `data` is A, `width` is G, `cubic` is epsilon; numbers, or arrays that broadcast."""

    data: Any
    width: Any
    weight_variance: Any
    cubic: Any

    @property
    def u(self) -> Any:
        return self.data**2 / self.width


class Critical(NamedTuple):
    """Where the side wells become as deep as the central one. There is always one such place.

    `data` is A there, `u` = A² / G, `linear` the residual b, `overlap` the side wells' |m|, `spread` inputs times the
    variance of m in the central well, `barrier` the height of S between wells.
    """

    data: Float[Array, "..."]
    u: Float[Array, "..."]
    linear: Float[Array, "..."]
    overlap: Float[Array, "..."]
    spread: Float[Array, "..."]
    barrier: Float[Array, "..."]


class Spinodal(NamedTuple):
    """Where side wells first exist: A, u, residual b, |m|, and S of the new well, above the central one at zero."""

    data: Float[Array, "..."]
    u: Float[Array, "..."]
    linear: Float[Array, "..."]
    overlap: Float[Array, "..."]
    action: Float[Array, "..."]


class Phase(NamedTuple):
    """The state at given couplings. `mixed` is whether side wells hold neurons, `metastable` whether they exist
    without; `linear` and `cubic` are the residuals b and c; `overlap` the |m| of side wells (NaN where there are none)
    and `droplets` inputs times the share of neurons there; `spread` as in `Critical`."""

    mixed: Any
    metastable: Any
    linear: Float[Array, "..."]
    cubic: Float[Array, "..."]
    overlap: Float[Array, "..."]
    droplets: Float[Array, "..."]
    spread: Float[Array, "..."]


def couplings(net: Any, population: Any) -> Couplings:
    """A and G of a network and a population of one size (04 (3.10)); arguments and errors as in `mean_field`.

    Raises:
        ValueError: also if the activation is not erf of scale 1, the inputs not Gaussian, the target not
            z + epsilon He_3, or there are several sizes.

    >>> import fieldprob as fp
    >>> net = fp.Mlp(width=700, activation="erf", weight_variance=0.5, readout_variance=8 / 700)
    >>> teacher = fp.tasks.HermiteTeacher((0, 1, 0, -0.3))
    >>> task = fp.tasks.Population(3000, 0.17872, 0.0, measure=fp.tasks.Gaussian(150), target=teacher)
    >>> print(f"{couplings(net, task).u:.2f}")
    30.67
    """
    problem = setting(_NAME, net, population)
    coefficients = population.target.coefficients
    erf = isinstance(problem.activation, Erf) and problem.activation.scale == 1.0 and len(problem.sizes) == 1
    given = [(c, k == 1) for k, c in enumerate(coefficients[:3]) if not isinstance(c, Tracer)]
    linear_and_cubic = len(coefficients) == 4 and all(c == expected for c, expected in given)
    if not (erf and isinstance(problem.measure, Gaussian) and linear_and_cubic):
        raise ValueError(
            f"theory {_NAME!r} is for erf, Gaussian inputs, a target z + epsilon He_3 and one size, not for "
            f"{problem.activation.name!r}, {problem.measure!r}, coefficients {coefficients}, points {problem.sizes}: "
            "use theory.grokking.mean_field, which is for all."
        )
    d, readout = problem.inputs, problem.gamma * problem.width
    data, width = readout / problem.kappa[0] / d, jnp.asarray(problem.width * readout / d)
    return Couplings(data, width, jnp.asarray(net.weight_variance[0]), jnp.asarray(coefficients[3]))


def action(m: Float[ArrayLike, "..."], u, linear, cubic, weight_variance) -> Float[Array, "..."]:
    """S(m), with p(m) = exp(-inputs S(m)) as inputs grow (04 (3.14)). Arguments broadcast.

    >>> print(f"{action(0.386, 30.669, 0.29196, -0.3, 0.5):.5f}")               # the barrier at coexistence
    0.01042
    """
    m = jnp.asarray(m)
    s = 1 + 2 * weight_variance + 2 * m**2
    return m**2 / (2 * weight_variance) - 2 * u / jnp.pi * m**2 / s * (linear - 2 * cubic * m**2 / s) ** 2


def coexistence(linear, cubic, weight_variance) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """u at which side wells are as deep as the central one for given residuals, and their |m| (04 (3.23)).

    Infinite, and NaN, where no u makes them so: side wells then appear at m = 0, if at all.

    >>> u, m = coexistence(0.29196, -0.3, 0.5)
    >>> round(float(u), 2), round(float(m), 4)
    (30.67, 0.7214)
    """
    linear, cubic, weight_variance = (jnp.asarray(x, float) for x in (linear, cubic, weight_variance))
    ratio = -linear / (2 * cubic)
    exists = (ratio < 1) & (ratio > -0.5)
    ratio = jnp.where(exists, ratio, 0.0)
    s_0, size = 1 + 2 * weight_variance, jnp.abs(cubic)
    u = 27 * jnp.pi * s_0 / (16 * weight_variance * size**2 * (1 + 2 * ratio) ** 3)
    m = jnp.sqrt(s_0 * (1 - ratio) / (1 + 2 * ratio))
    return jnp.where(exists, u, jnp.inf), jnp.where(exists, m, jnp.nan)


def _central(g: Couplings):
    """b of the phase with a central well only, and its spread (04 (3.22)), a root of a cubic equation."""
    s_0 = 1 + 2 * g.weight_variance
    pull, gain = 4 * g.u * g.weight_variance / (jnp.pi * s_0), 4 * g.data * g.weight_variance / (jnp.pi * s_0)

    def defect(b, args):
        pull, gain = args
        return (b - 1) * (1 - pull * b**2) + b * gain

    b = bisect(defect, jnp.zeros_like(pull), jnp.minimum(1.0, 1 / jnp.sqrt(pull)), (pull, gain))
    return b, g.weight_variance / (1 - pull * b**2)


def _metastable(linear, cubic):
    """t and the largest (1 - 2t)² (b - 2ct)(b - 6ct) on (0, 1/2): side wells exist above pi s_0 / (4 weight_variance)
    over u. Its derivative has three roots, one of which is t = 1/2."""
    beta = linear / cubic
    root = jnp.sqrt(48 * beta**2 - 48 * beta + 36)
    t = jnp.stack([(6 * (2 * beta + 1) - root) / 48, (6 * (2 * beta + 1) + root) / 48])
    height = (1 - 2 * t) ** 2 * (linear - 2 * cubic * t) * (linear - 6 * cubic * t)
    height = jnp.where((t > 0) & (t < 0.5), height, -jnp.inf)
    best = jnp.argmax(height)
    return t[best], height[best]


def _crossing(g: Couplings, threshold):
    """A and b where u meets `threshold`(b, g), on the branch with a central well only.

    (04 (3.22)) at u = threshold(b) is one equation for b. Its left side increases, from below zero at b = 0 to above it
    where the threshold reaches the end of the branch, at the latest at b = 2 |epsilon|, or epsilon where positive.
    """
    s_0 = 1 + 2 * g.weight_variance

    def defect(b, g):
        u = threshold(b, g)
        safe = jnp.where(jnp.isfinite(u), u, 1.0)
        pull, gain = (4 * x * g.weight_variance / (jnp.pi * s_0) for x in (safe, jnp.sqrt(safe * g.width)))
        return jnp.where(jnp.isfinite(u), (b - 1) * (1 - pull * b**2) + b * gain, 1.0)

    end = jnp.minimum(1.0, jnp.where(g.cubic > 0, g.cubic, -2 * g.cubic))
    b = bisect(defect, jnp.zeros_like(end), end, g)
    return jnp.sqrt(threshold(b, g) * g.width), b


def _critical(g: Couplings) -> Critical:
    A, b = _crossing(g, lambda b, g: coexistence(b, g.cubic, g.weight_variance)[0])
    g = g._replace(data=A)
    pull = 4 * g.u * g.weight_variance / (jnp.pi * (1 + 2 * g.weight_variance))
    m = coexistence(b, g.cubic, g.weight_variance)[1]
    spread = g.weight_variance / (1 - pull * b**2)
    return Critical(A, g.u, b, m, spread, _barrier(g, b, g.cubic))


def _barrier(g: Couplings, b, c):
    """S at its maximum between the central and a side well."""
    s_0 = 1 + 2 * g.weight_variance
    level = jnp.pi * s_0 / (4 * g.u * g.weight_variance)

    def slope(t, args):
        b, c, level = args
        return (1 - 2 * t) ** 2 * (b - 2 * c * t) * (b - 6 * c * t) - level

    top, _ = _metastable(b, c)
    # where c > 0 the polynomial falls through zero first: the maximum of S is where it has risen again
    low = jnp.where(c > 0, b / (2 * c), 0.0)
    t = bisect(slope, low, top, (b, c, level))
    return action(jnp.sqrt(s_0 * t / (1 - 2 * t)), g.u, b, c, g.weight_variance)


def _spinodal(g: Couplings) -> Spinodal:
    s_0 = 1 + 2 * g.weight_variance

    def threshold(b, g):
        height = _metastable(b, g.cubic)[1]
        safe = jnp.where(height > 0, height, 1.0)
        return jnp.where(height > 0, jnp.pi * (1 + 2 * g.weight_variance) / (4 * g.weight_variance * safe), jnp.inf)

    A, b = _crossing(g, threshold)
    t, _ = _metastable(b, g.cubic)
    m = jnp.sqrt(s_0 * t / (1 - 2 * t))
    u = A**2 / g.width
    return Spinodal(A, u, b, m, action(m, u, b, g.cubic, g.weight_variance))


def _mixed(g: Couplings):
    """b, c, |m|, droplets and spread of the mixed phase (04 (3.24)-(3.26)).

    S vanishes at the side wells, which gives b and |m| for any c; the equations of the two residuals, with droplets
    eliminated, then one for c between epsilon and zero, whose root nearest epsilon is the phase.
    """
    s_0 = 1 + 2 * g.weight_variance
    sign = jnp.sign(g.cubic)

    def state(share, g):
        c = g.cubic * share
        b = c - sign * (27 * jnp.pi * s_0 * jnp.abs(c) / (16 * g.weight_variance * g.u)) ** (1 / 3)
        m2 = s_0 * (1 + b / (2 * c)) / (1 - b / c)
        s = s_0 + 2 * m2
        h_1 = 2 * jnp.sqrt(m2 / (jnp.pi * s))
        h_3 = -4 * m2**1.5 / (jnp.sqrt(6 * jnp.pi) * s**1.5)
        pull = 4 * g.u * g.weight_variance / (jnp.pi * s_0)
        return b, c, m2, h_1, h_3, 1 - pull * b**2

    def defect(share, g):
        b, c, _, h_1, h_3, left = state(share, g)
        learned = (1 - b) * left - b * 4 * g.data * g.weight_variance / (jnp.pi * s_0)
        return learned * h_3 - jnp.sqrt(6.0) * (g.cubic - c) * h_1 * left

    shares = jnp.linspace(1.0, 0.0, _SCAN, endpoint=False)
    values = jax.vmap(defect, in_axes=(0, None))(shares, g)
    inside = state(shares, g)[-1] > 0
    crossing = inside[1:] & inside[:-1] & (jnp.sign(values[1:]) != jnp.sign(values[:-1]))
    first = jnp.argmax(crossing)
    found = jnp.any(crossing)
    share = jnp.where(found, bisect(defect, shares[first + 1], shares[first], g), 0.5)
    b, c, m2, h_1, h_3, left = state(share, g)
    along = b * h_1 + jnp.sqrt(6.0) * c * h_3
    droplets = jnp.sqrt(6.0) * (g.cubic - c) / (g.data * h_3 * along)
    return tuple(jnp.where(found, x, jnp.nan) for x in (b, c, jnp.sqrt(m2), droplets, g.weight_variance / left))


def _phase(g: Couplings) -> Phase:
    b, spread = _central(g)
    top, height = _metastable(b, g.cubic)
    s_0 = 1 + 2 * g.weight_variance
    exists = g.u * height * 4 * g.weight_variance > jnp.pi * s_0
    critical = jax.lax.stop_gradient(_critical(g).data)
    mixed = g.data > critical
    level = jnp.pi * s_0 / (4 * g.u * g.weight_variance)

    def fall(t, args):
        b, c, level = args
        return level - (1 - 2 * t) ** 2 * (b - 2 * c * t) * (b - 6 * c * t)

    t = bisect(fall, jnp.where(exists, top, 0.0), jnp.full_like(top, 0.5), (b, g.cubic, level))
    well = jnp.where(exists, jnp.sqrt(s_0 * t / (1 - 2 * t)), jnp.nan)
    # the branch of the central well exists everywhere, that of the mixture only beyond coexistence
    safe = g._replace(data=jnp.where(mixed, g.data, 2 * critical))
    droplets = _mixed(safe)
    central = (b, g.cubic * jnp.ones_like(b), well, jnp.zeros_like(b), spread)
    b, c, m, rho, spread = (jnp.where(mixed, x, y) for x, y in zip(droplets, central, strict=True))
    return Phase(mixed, exists & ~mixed, b, c, m, rho, spread)


@partial(jax.jit, static_argnums=0)
def _each(function, g: Couplings):
    shape = jnp.broadcast_shapes(*(x.shape for x in g))
    flat = Couplings(*(jnp.broadcast_to(x, shape).reshape(-1) for x in g))
    return jax.tree.map(lambda x: x.reshape(shape), jax.vmap(function)(flat))


def _vectorised(function, **values):
    require_float64(_NAME)
    arrays = {name: jnp.asarray(value, float) for name, value in values.items()}
    for name, array in arrays.items():
        valid = array != 0 if name == "cubic" else array > 0
        if not isinstance(array, Tracer) and not bool(jnp.all(valid & jnp.isfinite(array))):
            need = "finite, not zero" if name == "cubic" else "positive and finite"
            raise ValueError(f"{name} is {values[name]}: it must be {need}.")
    return _each(function, Couplings(**arrays))


def critical_point(width, weight_variance, cubic) -> Critical:
    """Where neurons begin to specialise, as data or width are varied. Arguments broadcast.

    Args:
        width: G = width readout_variance / inputs.
        weight_variance: of the first layer, per fan-in.
        cubic: epsilon of the target z + epsilon He_3.

    Differentiable in all.

    Source: theory 04, (3.22)-(3.23).

    >>> critical = critical_point(8 / 150, 0.5, -0.3)
    >>> print(*(f"{x:.5f}" for x in (critical.data, critical.u, critical.linear, critical.overlap)))
    1.27894 30.66913 0.29196 0.72137
    """
    return _vectorised(_critical, data=1.0, width=width, weight_variance=weight_variance, cubic=cubic)


def spinodal(width, weight_variance, cubic) -> Spinodal:
    """Where side wells first exist, not yet as deep as the central one. Arguments as in `critical_point`.

    >>> print(f"{spinodal(8 / 150, 0.5, -0.3).u:.2f}")
    26.95
    """
    return _vectorised(_spinodal, data=1.0, width=width, weight_variance=weight_variance, cubic=cubic)


def phase_diagram(data, width, weight_variance, cubic) -> Phase:
    """The state at given couplings A and G, weight_variance and epsilon, numbers or arrays that broadcast.

    Differentiable within a phase. In the mixed phase the share of neurons in side wells is droplets / inputs. Of
    several roots c between epsilon and zero the nearest to epsilon is taken; NaN where there is none.

    Source: theory 04, (3.22)-(3.26).

    >>> mixed = phase_diagram(1.27894 * 0.17872 / 0.15, 8 / 150, 0.5, -0.3)
    >>> print(*(f"{x:.4f}" for x in (mixed.linear, mixed.cubic, mixed.overlap, mixed.droplets)))
    0.2343 -0.2811 0.7977 2.2435
    """
    return _vectorised(_phase, data=data, width=width, weight_variance=weight_variance, cubic=cubic)


def critical_noise(net: Any, population: Any) -> Float[Array, ""]:
    """The noise variance below which neurons specialise, in infinitely many inputs at the network's couplings.

    The task's own noise does not matter. Arguments and errors as in `couplings`.

    >>> import fieldprob as fp
    >>> net = fp.Mlp(width=700, activation="erf", weight_variance=0.5, readout_variance=8 / 700)
    >>> teacher = fp.tasks.HermiteTeacher((0, 1, 0, -0.3))
    >>> task = fp.tasks.Population(3000, 0.2, 0.0, measure=fp.tasks.Gaussian(150), target=teacher)
    >>> print(f"{critical_noise(net, task):.5f}")
    0.17872
    """
    g = couplings(net, population)
    return population.noise_variance * g.data / critical_point(g.width, g.weight_variance, g.cubic).data
