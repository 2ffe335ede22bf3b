"""A kernel with its spectrum on an idealised measure, and what a data set makes of it."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from fieldprob.gp.checks import check_covariance
from fieldprob.kernels import Spectrum
from fieldprob.networks.regression import check_values_only
from fieldprob.theory.precision import require_float64


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
        ValueError: float32; several outputs; noise that differs between points or is zero; a kernel that is none.
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
    return Setting(prior.spectrum.eigenvalues, features, K, ridge, task.y[:, 0])
