"""Parity on the cube through the sphere: a bound for any rotation-invariant kernel and any corners (06, (22)-(24)).

The product of all d coordinates on {±1}^d/√d is the restriction of a harmonic of degree d, whose eigenvalue on the
sphere is at most k(1)/N(d, d); the cube's own symmetries say nothing, since parity is a one-dimensional representation
of them. Everything is a sum of positive numbers in logarithms: at d = 20 the eigenvalue is 1e-32.
"""

from functools import partial
from math import lgamma, log

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fieldprob.kernels.spectra import gegenbauer, series
from fieldprob.theory.learnability.complexity import sample_complexity


def log_parity_square(inputs: int) -> float:
    """log φ² of the normalised harmonic √… x_1 ... x_d at a corner of the cube: 2^d Γ(3d/2) / (d^d Γ(d/2)) (22).

    >>> round(float(np.exp(log_parity_square(4))), 9)
    7.5
    """
    d = float(inputs)
    return d * log(2 / d) + lgamma(1.5 * d) - lgamma(0.5 * d)


@partial(jax.jit, static_argnames="inputs")
def log_parity_eigenvalue(log_coefficients: Float[Array, " terms"], inputs: int) -> Float[Array, ""]:
    """log λ_d on the sphere, of κ(t) = Σ a_n tⁿ given by log a_n (19).

    >>> round(log_parity_eigenvalue(series.exponential_series(1.0, 20, log_prefactor=-1.0), 4).item(), 3)
    -8.519
    """
    return series.log_eigenvalues(log_coefficients, inputs, inputs + 1)[inputs]


@partial(jax.jit, static_argnames="inputs")
def log_cube_eigenvalue(log_coefficients: Float[Array, " terms"], inputs: int) -> Float[Array, ""]:
    """log of parity's eigenvalue on the uniform measure of all 2^d corners, without the alternating sum of (24).

    The term tⁿ contributes a_n p_n, a positive number: p_n is the probability that n factors x_i x'_i/d, each of a
    random coordinate, make parity, every coordinate an odd number of times. O(terms · inputs).

    >>> exponential = series.exponential_series(1.0, 40, log_prefactor=-1.0)
    >>> round((log_cube_eigenvalue(exponential, 4) - (4 * jnp.log(jnp.sinh(0.25)) - 1)).item(), 12)
    0.0
    """
    return jax.nn.logsumexp(log_coefficients + _log_odd_probabilities(inputs, len(log_coefficients)))


def _log_odd_probabilities(inputs: int, terms: int) -> Float[Array, " terms"]:
    """log p_n, n = 0, 1, ...: that after n draws of one of d coordinates each was drawn an odd number of times.

    The number m of those drawn an odd number of times is Ehrenfest's chain: one more with probability 1 - m/d, else one
    less. In logarithms, since p_d = d!/d^d.
    """
    m = np.arange(inputs + 1.0)
    with np.errstate(divide="ignore"):
        start, up, down = (jnp.asarray(np.log(x)) for x in (1.0 * (m == 0), 1 - m / inputs, m / inputs))
    never = jnp.full(1, -jnp.inf)

    def draw(log_p, _):
        more = jnp.concatenate([never, (log_p + up)[:-1]])
        less = jnp.concatenate([(log_p + down)[1:], never])
        return jnp.logaddexp(more, less), log_p[-1]

    return jax.lax.scan(draw, start, length=terms)[1]


def parity_sample_complexity(share, ridge, log_coefficients: Float[Array, " terms"], inputs: int) -> Array:
    """ε/(1 - ε) δ / (λ_d φ²): corners needed at least, whichever they are (23).

    >>> round(parity_sample_complexity(0.5, 1.0, series.exponential_series(1.0, 40, log_prefactor=-1.0), 4).item(), 1)
    667.6
    """
    log_signal = log_parity_eigenvalue(log_coefficients, inputs) + log_parity_square(inputs)
    return sample_complexity(share, ridge, jnp.exp(log_signal))


def universal_parity_sample_complexity(share, ridge, constant, inputs: int):
    """ε/(1 - ε) δ N(d, d) / (k(1) φ²), of order 2.09^d: for any rotation-invariant kernel of a given k(1) (23).

    >>> round(float(universal_parity_sample_complexity(0.5, 1.0, 1.0, 4)), 3)
    3.333
    """
    log_signal = log_parity_square(inputs) - gegenbauer.log_degeneracy(inputs, inputs)
    return sample_complexity(share, ridge, constant * np.exp(log_signal))
