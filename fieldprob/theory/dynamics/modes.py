"""Functions of one relaxation rate, and functions of a kernel matrix on its eigenbasis.

A linear model relaxes in each eigenmode of its tangent kernel at a rate alpha = g + lambda. All of its moments are
built from the two integrals

    E_s(alpha) = exp(-alpha s),      I_s(alpha) = int_0^s exp(-alpha u) du = (1 - exp(-alpha s)) / alpha,

and from their divided differences F[g, g + lambda] = (F(g + lambda) - F(g)) / lambda, which are F'(g) on null modes:

    E_s[g, g + lambda] = -exp(-g s) I_s(lambda),
    I_s[g, g + lambda] = (exp(-g s) I_s(lambda) - I_s(g)) / (g + lambda).

Both are entire functions of g and lambda; a power series replaces the quotients where those would cancel. The
derivative of a matrix function in the matrix is that of Daleckii and Krein (Higham 2008, Functions of Matrices, theorem
3.11): finite at degenerate eigenvalues, where that of an eigenvector is not.
"""

from collections.abc import Callable
from functools import partial
from math import factorial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_SERIES = 0.2  # below this the series: eleven terms are then exact to rounding, as are two derivatives
_TERMS = 11

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(5)


def decay(rate, time):
    """E_s(alpha) = exp(-alpha s).

    >>> decay(0.0, 3.0).item()
    1.0
    """
    return jnp.exp(-rate * jnp.asarray(time))


def integrated_decay(rate, time):
    """I_s(alpha) = (1 - exp(-alpha s)) / alpha, s at alpha = 0.

    >>> integrated_decay(0.0, 3.0).item()
    3.0
    """
    return time * _phi(-rate * jnp.asarray(time))


def decay_difference(g, eigenvalue, time):
    """E_s[g, g + lambda].

    >>> decay_difference(0.0, 0.0, 3.0).item()     # dE/dalpha = -s at alpha = 0
    -3.0
    """
    return -decay(g, time) * integrated_decay(eigenvalue, time)


def integrated_decay_difference(g, eigenvalue, time):
    """I_s[g, g + lambda].

    >>> integrated_decay_difference(0.0, 0.0, 3.0).item()     # dI/dalpha = -s^2 / 2 at alpha = 0
    -4.5
    """
    a, b = g * jnp.asarray(time), eigenvalue * jnp.asarray(time)
    small = jnp.abs(a + b) < _SERIES
    total = jnp.where(small, 1.0, a + b)
    quotient = (jnp.exp(-a) * _phi(-b) - _phi(-a)) / total
    # sum over n of h_{n-1}(x, y) / (n + 1)!, h the complete homogeneous polynomials: the divided difference of a series
    x, y = jnp.where(small, -a, 0.0), jnp.where(small, -(a + b), 0.0)
    power, homogeneous, series = jnp.ones_like(y), jnp.ones_like(y), jnp.zeros_like(y)
    for n in range(1, _TERMS + 1):
        series = series + homogeneous / factorial(n + 1)
        power = power * y
        homogeneous = x * homogeneous + power
    return time**2 * jnp.where(small, -series, quotient)


def _phi(x):
    """(exp(x) - 1) / x."""
    small = jnp.abs(x) < _SERIES
    near, far = jnp.where(small, x, 0.0), jnp.where(small, 1.0, x)
    series = jnp.zeros_like(near)
    for n in range(_TERMS, 0, -1):
        series = series * near + 1 / factorial(n)
    return jnp.where(small, series, jnp.expm1(far) / far)


# --- functions of a matrix --------------------------------------------------------------------------------------------


def sandwich(
    function: Callable,
    M: Float[Array, "n n"],
    left: Float[Array, "q n"],
    right: Float[Array, "r n"],
    *parameters,
) -> Float[Array, "*batch q r"]:
    """left F(M) right^T for a symmetric matrix M.

    Args:
        function: (eigenvalues (n,), *parameters) -> (*batch, n); acts on each eigenvalue alone, smooth also at zero.
        M: symmetric; its lower triangle counts. Differentiable in M (once), left, right and the parameters.

    >>> import jax.numpy as jnp
    >>> sandwich(jnp.exp, jnp.zeros((2, 2)), jnp.eye(2), jnp.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return _sandwich(function, False, M, left, right, *parameters)


def sandwich_diagonal(
    function: Callable, M: Float[Array, "n n"], left: Float[Array, "q n"], right: Float[Array, "q n"], *parameters
) -> Float[Array, "*batch q"]:
    """The diagonal of `sandwich`, in memory of order q n and batch q.

    >>> import jax.numpy as jnp
    >>> sandwich_diagonal(jnp.exp, jnp.zeros((2, 2)), jnp.eye(2), jnp.eye(2)).tolist()
    [1.0, 1.0]
    """
    return _sandwich(function, True, M, left, right, *parameters)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _sandwich(function, diagonal, M, left, right, *parameters):
    eigenvalues, V = jnp.linalg.eigh(M)
    return _product(diagonal, left @ V, function(eigenvalues, *parameters), right @ V)


def _product(diagonal, left, values, right):
    if diagonal:
        return values @ (left * right).T
    return (left * values[..., None, :]) @ right.T


@_sandwich.defjvp
def _sandwich_jvp(function, diagonal, primals, tangents):
    M, left, right, *parameters = primals
    dM, dleft, dright, *dparameters = tangents
    eigenvalues, V = jnp.linalg.eigh(M)
    left, right = left @ V, right @ V
    values, dvalues = jax.jvp(lambda *p: function(eigenvalues, *p), tuple(parameters), tuple(dparameters))
    value = _product(diagonal, left, values, right)
    tangent = _product(diagonal, dleft @ V, values, right) + _product(diagonal, left, values, dright @ V)
    tangent = tangent + _product(diagonal, left, dvalues, right)
    dM = V.T @ (0.5 * (dM + dM.T)) @ V
    dF = _divided_differences(function, eigenvalues, parameters) * dM
    subscripts = "qi,...ij,qj->...q" if diagonal else "qi,...ij,rj->...qr"
    return value, tangent + jnp.einsum(subscripts, left, dF, right)


def _divided_differences(function, eigenvalues, parameters):
    """F[lambda_i, lambda_j], (*batch, n, n); where the two nearly coincide, the mean of F' between them."""
    first, second = eigenvalues[:, None], eigenvalues[None, :]
    gap = first - second
    size = jnp.maximum(jnp.abs(first), jnp.abs(second))
    close = jnp.abs(gap) <= jnp.maximum(1e-5 * size, 1e-7 * jnp.max(size))
    values = function(eigenvalues, *parameters)
    quotient = (values[..., :, None] - values[..., None, :]) / jnp.where(close, 1.0, gap)

    def derivative(x):
        flat = x.ravel()
        d = jax.jvp(lambda e: function(e, *parameters), (flat,), (jnp.ones_like(flat),))[1]
        return d.reshape(*d.shape[:-1], *x.shape)

    half = jnp.asarray(0.5 * _NODES, gap.dtype)[:, None, None] * jnp.where(close, gap, 0.0)
    at_nodes = derivative(0.5 * (first + second) + half)
    mean = jnp.einsum("k,...kij->...ij", jnp.asarray(0.5 * _WEIGHTS, gap.dtype), at_nodes)
    return jnp.where(close, mean, quotient)
