"""What a covariance and a noise must be. Only concrete values are looked at: a traced array passes unseen."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def check_finite(name: str, array) -> None:
    """Raises ValueError if entries are NaN or infinite.

    >>> check_finite("y", np.array([1.0, np.nan]))
    Traceback (most recent call last):
    ValueError: y has 1 of 2 entries that are NaN or infinite.
    """
    if isinstance(array, Tracer):
        return
    if bad := int(np.sum(~np.isfinite(array))):
        raise ValueError(f"{name} has {bad} of {np.size(array)} entries that are NaN or infinite.")


def check_covariance(name: str, K) -> None:
    """Raises ValueError unless K is a covariance: finite, symmetric and positive semidefinite.

    Rounding passes: of the largest diagonal entry, half the digits in each entry and, times the points, in eigenvalues.

    >>> check_covariance("K", np.array([[1.0, 2.0], [2.0, 1.0]]))
    Traceback (most recent call last):
    ValueError: K is not positive semidefinite: its smallest eigenvalue is -1, its largest 3: ...
    """
    if isinstance(K, Tracer):
        return
    K = np.asarray(K)
    K = K.astype(np.result_type(K, np.float32))
    check_finite(name, K)
    rounding = np.finfo(K.dtype).eps ** 0.5 * np.abs(np.diagonal(K)).max(initial=0.0)
    asymmetry = np.abs(K - K.T).max(initial=0.0)
    if asymmetry > rounding:
        raise ValueError(
            f"{name} is not symmetric, it differs from its transpose by {asymmetry:.3g}: it is no covariance, check "
            "the kernel or matrix given."
        )
    with jax.ensure_compile_time_eval():  # a Cholesky factor, since it costs far less than eigenvalues
        shift = len(K) * rounding + np.finfo(K.dtype).tiny
        factor = jnp.linalg.cholesky(K + shift * np.eye(len(K), dtype=K.dtype))
        definite = bool(jnp.all(jnp.isfinite(factor)))
    if not definite:
        eigenvalues = np.linalg.eigvalsh(K)
        raise ValueError(
            f"{name} is not positive semidefinite: its smallest eigenvalue is {eigenvalues[0]:.3g}, its largest "
            f"{eigenvalues[-1]:.3g}: it is no covariance, check the kernel or matrix given."
        )


def check_noise(noise_variance, points: int) -> None:
    """Raises ValueError unless `noise_variance` is one for this number of points, and a variance.

    >>> check_noise(np.array(-0.5), points=2)
    Traceback (most recent call last):
    ValueError: noise_variance falls to -0.5: a variance is zero or positive.
    """
    if noise_variance.shape not in ((), (points,), (points, points)):
        raise ValueError(
            f"noise_variance has shape {noise_variance.shape}, but the covariance has {points} points: "
            f"give a scalar, ({points},) or ({points}, {points})."
        )
    if isinstance(noise_variance, Tracer):
        return
    if noise_variance.ndim == 2:
        check_covariance("noise_variance", noise_variance)
        return
    check_finite("noise_variance", noise_variance)
    if (smallest := np.min(noise_variance)) < 0:
        raise ValueError(f"noise_variance falls to {smallest:.3g}: a variance is zero or positive.")
