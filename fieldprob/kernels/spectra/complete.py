"""Every eigenfunction of degenerate eigenspaces: cosines and sines on the circle, all harmonics on the sphere.

On the sphere the harmonics of degree l are found from the addition theorem, sum over m of Y_m(x) Y_m(z) =
N(d, l) P_l(x.z): with z at N(d, l) generic anchors and L L^T this matrix between the anchors, N(d, l) P_l(x.z) L^-T are
orthonormal (Atkinson & Han, Spherical Harmonics (2012), theorem 2.9).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fieldprob.kernels.spectra import gegenbauer
from fieldprob.kernels.spectra.base import Spectrum
from fieldprob.kernels.spectra.circle import Fourier, point_angles
from fieldprob.kernels.spectra.sphere import Zonal

_LARGEST = 4000  # functions of one degree


class _Complete(eqx.Module):
    """All functions of the first eigenspaces, then the listed one of each of the others."""

    every: Any
    listed: Any
    spaces: int = eqx.field(static=True)

    def __call__(self, X: Float[Array, "points inputs"]) -> Float[Array, "points modes"]:
        return jnp.concatenate([self.every(X), self.listed(X)[:, self.spaces :]], axis=1)


class _Pairs(eqx.Module):
    """1, then sqrt(2) cos(n theta - phase), sqrt(2) sin(n theta - phase) for n = 1, 2, ..."""

    phases: Float[Array, " spaces"]

    def __call__(self, X):
        angle = jnp.arange(self.phases.size) * point_angles(X)[:, None] - self.phases
        pairs = np.sqrt(2.0) * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=2)[:, 1:]
        return jnp.concatenate([jnp.ones((len(angle), 1)), pairs.reshape(len(angle), -1)], axis=1)


class _Harmonics(eqx.Module):
    """Spherical harmonics of degrees 0, 1, ...; the first of each degree is the zonal one."""

    anchors: tuple[Float[Array, "functions inputs"], ...]
    factors: tuple[Float[Array, "functions functions_"], ...]

    @eqx.filter_jit
    def __call__(self, X):
        x = X / jnp.linalg.norm(X, axis=1, keepdims=True)
        columns = []
        for degree, (z, L) in enumerate(zip(self.anchors, self.factors, strict=True)):
            cross = _addition(x, z, degree)
            columns.append(jax.scipy.linalg.solve_triangular(L, cross.T, lower=True).T)
        return jnp.concatenate(columns, axis=1)


def complete(spectrum: Spectrum, spaces: int | None = None) -> Spectrum:
    """The spectrum with every eigenfunction of its first eigenspaces as a mode of its own, with degeneracy one.

    Args:
        spectrum: of `spectra.circle` or `spectra.sphere`, or without degeneracies (returned as it is).
        spaces: how many eigenspaces to list in full; all by default. The others stay as they are.

    Returns:
        A `Spectrum` with the target along the first function of each eigenspace, and no quadrature (that of a sphere
        is for functions of one direction only). Labels are pairs (label of the eigenspace, 0, 1, ...).

    Raises:
        ValueError: eigenfunctions of another kind, or a degree with more than 4000 of them.

    >>> from fieldprob.kernels import spectra
    >>> sphere = complete(spectra.sphere(lambda t: jnp.exp(t), inputs=4, modes=5), spaces=3)
    >>> sphere.degeneracies.tolist()                                    # 1 + 4 + 9 functions, then two eigenspaces
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 16.0, 25.0]
    """
    spaces = spectrum.modes if spaces is None else spaces
    if not 1 <= spaces <= spectrum.modes:
        raise ValueError(f"spaces = {spaces}: the spectrum has 1 to {spectrum.modes} eigenspaces.")
    counts = np.asarray(spectrum.degeneracies[:spaces]).round().astype(int)
    if np.all(counts == 1):
        return spectrum
    functions = spectrum.eigenfunctions
    if isinstance(functions, Fourier):
        every: Any = _Pairs(functions.phases[:spaces])
    elif isinstance(functions, Zonal):
        every = _harmonics(functions.direction, counts)
    else:
        raise ValueError(
            f"the {spectrum.name} lists one function of each degenerate eigenspace and the others are not known: "
            "spectra.complete takes those of spectra.circle and spectra.sphere."
        )
    total = int(counts.sum())
    space = jnp.concatenate([jnp.repeat(jnp.arange(spaces), counts, total_repeat_length=total),
                             jnp.arange(spaces, spectrum.modes)])  # fmt: skip
    first = np.concatenate([[n == 0 for count in counts for n in range(count)], np.ones(spectrum.modes - spaces)])
    coefficients = spectrum.coefficients
    return Spectrum(
        spectrum.eigenvalues[space],
        jnp.concatenate([jnp.ones(total), spectrum.degeneracies[spaces:]]),
        None if coefficients is None else coefficients[space] * first,
        tail=spectrum.tail,
        target_tail=spectrum.target_tail,
        labels=[(spectrum.labels[s], n) for s, count in enumerate(counts) for n in range(count)]
        + [(label, 0) for label in spectrum.labels[spaces:]],
        eigenfunctions=_Complete(every, functions, spaces),
        name=f"{spectrum.name}, every function",
    )


def _harmonics(direction, counts) -> _Harmonics:
    inputs, rng = direction.size, np.random.default_rng(0)
    if counts.max() > _LARGEST:
        raise ValueError(f"a degree has {counts.max()} functions: list at most {_LARGEST}, with spaces=....")
    anchors, factors = [], []
    for degree, count in enumerate(counts):
        z = rng.normal(size=(count, inputs))
        z[0] = direction
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        anchors.append(jnp.asarray(z, direction.dtype))
        factors.append(jnp.asarray(np.linalg.cholesky(_addition(z, z, degree)), direction.dtype))
    return _Harmonics(tuple(anchors), tuple(factors))


def _addition(x, z, degree):
    """N(d, l) P_l(x.z), of NumPy or of JAX as the points are."""
    t = x @ z.T
    values = gegenbauer.polynomials(t.reshape(-1), x.shape[1], degree + 1)[:, degree]
    return np.sqrt(gegenbauer.degeneracy(x.shape[1], degree)) * values.reshape(t.shape)
