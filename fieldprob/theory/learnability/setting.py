"""A kernel with its spectrum on an idealised measure, and what a data set makes of it."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float
from scipy.linalg import solve_triangular

from fieldprob.gp.checks import check_covariance, check_finite
from fieldprob.kernels import Spectrum
from fieldprob.networks.regression import check_values_only
from fieldprob.theory.precision import require_float64

_ROUNDING = 1e-7  # of a kernel matrix, relative to its trace
_TOLERANCE = 1e-3  # of eigenfunctions and eigenvalues, which may be found by quadrature


class KernelSpectrum(eqx.Module):
    """A kernel and its spectrum on an idealised probability measure q, on which it need not have data.

    Attributes:
        kernel: (X1, X2) -> (points, points_), the covariance function on any inputs.
        spectrum: with one eigenfunction for each of its modes, orthonormal on q and known on any inputs: those whose
            learnability is asked for. Where the kernel has others they need not be listed.

    Raises:
        ValueError: the spectrum has no eigenfunctions.

    >>> spectrum = Spectrum([0.5], eigenfunctions=lambda X: jnp.sqrt(2) * jnp.cos(X))
    >>> KernelSpectrum(lambda X1, X2: jnp.cos(X1 - X2.T), spectrum).spectrum.modes
    1
    """

    kernel: Any
    spectrum: Spectrum

    def __check_init__(self):
        if self.spectrum.eigenfunctions is None:
            raise ValueError(f"the {self.spectrum.name} has no eigenfunctions: a data set is seen through them.")


class Setting(eqx.Module):
    """Kernel and modes on the data of a task."""

    eigenvalues: Float[Array, " modes"]
    features: Float[Array, "points modes"]
    K: Float[Array, "points points"]
    ridge: Float[Array, ""]
    y: Float[Array, " points"]


def setting(theory: str, prior: Any, task: Any) -> Setting:
    """Evaluate kernel and eigenfunctions on a task's data.

    Raises:
        TypeError: prior is no `KernelSpectrum`, or task holds no data.
        ValueError: float32; several outputs; noise that differs between points or is zero; a kernel that is none;
            eigenfunctions that are not one for each mode, not orthonormal, or too large for the kernel.
    """
    if not isinstance(prior, KernelSpectrum):
        raise TypeError(f"prior is a {type(prior).__name__}: theory {theory!r} needs a learnability.KernelSpectrum.")
    if not hasattr(task, "X") or not hasattr(task, "y"):
        raise TypeError(f"task is a {type(task).__name__}: theory {theory!r} learns from one data set, a fp.Task.")
    check_values_only(task, f"theory {theory!r}")
    require_float64(theory, task)
    if task.outputs != 1:
        raise ValueError(f"the task has {task.outputs} outputs: theory {theory!r} is for one; give one of them.")
    ridge = jnp.asarray(task.noise_variance)
    if ridge.ndim:
        raise ValueError(f"noise_variance has shape {ridge.shape}: theory {theory!r} needs one number for all points.")
    K = jnp.asarray(prior.kernel(task.X, task.X))
    if K.shape != (task.points, task.points):
        raise ValueError(f"kernel gave a matrix of shape {K.shape} for {task.points} points: give kernel(X1, X2).")
    check_covariance("kernel", K)
    features = jnp.asarray(prior.spectrum.eigenfunctions(task.X))
    _check_features(prior.spectrum, features, K)
    return Setting(prior.spectrum.eigenvalues, features, K, ridge, task.y[:, 0])


def _check_features(spectrum: Spectrum, features: Array, K: Array) -> None:
    """Raises ValueError if the features are no eigenfunctions: where the spectrum can tell, or the kernel on the data.

    K - λ φ φᵀ is the kernel of the other modes, so that λ φᵀ (K + ε)⁻¹ φ is below one.
    """
    if features.shape != (K.shape[0], spectrum.modes):
        raise ValueError(
            f"the eigenfunctions gave shape {features.shape} for {K.shape[0]} points and {spectrum.modes} eigenvalues: "
            "give (points, modes), one column for each mode."
        )
    if any(isinstance(array, Tracer) for array in (features, K, spectrum.eigenvalues)):
        return
    check_finite("the eigenfunctions on the data", features)
    if spectrum.quadrature is not None:
        nodes, weights = spectrum.quadrature
        phi = np.asarray(spectrum.eigenfunctions(nodes))
        wrong = np.abs((phi.T * weights) @ phi - np.eye(spectrum.modes)).max()
        if not wrong < _TOLERANCE:
            raise ValueError(f"the eigenfunctions are not orthonormal: averages of products are off by {wrong:.3g}.")
    shift = _ROUNDING * np.trace(K) + np.finfo(np.float64).tiny
    root = np.linalg.cholesky(np.asarray(K) + shift * np.eye(len(K)))
    white = solve_triangular(root, np.asarray(features), lower=True)
    share = np.asarray(spectrum.eigenvalues) * np.sum(white**2, axis=0)
    if not share.max() < 1 + _TOLERANCE:
        mode = int(share.argmax())
        raise ValueError(
            f"mode {spectrum.labels[mode]!r} alone exceeds the kernel on the data, by a factor of {share[mode]:.3g}: "
            "are the eigenfunctions normalised on a probability measure, the eigenvalues those of this kernel?"
        )
