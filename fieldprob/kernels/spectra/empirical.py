"""Spectra from data: eigenvalues of the kernel matrix over P points divided by P, and Nyström eigenfunctions.

With K u_k = P lambda_k u_k, |u_k| = 1, the eigenfunctions orthonormal over the sample extend to any x as
phi_k(x) = sum_i k(x, x_i) u_ik / (sqrt(P) lambda_k) (Williams & Seeger 2001). Against the spectrum of the measure from
which the points are drawn, the eigenvalues are biased (Anderson 1963 for Gaussian features; Koltchinskii & Giné 2000):

    E lambda^_k = lambda_k + (1/P) sum over j != k of lambda_k lambda_j E[phi_k^2 phi_j^2] / (lambda_k - lambda_j),
    sd lambda^_k = lambda_k sqrt(Var phi_k^2 / P),        up to order P^-2 and P^-1,

with E[..] = 1 and Var = 2 for Gaussian features. Eigenvalues with P lambda_k below the sum of those beyond them do not
converge: they are lifted by about that sum over P.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from fieldprob.kernels.spectra.base import Quadrature, Spectrum, covariance_eigenvalues


class Nystrom(eqx.Module):
    """phi_k(x) = sum_i k(x, x_i) u_ik / (sqrt(P) lambda_k), and zero where lambda_k is."""

    points: Float[Array, "points inputs"]
    vectors: Float[Array, "points modes"]
    kernel: Any

    def __call__(self, X: Float[Array, "points_ inputs"]) -> Float[Array, "points_ modes"]:
        return self.kernel(X, self.points) @ self.vectors


class _Function(eqx.Module):
    function: Callable = eqx.field(static=True)

    def __call__(self, X1, X2):
        return self.function(X1, X2)


class _Limit(eqx.Module):
    network: Any

    def __call__(self, X1, X2):
        return self.network.limit(X1, None if X2 is X1 else X2)


def _covariance(kernel: Any) -> Callable:
    """The kernel as a pytree of its hyperparameters, (X1, X2) -> matrix."""
    if hasattr(kernel, "limit"):
        return _Limit(kernel)
    if not callable(kernel):
        raise ValueError("kernel with X must be a network or a function kernel(X1, X2); a matrix goes without X.")
    return _Function(kernel) if not isinstance(kernel, eqx.Module) else kernel  # pyright: ignore[reportReturnType]


def empirical(kernel: Any, X: Any = None, *, y: Any = None, modes: int | None = None) -> Spectrum:
    """Spectrum of a kernel under the uniform measure on a sample of points.

    Args:
        kernel: a kernel matrix (points, points) without noise; or, with `X`, a network with a `limit` or a covariance
            function kernel(X1, X2), which gives the Nyström eigenfunctions too.
        X: the sample, (points, inputs).
        y: targets (points,): their coefficients become the target's.
        modes: how many to list, the largest; all by default. The rest goes into `tail` and `target_tail`.

    Raises:
        ValueError: the matrix is not square and symmetric, or not positive semi-definite beyond rounding.

    >>> spectrum = empirical(jnp.array([[2.0, 1.0], [1.0, 2.0]]), y=jnp.array([1.0, -1.0]))
    >>> spectrum.eigenvalues.round(12).tolist(), jnp.abs(spectrum.coefficients).round(12).tolist()
    ([1.5, 0.5], [0.0, 1.0])
    """
    if X is None:
        points, covariance, K = None, None, jnp.asarray(kernel)
    else:
        points, covariance = jnp.asarray(X), _covariance(kernel)
        K = jnp.asarray(covariance(points, points))
    P = _check_matrix(K)
    modes = P if modes is None else modes
    if not 1 <= modes <= P:
        raise ValueError(f"modes = {modes}: a sample of {P} points has from 1 to {P}.")
    raw, vectors = jnp.linalg.eigh((K + K.T) / (2 * P))
    raw, vectors = raw[::-1], vectors[:, ::-1]
    floor = P * jnp.finfo(raw.dtype).eps * jnp.max(jnp.abs(raw))
    eigenvalues = covariance_eigenvalues(
        "kernel", raw, floor, "a kernel matrix has none below zero; take the noise out, or use another kernel."
    )
    extra = {}
    if points is not None and covariance is not None:
        inverse = jnp.where(eigenvalues > 0, 1 / jnp.where(eigenvalues > 0, eigenvalues, 1.0), 0.0)
        extra = {
            "eigenfunctions": Nystrom(points, (vectors * inverse / np.sqrt(P))[:, :modes], covariance),
            "quadrature": Quadrature(points, jnp.full(P, 1 / P, raw.dtype)),
        }
    if y is not None:
        y = jnp.asarray(y, raw.dtype).reshape(-1)
        if y.shape[0] != P:
            raise ValueError(f"y has {y.shape[0]} targets for {P} points: give one output, one number for each point.")
        components = vectors.T @ y / np.sqrt(P)
        extra |= {"coefficients": components[:modes], "target_tail": jnp.sum(components[modes:] ** 2)}
    return Spectrum(eigenvalues[:modes], tail=jnp.sum(eigenvalues[modes:]), name=f"spectrum of {P} points", **extra)


class SamplingBias(NamedTuple):
    """What the eigenvalues of a sample are expected to do; (modes,) each."""

    bias: Float[Array, " modes"]
    sd: Float[Array, " modes"]


def sampling_bias(spectrum: Spectrum, points: int, *, modes: int | None = None) -> SamplingBias:
    """Expected shift, of order 1/points, and standard deviation of the sample's eigenvalues, to leading order.

    With a spectrum of the measure, `spectrum.eigenvalues + bias` is what a sample shows. With the spectrum of a sample,
    `spectrum.eigenvalues - bias` estimates those of the measure. Moments of the eigenfunctions are taken by the
    spectrum's quadrature, and as those of independent Gaussians if it has no eigenfunctions.

    Args:
        spectrum: non-degenerate.
        points: size of the sample.
        modes: how many, the first; all by default.

    Raises:
        ValueError: the eigenvalues asked for are degenerate, or equal to eight digits: a sample splits them at order
            points^-1/2; or points < 1.

    >>> sampling_bias(Spectrum([1.0, 0.5]), points=100).bias.tolist()
    [0.01, -0.01]
    """
    modes = spectrum.modes if modes is None else modes
    if not 1 <= modes <= spectrum.modes or not points >= 1:
        raise ValueError(f"points = {points}, modes = {modes}: give at least 1 point, and 1 to {spectrum.modes} modes.")
    values = spectrum.eigenvalues
    gap = values[:modes, None] - values[None, :]
    same = jnp.eye(modes, spectrum.modes, dtype=bool)
    if not isinstance(gap, Tracer):
        bad = np.asarray(spectrum.degeneracies[:modes] != 1) | np.asarray(
            jnp.any((jnp.abs(gap) <= 1e-8 * values[:modes, None]) & ~same, axis=1)
        )
        if bad.any():
            raise ValueError(
                f"eigenvalue {int(np.argmax(bad))} is degenerate: a sample splits it at order points^-1/2. Give the "
                "modes before it, modes=..., or a spectrum without degeneracies."
            )
    fourth, spread = _moments(spectrum, modes)
    terms = jnp.where(same, 0.0, values[:modes, None] * values * fourth / jnp.where(same, 1.0, gap))
    bias = (jnp.sum(terms, axis=1) + spectrum.tail) / points
    return SamplingBias(bias, values[:modes] * jnp.sqrt(spread / points))


def _moments(spectrum, modes):
    """E[phi_k^2 phi_j^2], summed over an eigenspace j, and Var phi_k^2."""
    if spectrum.eigenfunctions is None or spectrum.quadrature is None:
        ones = jnp.ones((modes, 1), spectrum.eigenvalues.dtype)
        return ones * spectrum.degeneracies, 2 * ones[:, 0]
    nodes, weights = spectrum.quadrature
    squares = spectrum.eigenfunctions(nodes) ** 2
    fourth = (weights[:, None] * squares[:, :modes]).T @ squares
    spread = weights @ squares[:, :modes] ** 2 - 1
    return (fourth if not spectrum.homogeneous else jnp.ones((modes, 1)) * spectrum.degeneracies), spread


def _check_matrix(K) -> int:
    if K.ndim != 2 or K.shape[0] != K.shape[1] or K.shape[0] == 0:
        raise ValueError(f"kernel gave a matrix of shape {K.shape}: give (points, points).")
    if not isinstance(K, Tracer):
        difference = float(jnp.max(jnp.abs(K - K.T)))
        if not difference <= 1e4 * float(jnp.finfo(K.dtype).eps) * float(jnp.max(jnp.abs(K))):
            raise ValueError(f"kernel gave a matrix that is not symmetric, by {difference:.3g}: symmetrise it.")
    return K.shape[0]
