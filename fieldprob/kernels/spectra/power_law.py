"""Power-law spectra, lambda_k = scale k^-exponent, k = 1, 2, ..., also with more modes than fit in memory.

The first modes are listed one by one; beyond them bins of nearly equal width in log k count as one eigenspace each, of
as many dimensions as the bin has modes and with their mean as its eigenvalue, so that the trace is exact. Sums over a
bin and over what lies beyond the last mode are by the Euler-Maclaurin formula.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fieldprob.kernels.spectra.base import Spectrum

_LISTED = 1024
_BINS = 64  # per factor e: bins as wide as this change sums over smooth functions of k by 1e-5


def power_law(
    exponent: Any,
    *,
    modes: int,
    scale: Any = 1.0,
    target_exponent: Any = None,
    target_scale: Any = 1.0,
    infinite: bool = False,
) -> Spectrum:
    """The bare spectrum lambda_k = scale k^-exponent, k = 1 ... modes.

    Args:
        exponent: decay of the eigenvalues.
        modes: how many; above 1024 they are grouped (see the module), so that 10^12 are as good as 10^3.
        scale: the largest eigenvalue.
        target_exponent: with it, a target of power y_k^2 = target_scale k^-target_exponent.
        target_scale: power of the target in the first mode.
        infinite: whether the modes go on: what is beyond `modes` goes into `tail` and `target_tail`.

    Raises:
        ValueError: modes < 1, scale not positive, or an infinite sum that diverges (exponent <= 1).

    >>> power_law(2.0, modes=10**9, infinite=True).trace.round(10).item()      # pi^2 / 6
    1.6449340668
    """
    if modes < 1 or modes != int(modes):
        raise ValueError(f"modes = {modes}: give a whole number, at least 1.")
    if not isinstance(scale, Tracer) and not scale > 0:
        raise ValueError(f"scale = {scale} must be positive.")
    first = _edges(int(modes))
    count = np.diff(np.append(first, float(modes + 1)))
    coefficients, target_tail = None, 0.0
    if target_exponent is not None:
        coefficients = jnp.sqrt(target_scale * _sums(target_exponent, first, count))
        target_tail = target_scale * _rest("target_exponent", target_exponent, modes) if infinite else 0.0
    return Spectrum(
        scale * _sums(exponent, first, count) / count,
        count,
        coefficients,
        tail=scale * _rest("exponent", exponent, modes) if infinite else 0.0,
        target_tail=target_tail,
        labels=tuple(int(k) for k in first),
        name="power law",
    )


def _edges(modes: int) -> np.ndarray:
    """First index of each bin."""
    if modes <= _LISTED:
        return np.arange(1.0, modes + 1)
    bins = int(np.ceil(_BINS * np.log(modes / _LISTED)))
    above = np.floor(_LISTED * (modes / _LISTED) ** (np.arange(bins) / bins))[1:]
    return np.append(np.arange(1.0, _LISTED + 1), np.unique(above[above > _LISTED]))


def _sums(exponent, first, count):
    """Sum of k^-exponent over each bin."""
    ends = first + count
    log_ratio = jnp.log(ends / first)
    rate = (1 - jnp.asarray(exponent, jnp.result_type(float))) * log_ratio
    small = jnp.abs(rate) < 1e-8
    integral = first ** (1 - exponent) * log_ratio * jnp.where(small, 1 + rate / 2, _expm1_ratio(rate, small))
    binned = integral + _boundary(exponent, first) - _boundary(exponent, ends)
    return jnp.where(count == 1, first**-exponent, binned)


def _expm1_ratio(rate, small):
    safe = jnp.where(small, 1.0, rate)
    return jnp.expm1(safe) / safe


def _boundary(exponent, a):
    """Euler-Maclaurin terms of a sum that starts at a, the integral not included."""
    s = exponent
    return a**-s * (0.5 + s / (12 * a) - s * (s + 1) * (s + 2) / (720 * a**3) + _fifth(s) / (30240 * a**5))


def _fifth(s):
    return s * (s + 1) * (s + 2) * (s + 3) * (s + 4)


def _rest(name, exponent, modes):
    """Sum of k^-exponent over k > modes."""
    if not isinstance(exponent, Tracer) and not exponent > 1:
        raise ValueError(f"{name} = {exponent} with infinite=True: the sum diverges, give more than 1.")
    # a few terms explicitly, since the expansion is in 1/a
    k = np.arange(modes + 1.0, modes + 17.0)
    a = modes + 17.0
    return jnp.sum(k**-exponent) + a ** (1 - exponent) / (exponent - 1) + _boundary(exponent, a)
