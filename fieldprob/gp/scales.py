"""The random scale of a deep linear network, s = product over layers of chi^2_N / N, in the coordinate z = log s.

Its Mellin transform is E s^c = prod_l (2/N_l)^c Gamma(N_l/2 + c) / Gamma(N_l/2). For one layer the density is closed;
for several it is the Mellin inversion along the line c + ik, where c(z) is the saddle point, sum_l [psi(N_l/2 + c) -
log N_l/2] = z: there nothing cancels, however far z is in a tail (theory 02, (57)-(59)).

Averages over z are trapezoid sums in x = log(N_min/2 + c), which follows log s where the density is Gaussian and
compresses its left tail exp(N_min z / 2). Such sums converge exponentially.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln, polygamma
from jaxtyping import Array, Float

from fieldprob.gp.modes import Diagonal

_LEVEL = 42.0  # log density below its maximum at which a range ends: exp(-42) is rounding error
_MELLIN_NODES = 512
_LEAST_SHAPE = 0.25  # of the tilted density: a line closer to the pole of Gamma needs more nodes than it is worth
_SHIFT = 8  # of the argument of log Gamma, where Stirling's series is exact to rounding
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)


class Nodes(NamedTuple):
    """Nodes z = log s of a quadrature, their log weights, and the saddle point c of each."""

    z: Float[Array, " nodes"]
    log_weight: Float[Array, " nodes"]
    tilt: Float[Array, " nodes"]


def log_density(nodes: Nodes, widths: tuple, powers: tuple[int, ...] | None = None) -> Float[Array, " nodes"]:
    """Log density of z = log(prod_l s_l), s_l ~ chi^2_{N_l} / N_l, times E[prod_l s_l^powers_l | z].

    >>> nodes = scale_nodes((3,), jnp.zeros_like, jnp.zeros(()))
    >>> round(jnp.sum(jnp.exp(nodes.log_weight + log_density(nodes, (3,)))).item(), 12)
    1.0
    """
    powers = powers or (0,) * len(widths)
    half = jnp.asarray(widths, float) / 2
    shape = half + jnp.asarray(powers, float)
    if len(widths) == 1:
        z, n = nodes.z, half[0]
        return shape[0] * z - n * jnp.exp(z) + n * jnp.log(n) - gammaln(n)

    def invert(node):
        z, c = node
        tilted = shape + jnp.maximum(c, _LEAST_SHAPE - jnp.min(half))
        at_saddle = jnp.sum(gammaln(tilted))
        reach = 9 / jnp.sqrt(jnp.sum(1 / tilted)) + 25  # |Gamma(a + ik) / Gamma(a)| is below exp(-42) there
        k = jnp.linspace(0.0, reach, _MELLIN_NODES)
        scaled = z + jnp.sum(jnp.log(half))
        phase = jnp.sum(_log_gamma(tilted + 1j * k[:, None]), axis=1) - 1j * k * scaled
        wave = jnp.exp(phase - at_saddle).real
        inverse = k[1] / jnp.pi * (jnp.sum(wave) - wave[0] / 2)
        return at_saddle - (tilted - shape)[0] * scaled + jnp.log(jnp.maximum(inverse, 0.0))

    norm = jnp.sum(gammaln(half)) + jnp.sum((shape - half) * jnp.log(half))
    return jax.lax.map(invert, (nodes.z, nodes.tilt)) - norm


def scale_nodes(
    widths: tuple,
    log_likelihood: Callable[[Float[Array, " nodes"]], Float[Array, " nodes"]],
    growth: Float[Array, ""],
    count: int = 401,
) -> Nodes:
    """Nodes for averages over p(z) exp(log_likelihood(exp z)), wherever that has its mass; constants to derivatives.

    Args:
        widths: of the layers.
        log_likelihood: of an array of scales s.
        growth: a bound on the derivative of log_likelihood by log s.
        count: number of nodes. The likelihood varies on scales of order one in z, so that 401 nodes are ample.
    """
    half = jnp.asarray(widths, float) / 2
    least = jnp.min(half)

    def saddle(x):
        shape = half + (jnp.exp(x) - least)[:, None]
        curvature = jnp.sum(polygamma(1, shape), axis=1)
        return shape, jnp.sum(digamma(shape) - jnp.log(half), axis=1), curvature

    def log_mass(x):
        shape, z, curvature = saddle(x)
        prior = jnp.sum(gammaln(shape) - gammaln(half), axis=1) - (jnp.exp(x) - least) * (z + jnp.sum(jnp.log(half)))
        return prior + 0.5 * jnp.log(curvature) + x + log_likelihood(jnp.exp(z))

    def zoom(_, ends):
        x = jnp.linspace(ends[0], ends[1], 101)
        mass = log_mass(x)
        high = mass > jnp.max(mass) - _LEVEL
        first, last = jnp.argmax(high), 100 - jnp.argmax(high[::-1])
        return x[jnp.maximum(first - 1, 0)], x[jnp.minimum(last + 1, 100)]

    lowest = math.log(len(widths) / 600)  # log s stays above -600 there, where exp does not underflow
    ends = jnp.full((), lowest), jnp.log(2 * (least + growth + 50))
    lower, upper = jax.lax.fori_loop(0, 5, zoom, jax.lax.stop_gradient(ends))
    x = jnp.linspace(lower, upper, count)
    _, z, curvature = saddle(x)
    nodes = Nodes(z, jnp.log(x[1] - x[0]) + x + jnp.log(curvature), jnp.exp(x) - least)
    return jax.lax.stop_gradient(nodes)


def posterior_nodes(data: Diagonal, widths: tuple, count: int = 401) -> Nodes:
    """Nodes for averages over the scale given data."""
    growth = 0.5 * jnp.sum(data.y**2 / jnp.maximum(4 * data.noise, data.eigenvalues))
    return scale_nodes(widths, data.log_likelihood, growth, count)


def _log_gamma(z):
    """log Gamma of complex numbers with positive real part, up to a multiple of 2 pi i."""
    product = jax.lax.fori_loop(0, _SHIFT, lambda j, product: product * (z + j), jnp.ones_like(z))
    w = z + _SHIFT
    series = jnp.polyval(jnp.asarray(_STIRLING[::-1]), w**-2, unroll=1) / w
    return (w - 0.5) * jnp.log(w) - w + 0.5 * jnp.log(2 * jnp.pi) + series - jnp.log(product)
