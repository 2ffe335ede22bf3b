"""The evidence on average over data sets, for Gaussian features (theory 05, (28)).

    E log det(K + k2) = sum of g log(1 + P lambda / r) + P log r + P k2 / r - P + (1/2) log(1 - gamma),

with the effective ridge r and gamma = sum of g P lambda^2 / (r + P lambda)^2; the last term, of order one, may be left
out. With the resolvent R = (K + k2)^-1, targets sum of y_k phi_k and label noise s2 add

    E y^T R y = sum of y_k^2 E phi_k^T R phi_k + s2 E tr R,

since Gaussian features average R between different modes to zero; and these are derivatives of E log det(K + k2), by
lambda_k (over g_k) and by k2. Without the correction they are P / (r + P lambda_k) and P / r.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fieldprob.kernels import Spectrum
from fieldprob.theory.learning_curves import effective_ridge
from fieldprob.theory.learning_curves.setting import variance


def log_determinant(
    spectrum: Spectrum, points: Any, noise_variance: Any, *, corrected: bool = True
) -> Float[Array, "*sizes"]:
    """The average of log det(K + k2) over data sets of P points, of the shape of `points`.

    Stationary in the effective ridge without the correction. Raises ValueError as `effective_ridge`.

    >>> round(log_determinant(Spectrum([1.0]), 1, 1.0, corrected=False).item(), 3)   # E log(1 + z^2) = 0.533
    0.58
    >>> round(log_determinant(Spectrum([1.0]), 1, 1.0).item(), 3)
    0.502
    """
    r = effective_ridge(spectrum, points, noise_variance)
    P = jnp.asarray(points, r.dtype)
    ratio = P[..., None] * spectrum.eigenvalues / r[..., None]
    ridge = noise_variance + spectrum.tail
    value = jnp.sum(spectrum.degeneracies * jnp.log1p(ratio), axis=-1) + P * (jnp.log(r) + ridge / r - 1)
    if not corrected:
        return value
    gamma = jnp.sum(spectrum.degeneracies * (ratio / (1 + ratio)) ** 2, axis=-1) / P
    return value + 0.5 * jnp.log1p(-gamma)


def average_log_evidence(
    spectrum: Spectrum, points: Any, noise_variance: Any, label_noise_variance: Any = None
) -> Float[Array, "*sizes"]:
    """The average over data sets of log N(y; 0, K + k2), with the target and noise of the labels.

    Args:
        spectrum: with a target, whose tail counts as label noise.
        points: P, of any shape.
        noise_variance: of the model.
        label_noise_variance: of the labels in truth; that of the model unless given.

    Raises ValueError without a target, for noises that are no variances, and as `effective_ridge`.

    >>> spectrum = Spectrum([1.0], coefficients=[1.0])
    >>> value = average_log_evidence(spectrum, 1, 1.0)             # E y^2 / (1 + z^2) = 1 for a target from the prior
    >>> round((-2 * value - log_determinant(spectrum, 1, 1.0) - jnp.log(2 * jnp.pi)).item(), 12)
    1.0
    """
    noise = variance("noise_variance", noise_variance)
    label_noise = noise if label_noise_variance is None else variance("label_noise_variance", label_noise_variance)
    effective_ridge(spectrum, points, noise)  # raises, as it does not where it is differentiated
    powers = spectrum.required_coefficients() ** 2 / spectrum.degeneracies

    def log_det(eigenvalues, noise):
        return log_determinant(eqx.tree_at(lambda s: s.eigenvalues, spectrum, eigenvalues), points, noise)

    of_target = powers, label_noise + spectrum.target_tail
    value, quadratic = jax.jvp(log_det, (spectrum.eigenvalues, noise), of_target)
    return -0.5 * (quadratic + value + jnp.asarray(points, value.dtype) * jnp.log(2 * jnp.pi))
