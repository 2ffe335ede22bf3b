"""How fluctuations of the kernel grow with depth in a network of one width, at one input and between two close ones.

At one input the kernel K^l, its covariance and two susceptibilities obey

    K' = b + w E[phi^2],    chi_q = dK'/dK,    chi_1 = w E[phi'^2],    N Var' = w^2 Var(phi^2) + chi_q^2 N Var,

and the mean of the fluctuating kernel is off K by m, with m' = chi_q m + (dchi_q/dK) Var / 2.

The distance D of two close inputs grows by chi_1 a layer; its relative fluctuation delta is driven by noise of its own
and by that of K:

    delta' = delta + (d ln chi_1 / dK) dK + noise    (theory 03, (32)-(37)).
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from fieldprob.activations import get
from fieldprob.kernels.criticality import criticality
from fieldprob.kernels.recursion import require_continuous
from fieldprob.theory.precision import require_float64

_x, _w = np.polynomial.legendre.leggauss(24)
_edges = np.linspace(-12.0, 12.0, 25)  # panels of length 1, of which none has the origin inside: there are the kinks
_NODES = ((_edges[:-1, None] + _edges[1:, None]) / 2 + _x / 2).ravel()
_WEIGHTS = np.tile(_w / 2, 24) * np.exp(-(_NODES**2) / 2) / np.sqrt(2 * np.pi)
_PHASES = 2 * np.pi * np.arange(16) / 16


class Growth(NamedTuple):
    """Layer by layer, l = 0..depth, in a network of width N; variances and covariances times N, to first order in 1/N.

    `kernel` is K^l; `variance_susceptibility` and `correlation_susceptibility` those of the map from K^l to K^(l+1);
    `mean_shift` is N (mean of the kernel - K^l), `kernel_covariance` N Var of the kernel, `relative_fluctuation` that
    over K^2; `discriminating_fluctuation` is N Var delta, and `discriminating_covariance` N Cov(K, delta), of the
    relative change delta of the squared distance between two close inputs. Numbers of the fixed point: `saturation`,
    the limit of kernel_covariance (infinite where it grows without bound), `variance_depth` and `correlation_depth`,
    the depth scales.
    """

    kernel: Float[Array, " layers"]
    variance_susceptibility: Float[Array, " layers"]
    correlation_susceptibility: Float[Array, " layers"]
    mean_shift: Float[Array, " layers"]
    kernel_covariance: Float[Array, " layers"]
    relative_fluctuation: Float[Array, " layers"]
    discriminating_fluctuation: Float[Array, " layers"]
    discriminating_covariance: Float[Array, " layers"]
    saturation: Float[Array, ""]
    variance_depth: Float[Array, ""]
    correlation_depth: Float[Array, ""]


def fluctuation_growth(
    activation, weight_variance: float, bias_variance: float, depth: int, *, kernel: float = 1.0
) -> Growth:
    """Fluctuations of the prior kernels through `depth` layers of equal widths and variances, at one input.

    Returns `Growth`: arrays over layers 0..depth, variances and shifts times the width.

    Args:
        activation: a name, an `Activation` or a callable; not one that jumps.
        weight_variance, bias_variance: of every hidden layer and the readout.
        depth: number of hidden layers.
        kernel: K^0, the variance of the first pre-activations, which does not fluctuate.

    Raises:
        ValueError: float32; numbers out of range; an activation that jumps or is unknown.

    Source: theory 03, (32)-(37).

    >>> import math
    >>> at = fluctuation_growth("erf", math.pi / 4, 0.0, 1000, kernel=0.5)
    >>> round(float(at.relative_fluctuation[-1]) / 1000, 4)  # 2/3 at the edge of chaos, as depth grows
    0.6659
    """
    require_float64("fluctuation_growth")
    phi = get(activation)
    require_continuous(phi)
    if isinstance(depth, bool) or depth != int(depth) or depth < 1:
        raise ValueError(f"depth is {depth}: give an integer of at least 1.")
    if not (np.isfinite(kernel) and kernel > 0):
        raise ValueError(f"kernel is {kernel}: the variance of the first pre-activations must be finite and positive.")
    fixed = criticality(phi, weight_variance, bias_variance, start=float(kernel))
    layers, saturation = _grow(
        phi, jnp.asarray(weight_variance, float), jnp.asarray(bias_variance, float), jnp.asarray(kernel, float),
        int(depth), fixed.variance,
    )  # fmt: skip
    K, chi_q, chi_1, shift, variance, covariance, discriminating = layers
    return Growth(
        K, chi_q, chi_1, shift, variance, variance / K**2, discriminating, covariance, saturation, fixed.variance_depth,
        fixed.correlation_depth,
    )  # fmt: skip


class _Layer(NamedTuple):
    """Of one layer at K: the next K, chi_q, its slope, chi_1, d ln chi_1 / dK, and the covariance of noise, (37)."""

    kernel: Array
    chi_q: Array
    bend: Array
    chi_1: Array
    slope: Array
    noise: Array  # (kernel, kernel), (kernel, delta), (delta, delta)


def _layer(phi, w, b, K) -> _Layer:
    def square(K):
        return phi.dual(K, K, K)

    def log_slope(K):
        return jnp.log(phi.dual_derivative(K, K, K))

    one = jnp.ones_like(K)
    F, dF = jax.jvp(square, (K,), (one,))
    bend = jax.jvp(lambda K: jax.jvp(square, (K,), (one,))[1], (K,), (one,))[1]
    _, slope = jax.jvp(log_slope, (K,), (one,))
    chi_1 = w * phi.dual_derivative(K, K, K)
    z = jnp.sqrt(K) * _NODES[:, None]

    def function(z):
        return phi.phi(z, jnp.asarray(_PHASES)) if phi.random_phase else phi.phi(z)

    value, derivative = jax.jvp(function, (z,), (jnp.ones_like(z),))

    def average(x):
        return jnp.asarray(_WEIGHTS) @ jnp.mean(x, axis=1)

    s, d = value**2, derivative**2
    mean, mean_d = average(s), average(d)
    noise = jnp.stack(
        [
            w**2 * average((s - mean) ** 2),
            w * average((s - mean) * d) / mean_d,
            3 * average(d**2) / mean_d**2 - 1,
        ]
    )
    return _Layer(b + w * F, w * dF, w * bend, chi_1, slope, noise)


@eqx.filter_jit
def _grow(phi, w, b, K, depth: int, fixed):
    def step(state, _):
        K, shift, variance, covariance, discriminating = state
        at = _layer(phi, w, b, K)
        found = (K, at.chi_q, at.chi_1, shift, variance, covariance, discriminating)
        after = (
            at.kernel,
            at.chi_q * shift + at.bend * variance / 2,
            at.noise[0] + at.chi_q**2 * variance,
            at.noise[1] + at.chi_q * (covariance + at.slope * variance),
            at.noise[2] + discriminating + 2 * at.slope * covariance + at.slope**2 * variance,
        )
        return after, found

    zero = jnp.zeros_like(K)
    _, layers = jax.lax.scan(step, (K, zero, zero, zero, zero), None, length=depth + 1)
    finite = jnp.isfinite(fixed) & (fixed > 0)
    at = _layer(phi, w, b, jnp.where(finite, fixed, 1.0))
    stable = finite & (jnp.abs(at.chi_q) < 1 - 1e-12)
    saturation = jnp.where(stable, at.noise[0] / jnp.where(stable, 1 - at.chi_q**2, 1.0), jnp.inf)
    return layers, jnp.where(fixed == 0, 0.0, saturation)
