"""Kernels with rotation symmetry on any data: low-degree harmonic targets on the unit sphere (theory 06, (19)-(21)).

Points are taken to the sphere, x / |x|: data need not be uniform there, nor fill it. A rotation-invariant kernel has
the harmonics of degree l as one eigenspace on the uniform measure, of dimension N(d, l) and so of an eigenvalue below
k(1)/N(d, l) ~ l! d^-l: degree l needs at least of order d^l points, but for what the data's E_D φ² takes back.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from fieldprob.kernels import Spectrum, spectra
from fieldprob.kernels.spectra import gegenbauer
from fieldprob.theory.learnability.complexity import sample_complexity
from fieldprob.theory.learnability.setting import KernelSpectrum


class Harmonic(eqx.Module):
    """sqrt(d (d + 2) ... (d + 2l - 2)) (u_1·x) ... (u_l·x), orthonormal u: a harmonic of degree l of norm one (20).

    Args:
        directions: (degree, inputs), orthonormal.

    Raises:
        ValueError: directions that are not orthonormal; their product would be no harmonic.

    >>> linear = Harmonic(jnp.eye(1, 3))
    >>> round(linear(jnp.array([[2.0, 0.0, 0.0]])).item(), 12)          # sqrt(3) at the pole
    1.732050807569
    """

    directions: Float[Array, "degree inputs"]

    def __check_init__(self):
        if isinstance(self.directions, Tracer):
            return
        gram = np.asarray(self.directions @ self.directions.T)
        if not np.abs(gram - np.eye(len(gram))).max() <= 1e-6:
            raise ValueError(
                "directions are not orthonormal: give orthogonal unit vectors, as the rows of a QR factor."
            )

    @property
    def degree(self) -> int:
        return self.directions.shape[0]

    def __call__(self, X: Float[Array, "points inputs"]) -> Float[Array, " points"]:
        inputs = self.directions.shape[1]
        norm = np.sqrt(np.prod(inputs + 2.0 * np.arange(self.degree)))
        return norm * jnp.prod(unit(X) @ self.directions.T, axis=1)


class Harmonics(eqx.Module):
    """Several targets on the sphere as the columns of one array."""

    targets: tuple

    def __call__(self, X: Float[Array, "points inputs"]) -> Float[Array, "points modes"]:
        return jnp.stack([target(X) for target in self.targets], axis=1)


class Zonal(eqx.Module):
    """The covariance function κ(x·x' / |x||x'|) of a function of the cosine."""

    kappa: Callable

    def __call__(self, X1: Float[Array, "points inputs"], X2: Float[Array, "points_ inputs"]) -> Array:
        return self.kappa(jnp.clip(unit(X1) @ unit(X2).T, -1.0, 1.0))


class OnSphere(eqx.Module):
    """A covariance function or a network's limit on the inputs radius x / |x|."""

    prior: Any
    radius: Any

    def __call__(self, X1: Float[Array, "points inputs"], X2: Float[Array, "points_ inputs"]) -> Array:
        covariance = getattr(self.prior, "limit", None) or self.prior
        return covariance(self.radius * unit(X1), self.radius * unit(X2))


def unit(X: Float[Array, "points inputs"]) -> Float[Array, "points inputs"]:
    """x / |x|. Raises ValueError for a point at the origin."""
    norm = jnp.linalg.norm(X, axis=1, keepdims=True)
    if not isinstance(norm, Tracer) and not bool(jnp.all(norm > 0)):
        raise ValueError("X has points at the origin, which have no place on a sphere: drop them.")
    return X / norm


def on_sphere(
    kernel: Any,
    inputs: int,
    targets: Sequence[Any],
    *,
    labels: Sequence[str] | None = None,
    radius: Any = None,
    log_coefficients: Any = None,
) -> KernelSpectrum:
    """A rotation-invariant kernel with harmonic targets as its modes.

    Args:
        kernel: a function κ of the cosine; or, with `radius`, a network or a covariance function. See `spectra.sphere`.
        inputs: dimension of the space, at least 3.
        targets: `Harmonic`s, or functions X -> (points,) with a `degree` that are harmonics of norm one; orthogonal.
        labels: names of the targets; "degree l" with a number unless given.
        radius: |x| of the sphere that the points are taken to.
        log_coefficients: log a_n of κ(t) = Σ a_n tⁿ: eigenvalues are then sums of positive numbers, which high degrees
            need (`spectra.sphere_series`).

    Raises ValueError for a `Harmonic` on a sphere of another dimension.

    >>> prior = on_sphere(lambda t: jnp.exp(t - 1), 20, [Harmonic(jnp.eye(1, 20)), Harmonic(jnp.eye(3, 20))])
    >>> prior.spectrum.eigenvalues.round(6).tolist(), prior.spectrum.degeneracies.tolist()
    ([0.018816, 3.6e-05], [20.0, 1520.0])
    """
    for target in targets:
        if isinstance(target, Harmonic) and target.directions.shape[1] != inputs:
            raise ValueError(
                f"inputs = {inputs}, but a target is a harmonic in {target.directions.shape[1]} dimensions."
            )
    degrees = [target.degree for target in targets]
    if log_coefficients is not None:
        values = spectra.sphere_series(log_coefficients, inputs, modes=max(degrees) + 1).eigenvalues
    else:
        values = spectra.sphere(kernel, inputs, radius=radius, modes=max(degrees) + 1).eigenvalues
    if labels is None:
        labels = [
            f"degree {degree}" + (f" ({degrees[:i].count(degree) + 1})" if degree in degrees[:i] else "")
            for i, degree in enumerate(degrees)
        ]
    spectrum = Spectrum(
        values[jnp.asarray(degrees)],
        [gegenbauer.degeneracy(inputs, degree) for degree in degrees],
        labels=labels,
        eigenfunctions=Harmonics(tuple(targets)),
        homogeneous=True,
        name=f"harmonics on the sphere S^{inputs - 1}",
    )
    return KernelSpectrum(Zonal(kernel) if radius is None else OnSphere(kernel, radius), spectrum)


def subspace_sample_complexity(share, ridge, eigenvalue, inputs, dimension):
    """ε/(1 - ε) δ r / (d λ_1) (06, (21)): of a linear target on data spread over r of the d dimensions.

    >>> round(subspace_sample_complexity(0.5, 1.0, eigenvalue=0.01, inputs=20, dimension=4), 9)
    20.0
    """
    return sample_complexity(share, ridge, eigenvalue, inputs / dimension)
