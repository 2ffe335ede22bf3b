"""Phases of an erf network that learns z + epsilon He_3(z), as the number of inputs grows.

At width, points and inputs d all large the phase depends on

    A = readout_variance n / (noise_variance d),   G = width readout_variance / d,   u = A² / G,

weight_variance V and epsilon (04 (3.10)). The law of m = w . teacher of one neuron is exp(-d S), in the variable
t = m² / (1 + 2 |w|²) of [0, 1/2)

    S = E(t) - (2u / pi) t (b - 2 c t)²,     E = t / (2V (1 - 2t)) + { -ln(1 - 2t) / 2,  norm="free"
                                                                    { t / (1 - 2t),     norm="fixed"

where y - f = b He_1 + c He_3. E is the prior's: with a free norm the minimum over r = |w|² - m², which is V (1 - 2t)
and not its prior mean V; a fixed one, r = V, is the approximation of the paper's (13) and of 04 (3.14), which has wells
too high. Three phases: only the well at zero, with c = epsilon; one in which side wells exist but are higher; and the
mixed one, in which they are exactly as deep, held there by the residual, and hold droplets / d of the neurons.

With rho = -b / 2c the wells are given by t alone: t of a side well as deep as the centre has
rho = 2 / (E'/E - 1/t) - t and u c² = pi E / (8 t (rho + t)²); so every equation here is one for t.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from fieldprob.activations import Erf
from fieldprob.tasks import Gaussian
from fieldprob.theory.grokking.setting import setting
from fieldprob.theory.grokking.wells import (
    Couplings,
    action_at,
    central_well,
    check_norm,
    coexisting,
    crossing,
    largest,
    minus_slope,
    newborn,
    newborn_at,
    overlap_at,
    pull_and_gain,
    smallest,
)
from fieldprob.theory.precision import require_float64
from fieldprob.theory.solvers import bisect

_SCAN = 4001
_NAME = "grokking phases"


class Critical(NamedTuple):
    """Where the side wells become as deep as the central one.

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
    coefficients = _without_trailing_zeros(population.target.coefficients)
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


def _without_trailing_zeros(coefficients: tuple) -> tuple:
    while coefficients and not isinstance(coefficients[-1], Tracer) and coefficients[-1] == 0:
        coefficients = coefficients[:-1]
    return coefficients


def _critical(g: Couplings, norm: str) -> Critical:
    t, (b, A, u) = crossing(coexisting, g, norm)
    pull, _ = pull_and_gain(u, A, g.weight_variance)
    spread = g.weight_variance / (1 - pull * b**2)
    # the maximum of S lies below the t at which a well of this rho is born, and beyond b = 2 c t where c > 0
    rho, strength = -b / (2 * g.cubic), u * g.cubic**2
    low, high = jnp.maximum(smallest(g), -rho), newborn_at(rho, g, norm)

    def slope(t, args):
        return minus_slope(t, (*args, norm))

    top = bisect(slope, low, high, (rho, strength, g.weight_variance))
    barrier = action_at(top, u, b, g.cubic, g.weight_variance, norm)
    return Critical(A, u, b, overlap_at(t, g.weight_variance, norm), spread, barrier)


def _spinodal(g: Couplings, norm: str) -> Spinodal:
    t, (b, A, u) = crossing(newborn, g, norm)
    height = action_at(t, u, b, g.cubic, g.weight_variance, norm)
    return Spinodal(A, u, b, overlap_at(t, g.weight_variance, norm), height)


def _mixed(g: Couplings, norm: str):
    """b, c, |m|, droplets and spread of the mixed phase (04 (3.24)-(3.26)), NaN where there is none.

    Coexistence at the given u makes b and c functions of t. The equations of the two residuals, with droplets
    eliminated, then one for t; the phase is its root nearest to c = epsilon, on the way to c = 0.
    """

    def state(t, g):
        rho, strength = coexisting(t, g.weight_variance, norm)
        c = jnp.sign(g.cubic) * jnp.sqrt(strength / g.u)
        b = -2 * c * rho
        h_1, h_3 = 2 * jnp.sqrt(t / jnp.pi), -4 * t**1.5 / jnp.sqrt(6 * jnp.pi)
        return b, c, h_1, h_3, 1 - pull_and_gain(g.u, g.data, g.weight_variance)[0] * b**2

    def defect(t, g):
        b, c, h_1, h_3, left = state(t, g)
        learned = (1 - b) * left - b * pull_and_gain(g.u, g.data, g.weight_variance)[1]
        return learned * h_3 - jnp.sqrt(6.0) * (g.cubic - c) * h_1 * left

    start = bisect(lambda t, g: jnp.abs(state(t, g)[1]) - jnp.abs(g.cubic), smallest(g), largest(g), g)
    grid = jax.lax.stop_gradient(start) * jnp.linspace(1.0, 0.0, _SCAN, endpoint=False)
    values, inside = defect(grid, g), state(grid, g)[-1] > 0
    crossing = inside[1:] & inside[:-1] & (jnp.sign(values[1:]) != jnp.sign(values[:-1]))
    first, found = jnp.argmax(crossing), jnp.any(crossing)
    t = jnp.where(found, bisect(defect, grid[first + 1], grid[first], g), 0.1)
    b, c, h_1, h_3, left = state(t, g)
    droplets = jnp.sqrt(6.0) * (g.cubic - c) / (g.data * h_3 * (b * h_1 + jnp.sqrt(6.0) * c * h_3))
    m = overlap_at(t, g.weight_variance, norm)
    return tuple(jnp.where(found, x, jnp.nan) for x in (b, c, m, droplets, g.weight_variance / left))


def _phase(g: Couplings, norm: str) -> Phase:
    critical = jax.lax.stop_gradient(crossing(coexisting, g, norm)[1][1])
    born = jax.lax.stop_gradient(crossing(newborn, g, norm)[1][1])
    mixed, metastable = g.data > critical, (g.data > born) & (g.data <= critical)
    # each branch is followed where it exists: what is not needed is moved there
    b, spread = central_well(g)
    beyond = g._replace(data=jnp.where(metastable, g.data, (born + critical) / 2))
    b_beyond = central_well(beyond)[0]
    rho, strength = -b_beyond / (2 * g.cubic), beyond.u * g.cubic**2

    def rise(t, args):
        return -minus_slope(t, (*args, norm))

    t = bisect(rise, newborn_at(rho, g, norm), largest(g), (rho, strength, g.weight_variance))
    well = jnp.where(metastable, overlap_at(t, g.weight_variance, norm), jnp.nan)
    central = (b, g.cubic * jnp.ones_like(b), well, jnp.zeros_like(b), spread)
    droplets = _mixed(g._replace(data=jnp.where(mixed, g.data, 1.5 * critical)), norm)
    return Phase(mixed, metastable, *(jnp.where(mixed, x, y) for x, y in zip(droplets, central, strict=True)))


@partial(jax.jit, static_argnums=(0, 1))
def _each(function, norm: str, g: Couplings):
    shape = jnp.broadcast_shapes(*(x.shape for x in g))
    flat = Couplings(*(jnp.broadcast_to(x, shape).reshape(-1) for x in g))
    return jax.tree.map(lambda x: x.reshape(shape), jax.vmap(lambda g: function(g, norm))(flat))


def _vectorised(function, norm: str, **values):
    require_float64(_NAME)
    check_norm(norm)
    arrays = {name: jnp.asarray(value, float) for name, value in values.items()}
    for name, array in arrays.items():
        valid = array != 0 if name == "cubic" else array > 0
        if not isinstance(array, Tracer) and not bool(jnp.all(valid & jnp.isfinite(array))):
            need = "finite, not zero" if name == "cubic" else "positive and finite"
            raise ValueError(f"{name} is {values[name]}: it must be {need}.")
    return _each(function, norm, Couplings(**arrays))


def critical_point(width, weight_variance, cubic, *, norm: str = "free") -> Critical:
    """Where neurons begin to specialise, as data or width are varied. Arguments broadcast.

    Args:
        width: G = width readout_variance / inputs.
        weight_variance: of the first layer, per fan-in.
        cubic: epsilon of the target z + epsilon He_3.
        norm: "free", the limit of many inputs; "fixed", with |w|² - m² at its prior mean as in the paper.

    Differentiable in all numbers.

    Source: theory 04, (3.22)-(3.23), and the module for a free norm.

    >>> for norm in ("free", "fixed"):
    ...     critical = critical_point(8 / 150, 0.5, -0.3, norm=norm)
    ...     print(*(f"{x:.4f}" for x in (critical.data, critical.u, critical.linear, critical.overlap)))
    1.0528 20.7840 0.3517 0.7293
    1.2789 30.6691 0.2920 0.7214
    """
    return _vectorised(_critical, norm, data=1.0, width=width, weight_variance=weight_variance, cubic=cubic)


def spinodal(width, weight_variance, cubic, *, norm: str = "free") -> Spinodal:
    """Where side wells first exist, not yet as deep as the central one. Arguments as in `critical_point`.

    >>> print(f"{spinodal(8 / 150, 0.5, -0.3, norm='fixed').u:.2f}")
    26.95
    """
    return _vectorised(_spinodal, norm, data=1.0, width=width, weight_variance=weight_variance, cubic=cubic)


def phase_diagram(data, width, weight_variance, cubic, *, norm: str = "free") -> Phase:
    """The state at given couplings A and G, weight_variance and epsilon, numbers or arrays that broadcast.

    Differentiable within a phase. In the mixed phase the share of neurons in side wells is droplets / inputs. Of
    several roots c between epsilon and zero the nearest to epsilon is taken; NaN where there is none. `norm` as in
    `critical_point`.

    Source: theory 04, (3.22)-(3.26), and the module for a free norm.

    >>> mixed = phase_diagram(8 / 700 * 3000 / 150 / 0.15, 8 / 150, 0.5, -0.3)
    >>> print(*(f"{x:.4f}" for x in (mixed.linear, mixed.cubic, mixed.overlap, mixed.droplets)))
    0.2186 -0.2618 0.8510 2.8404
    """
    return _vectorised(_phase, norm, data=data, width=width, weight_variance=weight_variance, cubic=cubic)


def critical_noise(net: Any, population: Any, *, norm: str = "free") -> Float[Array, ""]:
    """The noise variance below which neurons specialise, in the limit of many inputs at the network's couplings.

    The task's own noise does not matter. Arguments and errors as in `couplings` and `critical_point`.

    >>> import fieldprob as fp
    >>> net = fp.Mlp(width=700, activation="erf", weight_variance=0.5, readout_variance=8 / 700)
    >>> teacher = fp.tasks.HermiteTeacher((0, 1, 0, -0.3))
    >>> task = fp.tasks.Population(3000, 0.2, 0.0, measure=fp.tasks.Gaussian(150), target=teacher)
    >>> print(f"{critical_noise(net, task):.4f} {critical_noise(net, task, norm='fixed'):.4f}")
    0.2171 0.1787
    """
    g = couplings(net, population)
    return population.noise_variance * g.data / critical_point(g.width, g.weight_variance, g.cubic, norm=norm).data
