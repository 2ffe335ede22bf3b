"""Spectrum of the Gaussian (RBF) kernel under Gaussian inputs: Hermite functions.

k(x, x') = exp(-(x - x')^2 / 2 length^2) with x ~ N(0, variance). With a = 1/(4 variance), b = 1/(2 length^2),
g = sqrt(a^2 + 2ab), A = a + b + g and B = b/A,

    lambda_n = sqrt(2a/A) B^n,   phi_n(x) = (g/a)^(1/4) exp(-(g - a) x^2) H_n(sqrt(2g) x) / sqrt(2^n n!)

(Zhu, Williams, Rohwer & Morciniec 1997; Rasmussen & Williams 2006, section 4.3.1). With several inputs eigenvalues and
eigenfunctions are products over the inputs.
"""

from itertools import product
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from fieldprob.kernels.spectra.base import Quadrature, Spectrum
from fieldprob.kernels.spectra.gegenbauer import three_terms

_NODES = {1: (1024, 16384), 2: (96, 512), 3: (40, 64)}  # a side, by number of inputs: the fewest and the most
_RANGE = 10.0  # standard deviations, the least: a normal density falls to 1e-22 there


class Hermite(eqx.Module):
    """The products of Hermite functions with the given indices, one tuple a mode."""

    a: Float[Array, " inputs"]
    g: Float[Array, " inputs"]
    indices: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def __call__(self, X: Float[Array, "points inputs"]) -> Float[Array, "points modes"]:
        X = jnp.asarray(X)
        inputs = self.a.shape[0]
        if X.ndim != 2 or X.shape[1] != inputs:
            raise ValueError(f"X has shape {X.shape}: give (points, {inputs}).")
        degrees = max(max(index) for index in self.indices) + 1
        values = 1.0
        for i in range(inputs):
            factor = _hermite_functions(X[:, i], self.a[i], self.g[i], degrees)
            values = values * factor[:, np.array([index[i] for index in self.indices])]
        return values  # pyright: ignore[reportReturnType]


def rbf_gaussian(
    length: Any = 1.0, variance: Any = 1.0, *, inputs: int = 1, modes: int = 32, nodes: int | None = None
) -> Spectrum:
    """Spectrum of exp(-sum_i (x_i - x'_i)^2 / 2 length_i^2) under x_i ~ N(0, variance_i).

    Args:
        length: length scale; one number, or one for each input.
        variance: of the inputs; one number, or one for each input.
        inputs: dimension of x.
        modes: degrees along each input; with several inputs all products of total degree below `modes`.
        nodes: of the quadrature, a side; by default as many as the highest mode needs, within reason, and no quadrature
            for more than three inputs.

    Returns:
        A `Spectrum` of trace 1, sorted by total degree, with labels n, or tuples of one n for each input.
        Differentiable in length and variance.

    Raises:
        ValueError: a length or variance that is not positive, wrong lengths, too few nodes for the highest mode.

    Source: Rasmussen & Williams (2006), section 4.3.1.

    >>> spectrum = rbf_gaussian(length=1.0, variance=1.0, modes=4)
    >>> spectrum.eigenvalues.round(6).tolist(), round(spectrum.trace.item(), 12)
    ([0.618034, 0.236068, 0.09017, 0.034442], 1.0)
    """
    length, variance = _per_input("length", length, inputs), _per_input("variance", variance, inputs)
    if modes < 1 or inputs < 1:
        raise ValueError(f"modes = {modes} and inputs = {inputs} must be at least 1.")
    a, b = 1 / (4 * variance), 1 / (2 * length**2)
    g = jnp.sqrt(a**2 + 2 * a * b)
    A = a + b + g
    indices = _indices(inputs, modes)
    degrees = np.array(indices)
    eigenvalues = jnp.prod(jnp.sqrt(2 * a / A)) * jnp.prod((b / A) ** degrees, axis=1)
    eigenfunctions = Hermite(a, g, indices)
    quadrature = _quadrature(variance, inputs, *_grid(g, variance, modes, nodes))
    _check(eigenfunctions, quadrature)
    return Spectrum(
        eigenvalues,
        tail=jnp.maximum(1.0 - jnp.sum(eigenvalues), 0.0),
        labels=tuple(range(modes)) if inputs == 1 else indices,
        eigenfunctions=eigenfunctions,
        quadrature=quadrature,
        name="spectrum of the Gaussian kernel",
    )


def _hermite_functions(x, a, g, degrees):
    # the exponential first: H_n alone overflows
    z = jnp.sqrt(2 * g) * x
    n = np.arange(degrees - 1.0)
    coefficients = np.sqrt(np.stack([2 / (n + 1), n / (n + 1)], axis=1))
    first = (g / a) ** 0.25 * jnp.exp(-(g - a) * x**2)
    return three_terms(first, lambda p, q, c: c[0] * z * p - c[1] * q, coefficients)


def _indices(inputs: int, modes: int) -> tuple[tuple[int, ...], ...]:
    """Tuples of total degree below `modes`, by degree."""
    if inputs == 1:
        return tuple((n,) for n in range(modes))
    found = []
    for degree in range(modes):
        for head in product(range(degree + 1), repeat=inputs - 1):
            if sum(head) <= degree:
                found.append((*head, degree - sum(head)))
    return tuple(found)


def _grid(g, variance, modes, nodes) -> tuple[int | None, float]:
    """Nodes a side and half the width of the grid in standard deviations, for the square of the highest mode: it lives
    on |x| sqrt(2g) < sqrt(2n + 1) + 6, with wave numbers up to 2 sqrt(2g) (sqrt(2n + 1) + 6)."""
    bounds = _NODES.get(g.shape[0])
    if isinstance(g, Tracer) or isinstance(variance, Tracer):
        return nodes or (bounds and bounds[0]), _RANGE
    reach, scale = np.sqrt(2 * modes - 1) + 6, np.asarray(jnp.sqrt(2 * g * variance))
    half_width = max(_RANGE, float(np.max(reach / scale)))
    if nodes is None and bounds is not None:
        needed = 2 * half_width * float(np.max(scale)) * 2 * reach / (2 * np.pi)
        nodes = min(max(bounds[0], int(needed) + 1), bounds[1])
    return nodes, half_width


def _quadrature(variance, inputs, nodes, half_width):
    """The trapezium rule, which converges exponentially for whatever decays as a Gaussian."""
    if nodes is None:
        return None
    z = np.linspace(-half_width, half_width, nodes)
    density = np.exp(-(z**2) / 2)
    density /= density.sum()
    grid = np.stack(np.meshgrid(*[z] * inputs, indexing="ij"), axis=-1).reshape(-1, inputs)
    weights = np.stack(np.meshgrid(*[density] * inputs, indexing="ij"), axis=-1).reshape(-1, inputs).prod(axis=1)
    return Quadrature(jnp.asarray(grid, variance.dtype) * jnp.sqrt(variance), jnp.asarray(weights, variance.dtype))


def _check(eigenfunctions, quadrature):
    if quadrature is None or isinstance(eigenfunctions.g, Tracer):
        return
    # the highest degree along each input oscillates fastest
    top = max(map(max, eigenfunctions.indices))
    highest = [k for k, index in enumerate(eigenfunctions.indices) if max(index) == top]
    phi = eigenfunctions(quadrature.nodes)[:, np.array(highest)]
    error = float(jnp.max(jnp.abs(quadrature.weights @ phi**2 - 1)))
    if not error < 1e-5:
        raise ValueError(
            f"nodes: the quadrature normalises the highest mode only to {error:.1g}. Give more nodes, or fewer modes."
        )


def _per_input(name: str, value: Any, inputs: int) -> Array:
    array = jnp.asarray(value, jnp.result_type(float))
    if array.shape not in ((), (inputs,)):
        raise ValueError(f"{name} has shape {array.shape}: give one number, or one for each of {inputs} inputs.")
    if not isinstance(array, Tracer) and not bool(jnp.all((array > 0) & jnp.isfinite(array))):
        raise ValueError(f"{name} = {value} must be positive and finite.")
    return jnp.broadcast_to(array, (inputs,))
