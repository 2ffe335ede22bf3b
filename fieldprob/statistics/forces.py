"""What data do to a network: residuals in units of the noise, the force on the output covariance, and what comes of it.

Formulas work on NumPy and on JAX arrays, with sample dimensions in front.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float


def normalised_discrepancy(
    f: Float[Any, "*batch points outputs"], y: Float[Any, "points outputs"], noise
) -> Float[Any, "*batch points outputs"]:
    """noise^-1 (y - f): averaged over the posterior, the saddle of the field conjugate to f (theory 02's tau).

    `noise` is the effective noise variance of the likelihood (1/chi included): a number, (points,) or (points, points).

    Raises:
        ValueError: f is not (..., points, outputs) like y.

    >>> import numpy as np
    >>> normalised_discrepancy(np.array([[1.0], [2.0]]), np.array([[3.0], [3.0]]), 0.5).ravel().tolist()
    [4.0, 2.0]
    """
    if np.shape(f)[-2:] != np.shape(y):
        raise ValueError(f"f has shape {np.shape(f)} and y {np.shape(y)}: give both (points, outputs)")
    difference = y - f
    if np.ndim(noise) == 2:
        return _module(f).linalg.solve(noise, difference)
    return difference / (noise[:, None] if np.ndim(noise) == 1 else noise)


def conjugate_kernel(
    K: Float[Any, "*batch points points"], y: Float[Any, "points outputs"], noise
) -> Float[Any, "*batch points points"]:
    """(K~^-1 y y^T K~^-1 - C K~^-1) / 2 with K~ = K + noise: the force of data of C outputs on the output covariance K.

    The derivative of log N(y | 0, K~) in the sense d log N = tr(force dK); averaged over the posterior of K = kernel_L,
    theory 03's (43), and so equal to the average of `residual_conjugate_kernel` over its outputs f. `noise` is the
    effective noise variance: a number, (points,) or (points, points).

    Raises:
        ValueError: the shapes do not fit.

    >>> import numpy as np
    >>> conjugate_kernel(np.eye(2), np.array([[2.0], [0.0]]), 1.0).tolist()
    [[0.25, 0.0], [0.0, -0.25]]
    """
    if np.ndim(y) != 2 or np.shape(K)[-2:] != np.shape(y)[:1] * 2:
        raise ValueError(f"K has shape {np.shape(K)} and y {np.shape(y)}: give (points, points) and (points, outputs)")
    inverse = _module(K).linalg.inv(K + _noise_matrix(noise, np.shape(y)[0]))
    force = inverse @ y
    return (force @ force.swapaxes(-2, -1) - np.shape(y)[1] * inverse) / 2


def residual_conjugate_kernel(
    f: Float[Any, "*batch points outputs"], y: Float[Any, "points outputs"], noise
) -> Float[Any, "*batch points points"]:
    """(t t^T - C noise^-1) / 2 with t = noise^-1 (y - f): its posterior mean is the conjugate kernel of the outputs.

    For draws f of the outputs themselves, as the face `weights` has them, not for conditional means (theory 03, (43)).

    Raises:
        ValueError: f is not (..., points, outputs) like y.

    >>> import numpy as np
    >>> residual_conjugate_kernel(np.array([[1.0]]), np.array([[3.0]]), 0.5).tolist()
    [[7.0]]
    """
    t = normalised_discrepancy(f, y, noise)
    points, outputs = np.shape(y)
    inverse = _module(f).linalg.inv(_noise_matrix(noise, points))
    return (t @ t.swapaxes(-2, -1) - outputs * inverse) / 2


def ward_identity(site, part, f, y, noise) -> Any:
    """dim z - |z|^2 - sum of part noise^-1 (f - y): zero on average over the posterior, for one of the last latents.

    `site` z is a standard normal latent in which the outputs are linear, and `part` what it adds to them: for the site
    `readout` f - b with b the readout bias, for the site of that bias b itself (theory 03, (44), with g_L |w|^2 / N_L
    there |z|^2 here; 1/chi is in `noise` and f). All may have sample dimensions in front.

    Args:
        site: (..., neurons, outputs) or (..., 1, outputs).
        part, f: (..., points, outputs).
        y: (points, outputs).
        noise: effective noise variance: a number, (points,) or (points, points).

    >>> import numpy as np
    >>> z = np.array([[2.0]])  # f = 3 z
    >>> float(ward_identity(z, 3 * z, 3 * z, np.array([[5.0]]), 2.0))
    -6.0
    """
    shape = np.shape(site)
    if len(shape) < 2 or np.shape(part)[-2:] != np.shape(y):
        raise ValueError(f"site has shape {shape} and part {np.shape(part)}: give (neurons, outputs) and y's shape")
    pull = (part * normalised_discrepancy(f, y, noise)).sum(axis=(-2, -1))
    return shape[-2] * shape[-1] - (site * site).sum(axis=(-2, -1)) + pull


def kernel_gain(
    K: Float[Any, "*batch points points"], reference: Float[Any, "points points"], Y: Float[Any, "points outputs"]
) -> Float[Any, "*batch"]:
    """Coefficient of Y Y^T in K - reference: tr(Y^T (K - reference) Y) / |Y Y^T|^2, the least-squares projection.

    With the prior mean for `reference` it says how far a kernel has been pulled towards the targets.

    Raises:
        ValueError: the shapes do not fit.

    >>> import numpy as np
    >>> Y = np.array([[1.0], [-1.0]])
    >>> float(kernel_gain(np.eye(2) + 0.25 * Y @ Y.T, np.eye(2), Y))
    0.25
    """
    points = np.shape(Y)[0]
    if np.ndim(Y) != 2 or np.shape(K)[-2:] != (points, points) or np.shape(reference) != (points, points):
        raise ValueError(
            f"K {np.shape(K)}, reference {np.shape(reference)} and Y {np.shape(Y)} do not fit: give kernels "
            "(points, points) and Y (points, outputs), on the training points"
        )
    gram = Y.T @ Y
    return (((K - reference) @ Y) * Y).sum(axis=(-2, -1)) / (gram * gram).sum()


def _noise_matrix(noise, points: int):
    """A noise variance, a number, (points,) or (points, points), as a matrix."""
    return noise if np.ndim(noise) == 2 else noise * np.eye(points)


def _module(array):
    return array.__array_namespace__()  # numpy or jax.numpy, which this module does not import
