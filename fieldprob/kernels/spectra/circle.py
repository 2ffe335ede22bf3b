"""Spectra on the circle, on a ring of lattice sites and on an interval: Fourier and cosine modes.

For an even kernel k(theta - theta') and uniform angles, lambda_n = (1/2pi) integral of k(theta) cos(n theta): once for
n = 0 with eigenfunction 1 and twice for n >= 1 with sqrt(2) cos and sqrt(2) sin. On a ring of P sites the eigenvalues
of the circulant matrix over P are the discrete Fourier transform of its first row over P.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from fieldprob.kernels.spectra.base import Quadrature, Spectrum, covariance_eigenvalues


class Fourier(eqx.Module):
    """1, and sqrt(2) cos(n theta - phase_n): one function per wave number, along the target if there is one.

    Points are angles (points, 1), or vectors (points, 2) whose angle counts.
    """

    phases: Float[Array, " modes"]

    def __call__(self, X: Float[Array, "points inputs"]) -> Float[Array, "points modes"]:
        n = jnp.arange(self.phases.shape[0])
        values = jnp.cos(n * point_angles(X)[:, None] - self.phases)
        return jnp.where(n == 0, 1.0, np.sqrt(2.0)) * values

    def aligned(self, nodes, weights, y) -> "Fourier":
        """The modes turned to lie along a target, so that its coefficients are zero or positive."""
        n = jnp.arange(self.phases.shape[0])
        angles = n * point_angles(nodes)[:, None]
        cosine, sine = (weights * y) @ jnp.cos(angles), (weights * y) @ jnp.sin(angles)
        absent = cosine**2 + sine**2 <= (8 * jnp.finfo(y.dtype).eps) ** 2 * jnp.max(y**2)
        phase = jnp.arctan2(jnp.where(absent, 0.0, sine), jnp.where(absent, 1.0, cosine))
        return Fourier(jnp.where(n == 0, 0.0, phase))


def circle(
    kernel: Callable | Float[Array, " modes"],
    *,
    radius: Any = None,
    modes: int | None = None,
    nodes: int = 4096,
) -> Spectrum:
    """Spectrum of an even periodic kernel under the uniform measure on the circle.

    Args:
        kernel: without `radius`, a function of the angle between two points, or the eigenvalues lambda_0, lambda_1, ...
            themselves, (modes,). With `radius`, a network with a `limit` or a covariance kernel(X1, X2) on points of
            the plane.
        radius: |x| of the points in the plane.
        modes: wave numbers 0 ... modes - 1; by default nodes / 8 (or all that are given).
        nodes: of the uniform grid whose FFT is taken, and of the quadrature; an aliasing error of order
            lambda_(nodes - n) remains.

    Returns:
        A homogeneous `Spectrum` with degeneracies 1, 2, 2, ..., labels n, and eigenfunctions of angles (points, 1), or
        of points in the plane if `radius` is given. `with_target` turns each pair of modes along the target.

    Raises:
        ValueError: the kernel is not even or not periodic, is no covariance, or has too few nodes.

    >>> spectrum = circle(lambda angle: jnp.exp(jnp.cos(angle)), modes=3)     # modified Bessel functions I_n(1)
    >>> spectrum.eigenvalues.round(12).tolist()
    [1.266065877752, 0.565159103992, 0.135747669767]
    """
    if not callable(kernel) and not hasattr(kernel, "limit"):
        eigenvalues = jnp.asarray(kernel)
        modes = eigenvalues.shape[0] if modes is None else modes
        eigenvalues, constant = eigenvalues[:modes], None
        nodes = max(nodes, 4 * modes)
    else:
        modes = nodes // 8 if modes is None else modes
        if nodes < 2 * modes:
            raise ValueError(f"nodes = {nodes} for {modes} modes: give at least {2 * modes}.")
        values = _ring_values(kernel, radius, nodes)
        _check_nodes(values, modes)
        eigenvalues = covariance_eigenvalues("kernel", *_fourier(values, modes), "it is no covariance on the circle.")
        constant = values[0]
    degeneracies = jnp.where(jnp.arange(modes) == 0, 1.0, 2.0).astype(eigenvalues.dtype)
    tail = 0.0 if constant is None else jnp.maximum(constant - degeneracies @ eigenvalues, 0.0)
    angles = 2 * jnp.pi * jnp.arange(nodes, dtype=eigenvalues.dtype)[:, None] / nodes
    points = angles if radius is None else radius * jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)
    return Spectrum(
        eigenvalues,
        degeneracies,
        tail=tail,
        eigenfunctions=Fourier(jnp.zeros(modes, eigenvalues.dtype)),
        quadrature=Quadrature(points, jnp.full(nodes, 1 / nodes, eigenvalues.dtype)),
        homogeneous=True,
        name="spectrum on the circle",
    )


def ring(row: Float[Array, " sites"]) -> Spectrum:
    """Spectrum of a circulant kernel on a ring of sites under the uniform measure, from the first row of its matrix.

    All sites // 2 + 1 wave numbers: the spectrum is complete. Points are angles 2 pi site / sites, (points, 1).

    Raises ValueError if the row is not symmetric, row[i] = row[sites - i], or the matrix is no covariance.

    >>> ring(jnp.array([1.0, 0.5, 0.0, 0.5])).weights.tolist()
    [0.5, 0.5, 0.0]
    """
    row = jnp.asarray(row)
    if row.ndim != 1 or row.shape[0] < 2:
        raise ValueError(f"row has shape {row.shape}: give the first row of the matrix, at least 2 sites.")
    sites = row.shape[0]
    modes = sites // 2 + 1
    _check_even(row)
    eigenvalues = covariance_eigenvalues("row", *_fourier(row, modes), "it is no covariance on the ring.")
    n = np.arange(modes)
    single = (n == 0) | (2 * n == sites)
    angles = 2 * jnp.pi * jnp.arange(sites, dtype=row.dtype)[:, None] / sites
    # at n = sites/2 the sine vanishes on the sites and the cosine is +-1: a factor sqrt(2) less than elsewhere
    scale = jnp.where(2 * n == sites, 1 / np.sqrt(2.0), 1.0)
    return Spectrum(
        eigenvalues,
        jnp.where(single, 1.0, 2.0).astype(row.dtype),
        eigenfunctions=_Ring(Fourier(jnp.zeros(modes, row.dtype)), scale),
        quadrature=Quadrature(angles, jnp.full(sites, 1 / sites, row.dtype)),
        homogeneous=True,
        name="spectrum on a ring",
    )


class _Ring(eqx.Module):
    fourier: Fourier
    scale: Float[Array, " modes"]

    def __call__(self, X):
        return self.scale * self.fourier(X)

    def aligned(self, nodes, weights, y) -> "_Ring":
        aligned = self.fourier.aligned(nodes, weights, y)
        phases = jnp.where(self.scale == 1, aligned.phases, 0.0)
        return _Ring(Fourier(phases), self.scale)


class Cosine(eqx.Module):
    """sqrt(2) cos(pi n x), n = first ... first + modes - 1 (and 1 for n = 0), on [0, 1]; X is (points, 1)."""

    first: int = eqx.field(static=True)
    modes: int = eqx.field(static=True)

    def __call__(self, X: Float[Array, "points inputs"]) -> Float[Array, "points modes"]:
        n = jnp.arange(self.first, self.first + self.modes)
        x = jnp.asarray(X).reshape(-1, 1)
        return jnp.where(n == 0, 1.0, np.sqrt(2.0)) * jnp.cos(jnp.pi * n * x)


def interval(eigenvalues: Float[Array, " modes"], *, first: int = 1, nodes: int | None = None) -> Spectrum:
    """Spectrum with cosine modes sqrt(2) cos(pi n x) on the uniform interval [0, 1], n = first, first + 1, ....

    Its k(x, x) is not constant, unlike that of `circle`. The quadrature is the midpoint rule, which integrates products
    of up to four modes exactly.

    Raises ValueError for a negative `first`, or fewer nodes than twice the largest wave number.

    >>> interval(jnp.array([1.0, 0.5])).trace.item()
    1.5
    """
    eigenvalues = jnp.asarray(eigenvalues)
    modes = eigenvalues.shape[0]
    if first < 0:
        raise ValueError(f"first = {first}: cosine modes count from 0.")
    nodes = max(256, 4 * (first + modes)) if nodes is None else nodes
    if nodes < 2 * (first + modes):
        raise ValueError(f"nodes = {nodes}: give at least {2 * (first + modes)} for modes up to {first + modes - 1}.")
    x = (jnp.arange(nodes, dtype=eigenvalues.dtype)[:, None] + 0.5) / nodes
    return Spectrum(
        eigenvalues,
        labels=tuple(range(first, first + modes)),
        eigenfunctions=Cosine(first, modes),
        quadrature=Quadrature(x, jnp.full(nodes, 1 / nodes, eigenvalues.dtype)),
        name="spectrum on the interval",
    )


def _fourier(values, modes):
    """Eigenvalues and their rounding error."""
    nodes = values.shape[0]
    rounding = 8 * jnp.finfo(values.dtype).eps * jnp.sqrt(jnp.mean(values**2))
    return jnp.fft.rfft(values).real[:modes] / nodes, rounding


def _check_nodes(values: Array, modes: int) -> None:
    """The eigenvalues that half of the nodes can give are those that all give."""
    fine, coarse = (_fourier(v, min(modes, values.shape[0] // 4))[0] for v in (values, values[::2]))
    if isinstance(fine, Tracer):
        return
    change = float(jnp.max(jnp.abs(fine - coarse)) / jnp.abs(values[0]))
    if not change < max(1e-5, 1e3 * float(jnp.finfo(values.dtype).eps)):
        raise ValueError(
            f"nodes = {values.shape[0]} are too few for this kernel: half of them change an eigenvalue by {change:.1g} "
            f"of k(0). Give nodes={4 * values.shape[0]}."
        )


def _ring_values(kernel, radius, nodes):
    angles = 2 * jnp.pi * jnp.arange(nodes) / nodes
    if radius is None:
        if hasattr(kernel, "limit"):
            raise ValueError("a network's kernel depends on |x|: give radius=..., for example radius=2**0.5.")
        values = jnp.asarray(kernel(angles))
    else:
        points = radius * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
        covariance = getattr(kernel, "limit", None) or kernel
        values = jnp.asarray(covariance(points[:1], points))[0]
    _check_even(values)
    return values


def _check_even(values: Array) -> None:
    if isinstance(values, Tracer):
        return
    odd = float(jnp.max(jnp.abs(values[1:] - values[1:][::-1])))
    if odd > 1e3 * float(jnp.finfo(values.dtype).eps) * float(jnp.max(jnp.abs(values))):
        raise ValueError(
            f"kernel is not even and periodic: k(theta) and k(2 pi - theta) differ by up to {odd:.3g}. Give a function "
            "of the angle with k(-theta) = k(theta) = k(theta + 2 pi)."
        )


def point_angles(X):
    X = jnp.asarray(X)
    if X.ndim == 1:
        return X
    if X.ndim != 2 or X.shape[1] > 2:
        raise ValueError(f"X has shape {X.shape}: give angles (points, 1), or points of the plane (points, 2).")
    return X[:, 0] if X.shape[1] == 1 else jnp.arctan2(X[:, 1], X[:, 0])
