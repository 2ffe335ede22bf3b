"""Spectra on the unit sphere from the power series of a kernel, k(t) = sum of a_n t^n with a_n >= 0.

A sum of positive numbers, in logarithms: right to a relative error of 1e-13 or so (that of log Gamma) in any dimension
and at any degree, where a quadrature has an absolute error. The eigenvalue of a monomial t^n at degree l (n >= l, n - l
even; else zero) is

    lambda_l[t^n] = Gamma(d/2) n! / (2^n ((n - l)/2)! Gamma((n + l + d)/2))

(Azevedo & Menegatto, J. Approx. Theory 2014; Bach, JMLR 18 (2017), appendix D). Series of the erf and ReLU kernels and
of e^(st), whose sum is Gamma(d/2) (2/s)^(d/2-1) I_(l+d/2-1)(s), follow. That of ReLU converges only algebraically:
prefer `sphere`, which is exact for it to rounding.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from fieldprob.kernels.spectra import gegenbauer
from fieldprob.kernels.spectra.base import Spectrum
from fieldprob.kernels.spectra.sphere import Zonal, clipped_tail, meridian, unit_direction


def sphere_series(
    log_coefficients: Any, inputs: int, *, modes: int, constant: Any = None, direction: Any = None
) -> Spectrum:
    """Spectrum on the unit sphere of k(t) = sum of a_n t^n, from log a_n, (terms,); -inf where a_n is zero.

    `constant` is k(1), which fixes the `tail`; without it the sum of the given coefficients is taken, as for a
    polynomial. Eigenvalues below the smallest float are zero. Degrees with more than 1e300 harmonics are refused,
    and a `constant` below the sum of the eigenvalues. `direction` is the axis of the eigenfunctions, as in `sphere`.

    >>> cubic = sphere_series(jnp.log(jnp.array([0.0, 0.0, 0.0, 1.0])), inputs=5, modes=4)
    >>> round(cubic.eigenvalues[1].item(), 12), round(cubic.trace.item(), 12)            # 3 / (d (d + 2))
    (0.085714285714, 1.0)
    """
    log_a = jnp.asarray(log_coefficients)
    if log_a.ndim != 1:
        raise ValueError(f"log_coefficients has shape {log_a.shape}: give (terms,), the logarithms of a_0, a_1, ....")
    if not isinstance(log_a, Tracer) and bool(jnp.any(jnp.isnan(log_a))):
        raise ValueError("log_coefficients has NaN: every coefficient of a covariance is zero or positive.")
    if inputs < 3:
        raise ValueError(f"inputs = {inputs}: a sphere needs at least 3.")
    if modes < 1:
        raise ValueError(f"modes = {modes}: give at least 1.")
    if gegenbauer.log_degeneracy(inputs, modes - 1) > 300 * np.log(10):
        raise ValueError(f"modes = {modes}: degree {modes - 1} in {inputs} dimensions has more than 1e300 harmonics.")
    log_values = log_eigenvalues(log_a, inputs, modes)
    # weights in logarithms: the product of a huge degeneracy and a tiny eigenvalue
    log_weights = log_values + np.array([gegenbauer.log_degeneracy(inputs, degree) for degree in range(modes)])
    direction = unit_direction(direction, inputs, log_a.dtype)
    constant = jnp.sum(jnp.exp(log_a)) if constant is None else constant
    tail = clipped_tail(constant - jnp.sum(jnp.exp(log_weights)), constant, 1e-9)
    return Spectrum(
        jnp.exp(log_values),
        jnp.asarray([gegenbauer.degeneracy(inputs, degree) for degree in range(modes)], log_a.dtype),
        tail=tail,
        eigenfunctions=Zonal(direction, modes),
        quadrature=meridian(direction, max(400, 4 * modes)),
        homogeneous=True,
        name=f"spectrum on the sphere S^{inputs - 1}",
    )


def log_eigenvalues(log_coefficients: Float[Array, " terms"], inputs: int, modes: int) -> Float[Array, " modes"]:
    """Logarithms of the eigenvalues at degrees l < modes, however small; -inf where they vanish.

    >>> log_eigenvalues(jnp.log(jnp.array([0.0, 1.0])), inputs=5, modes=2).round(12).tolist()        # 1/d
    [-inf, -1.609437912434]
    """
    return _log_sum(log_coefficients[:, None] + monomials(inputs, log_coefficients.shape[0], modes))


def _log_sum(terms: Float[Array, "terms modes"]) -> Float[Array, " modes"]:
    """log sum exp over the terms; -inf, with derivative zero, where there are none."""
    largest = jax.lax.stop_gradient(jnp.max(terms, axis=0))
    shift = jnp.where(jnp.isfinite(largest), largest, 0.0)
    total = jnp.sum(jnp.exp(terms - shift), axis=0)
    return jnp.where(total > 0, shift + jnp.log(jnp.where(total > 0, total, 1.0)), -jnp.inf)


def monomials(inputs: int, terms: int, modes: int) -> Float[Array, "terms modes"]:
    """Logarithm of the eigenvalues of t^n, n < terms, at degrees l < modes; -inf where they vanish."""
    n, degree = jnp.arange(terms * 1.0)[:, None], jnp.arange(modes * 1.0)[None, :]
    allowed = (n >= degree) & ((n - degree) % 2 == 0)
    half = jnp.where(allowed, (n - degree) / 2, 0.0)
    value = (
        gammaln(inputs / 2) + gammaln(n + 1) - n * np.log(2.0) - gammaln(half + 1) - gammaln((n + degree + inputs) / 2)
    )
    return jnp.where(allowed, value, -jnp.inf)


def erf_series(c: Any, terms: int) -> Float[Array, " terms"]:
    """log a_n of (2/pi) arcsin(c t), the kernel of erf; c = 2q/(1 + 2q), q = weight_variance |x|^2 / inputs.

    a_(2m+1) = (2/pi) (2m)! c^(2m+1) / (4^m m!^2 (2m+1)); even ones vanish.

    >>> round(jnp.exp(erf_series(0.5, 4)).sum().item(), 4)
    0.3316
    """
    n = jnp.arange(terms)
    m = jnp.maximum((n - 1) / 2, 0.0)
    value = jnp.log(2 / jnp.pi) + gammaln(2 * m + 1) + n * jnp.log(c) - m * np.log(4.0) - 2 * gammaln(m + 1)
    return jnp.where(n % 2 == 1, value - jnp.log(2 * m + 1), -jnp.inf)


def relu_series(terms: int) -> Float[Array, " terms"]:
    """log a_n of (1/2pi) [sqrt(1 - t^2) + (pi - arccos t) t], the kernel of ReLU on pre-activations of norm one.

    a_0 = 1/2pi, a_1 = 1/4, a_(2m) = (1/2pi) (2m-2)! / (4^(m-1) (m-1)!^2 (2m-1) 2m); other odd ones vanish. The sum
    converges as terms^-1.5: pass constant=0.5 to `sphere_series`, so that what is cut off is in the tail.

    >>> round(2 * jnp.exp(relu_series(4000)).sum().item(), 4)
    1.0
    """
    n = jnp.arange(terms)
    m = jnp.maximum(n / 2, 1.0)
    value = gammaln(2 * m - 1) - (m - 1) * np.log(4.0) - 2 * gammaln(m) - jnp.log((2 * m - 1) * 2 * m)
    value = jnp.where(n % 2 == 0, value - jnp.log(2 * jnp.pi), -jnp.inf)
    return jnp.where(n == 0, -jnp.log(2 * jnp.pi), jnp.where(n == 1, -np.log(4.0), value))


def exponential_series(s: Any, terms: int, *, log_prefactor: Any = 0.0) -> Float[Array, " terms"]:
    """log a_n of e^(st); with log_prefactor = -s the Gaussian kernel of length s^-1/2, e^(s(t - 1)).

    Take terms well above s e: the n-th term is s^n / n!.

    >>> round(jnp.exp(exponential_series(1.0, 30)).sum().item(), 12)
    2.718281828459
    """
    n = jnp.arange(terms)
    return n * jnp.log(s) - gammaln(n + 1.0) + log_prefactor
