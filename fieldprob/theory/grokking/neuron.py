"""The measure of one neuron in the variables that matter: its overlap m with the teacher and r = |w|² - m².

Under the prior w ~ N(0, s² I) in d dimensions m is normal and r/s² chi-squared with d - 1 degrees of freedom, at any d
(04 (3.13)). Integrals are sums over panels of m, whose ends are the edges of the histogram and the threshold, so that
bins and fractions are as exact as moments, times generalised Gauss-Laguerre nodes of r.
"""

import itertools
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float
from scipy.linalg import eigvalsh_tridiagonal

_WIDEST = 2.0  # panels, in standard deviations of the prior
_TRACED_PANEL = 0.05
_EDGE, _RADIAL_EDGE = 1e-9, 1e-5
_MANY = 100


class Panels(NamedTuple):
    """Quadrature of m: nodes and weights, the panel of each node, and the edges of panels."""

    m: Float[np.ndarray, " nodes"]
    weights: Float[np.ndarray, " nodes"]
    panel: np.ndarray
    edges: Float[np.ndarray, " edges"]


class Neurons(NamedTuple):
    """Quadrature of the prior of a neuron: E[g] = sum of exp(log_prior) g(m, r)."""

    m: Float[Array, "overlaps radii"]
    r: Float[Array, "overlaps radii"]
    log_prior: Float[Array, "overlaps radii"]


def panels(edges: Float[np.ndarray, " edges"], threshold: float, extent: float, variance) -> Panels:
    """Panels of m on [-extent, extent] that end at the `edges` of bins and at +-threshold, and are no wider than two
    standard deviations of the prior.

    >>> found = panels(np.array([-1.0, 0.0, 1.0]), 0.5, 3.0, 0.25)
    >>> round(float(found.weights @ found.m**2), 12)                # ∫ m² dm = 2/3 3³
    18.0
    """
    spread = _TRACED_PANEL / _WIDEST if isinstance(variance, Tracer) else float(np.sqrt(variance))
    ends = np.unique(np.concatenate([[-extent, extent, -threshold, threshold], edges]))
    ends = ends[np.abs(ends) <= extent]
    parts = [
        np.linspace(a, b, 1 + int(np.ceil((b - a) / (_WIDEST * spread))))[:-1] for a, b in itertools.pairwise(ends)
    ]
    ends = np.append(np.concatenate(parts), extent)
    nodes, weights, panel = [], [], []
    for index, (a, b) in enumerate(itertools.pairwise(ends)):
        count = 5 + int(np.ceil(3 * (b - a) / spread))
        x, w = _legendre(count)
        nodes.append(a + (b - a) * (1 + x) / 2)
        weights.append((b - a) * w / 2)
        panel.append(np.full(count, index))
    return Panels(np.concatenate(nodes), np.concatenate(weights), np.concatenate(panel), ends)


@lru_cache
def _legendre(count: int):
    return np.polynomial.legendre.leggauss(count)


@lru_cache
def laguerre(count: int, degrees_of_freedom: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and logarithms of the weights of the Gauss rule of chi-squared / 2 (Golub & Welsch 1969).

    A weight is one over the sum of squares of the orthonormal polynomials, so that the smallest are right too: a tilt
    may raise them.

    >>> x, log_w = laguerre(5, 19)
    >>> round(float(np.exp(log_w).sum()), 12), round(float(np.exp(log_w) @ (2 * x)), 12)
    (1.0, 19.0)
    """
    alpha, k = degrees_of_freedom / 2 - 1, np.arange(count)
    diagonal, off = 2 * k + alpha + 1, np.sqrt(k[1:] * (k[1:] + alpha))
    x = np.asarray(eigvalsh_tridiagonal(diagonal, off))
    previous, current = np.zeros_like(x), np.ones_like(x)
    total, log_scale = np.ones_like(x), np.zeros_like(x)
    for n in range(count - 1):
        below = off[n - 1] * previous if n else 0.0
        previous, current = current, ((x - diagonal[n]) * current - below) / off[n]
        total = total + current**2
        root = np.sqrt(total)
        previous, current, total, log_scale = previous / root, current / root, np.ones_like(x), log_scale + np.log(root)
    return x, -2 * log_scale


def neurons(rule: Panels, inputs: int, variance, radii: int) -> Neurons:
    """The quadrature of the prior N(0, variance I) in `inputs` dimensions, with `radii` nodes of r.

    Given many inputs r hardly fluctuates, and where the tilt moves it the nodes must follow: at a side well of erf
    r is 1 - 2t times its prior mean, t = m² / (1 + 2 |w|²) (see `phases`).

    >>> rule = panels(np.linspace(-2, 2, 41), 0.5, 3.0, 0.02)
    >>> prior = neurons(rule, 10, 0.02, 20)
    >>> round(float(jnp.sum(jnp.exp(prior.log_prior) * (prior.m**2 + prior.r))), 12)      # E|w|²
    0.2
    """
    freedom = inputs - 1
    x, log_r = laguerre(radii, freedom)
    m = jnp.asarray(rule.m)
    log_m = jnp.log(jnp.asarray(rule.weights)) - m**2 / (2 * variance) - jnp.log(2 * jnp.pi * variance) / 2
    squared = inputs * variance
    sum_of_roots = 1 + 2 * squared + 2 * m**2
    t = 2 * m**2 / (sum_of_roots + jnp.sqrt(sum_of_roots**2 - 16 * squared * m**2))
    # into the lower half of the nodes; with few inputs they reach to where a tilt moves r
    middle, lowest = (1 + 2 * x[0] / freedom) / 2, 0.0 if inputs > _MANY else 0.6
    moved = jax.lax.stop_gradient(jnp.clip((1 - 2 * t) / middle, lowest, 1.0))[:, None]
    x = jnp.asarray(x)[None]
    log_weight = log_m[:, None] + jnp.asarray(log_r)[None] + freedom / 2 * jnp.log(moved) + (1 - moved) * x
    m, r = jnp.broadcast_arrays(m[:, None], 2 * variance * moved * x)
    return Neurons(m, r, log_weight)


def require_resolved(
    theory: str, probability: Float[Array, "*sizes overlaps radii"], rule: Panels, inputs: int
) -> None:
    """Raise a ValueError where a tilted measure reaches the ends of the quadrature (unless it is traced)."""
    if isinstance(probability, Tracer):
        return
    outermost = (rule.panel == 0) | (rule.panel == rule.panel[-1])
    reached = float(jnp.max(jnp.sum(probability[..., outermost, :], axis=(-2, -1))))
    if not reached < _EDGE:
        raise ValueError(
            f"theory {theory!r}: a share {reached:.1g} of the neurons has overlaps at the end of the grid, "
            f"{rule.edges[-1]:.3g}: give a larger extent."
        )
    ends = [probability[..., -2:]]
    if inputs > _MANY:  # with few inputs small weights are no large deviation
        ends.append(probability[..., :2])
    reached = max(float(jnp.max(jnp.sum(end, axis=(-2, -1)))) for end in ends)
    if not reached < _RADIAL_EDGE:
        raise ValueError(
            f"theory {theory!r}: a share {reached:.1g} of the neurons has weights at the end of the grid: give more "
            "radii."
        )
