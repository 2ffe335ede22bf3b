"""E[phi(u_1) phi(u_2) phi(u_3) phi(u_4)] of centred Gaussians: what kernels of finite width fluctuate by.

The covariance of phi phi of one neuron, divided by the width, is the leading covariance of a layer's kernel (Yaida
2020, Non-Gaussian processes and neural networks at finite widths; theory 01, E1-E5).
"""

from functools import singledispatch
from itertools import combinations, combinations_with_replacement, product

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from fieldprob.activations.base import Activation
from fieldprob.activations.closed_form import Cos, Erf, Exp, Linear, Monomial, RandomPhaseCosine, Sin

CLOSED = (Cos, Erf, Exp, Linear, Monomial, RandomPhaseCosine, Sin)
_PAIRS = [(i, j, *(k for k in range(4) if k not in (i, j))) for i, j in combinations(range(4), 2)]
_PAIRINGS = [(0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2)]
_SIGNS = np.array(list(product([1.0, -1.0], repeat=4)))
_x, _w = np.polynomial.legendre.leggauss(32)
_INTERPOLATION = (1 - (1 - _x) ** 2 / 4, _w * (1 - _x) / 2)  # nodes denser at 1, where large variances make it steep
_BATCH = 32  # four-point functions at once


def four_point(activation: Activation, K: Float[Array, "*batch 4 4"], *, nodes: int = 16) -> Float[Array, "*batch"]:
    """E[phi(u_1) phi(u_2) phi(u_3) phi(u_4)] for (u_1, .., u_4) ~ N(0, K); K may be singular (coinciding points).

    Closed forms for linear, square, sine, cosine, random-phase cosine and exponential; one smooth one-dimensional
    integral, to rounding, for erf (theory 01, E3 and E4); exact Gauss-Hermite rules for cube and quartic. Any other
    activation goes through a product of four Gauss-Hermite rules of `nodes` points, nodes^4 evaluations an entry: at
    variances of about 1/2 and 16 nodes the relative error is 1e-7 for GELU, 2e-4 for tanh (a few per cent at 1.5) and
    2e-2 for ReLU. Where that is too coarse or too slow, average over neurons (`theory.perturbative`, "neurons"). It is
    differentiable in K except, for Gauss-Hermite rules, where K is singular or has equal eigenvalues.

    Raises:
        ValueError: K is not a 4 x 4 matrix, or a batch of them.

    >>> import jax.numpy as jnp
    >>> from fieldprob.activations import get
    >>> float(four_point(get("square"), jnp.ones((4, 4))))
    105.0
    """
    K = jnp.asarray(K, dtype=jnp.result_type(K, float))
    if K.shape[-2:] != (4, 4):
        raise ValueError(f"K has shape {K.shape}: give the covariance of four pre-activations, (..., 4, 4)")
    return _moment(activation, K, nodes)


@eqx.filter_jit
def unit_covariance(
    activation: Activation, K: Float[Array, "points points"], *, nodes: int = 16
) -> Float[Array, "points points points points"]:
    """Cov(phi_a phi_b, phi_c phi_d) of one neuron with pre-activations N(0, K) at the points (theory 02's V).

    Each of the points^4 / 24 different four-point functions is computed once; `nodes` as in `four_point`.

    >>> import jax.numpy as jnp
    >>> from fieldprob.activations import get
    >>> unit_covariance(get("linear"), jnp.eye(2))[0, 0, 0, 0].item()
    2.0
    """
    points = K.shape[0]
    quadruples = np.array(list(combinations_with_replacement(range(points), 4))).reshape(-1, 4)
    every = np.sort(np.stack(np.unravel_index(np.arange(points**4), (points,) * 4), axis=1), axis=1)
    position = np.searchsorted(_code(quadruples, points), _code(every, points))

    def moment(quadruple):
        return four_point(activation, K[quadruple[:, None], quadruple[None, :]], nodes=nodes)

    moments = jax.lax.map(moment, jnp.asarray(quadruples), batch_size=_BATCH)
    q = jnp.diagonal(K)
    F = activation.dual(q[:, None], K, q[None, :])
    return moments[position].reshape((points,) * 4) - F[:, :, None, None] * F[None, None, :, :]


def _code(quadruples, points):
    return quadruples @ points ** np.arange(3, -1, -1)


@singledispatch
def _moment(activation: Activation, K: Array, nodes: int) -> Array:
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.stack(np.meshgrid(x, x, x, x), axis=-1).reshape(-1, 4)
    weights = np.prod(np.stack(np.meshgrid(w, w, w, w)), axis=0).ravel() / np.sum(w) ** 4
    eigenvalues, vectors = jnp.linalg.eigh(K)
    root = vectors * jnp.sqrt(jnp.maximum(eigenvalues, 0))[..., None, :]
    u = jnp.einsum("...ij,nj->...ni", root, jnp.asarray(grid, K.dtype))
    return jnp.prod(activation.phi(u), axis=-1) @ jnp.asarray(weights, K.dtype)


@_moment.register
def _(activation: Linear, K: Array, nodes: int) -> Array:
    return jnp.sum(jnp.stack([K[..., i, j] * K[..., m, n] for i, j, m, n in _PAIRINGS]), axis=0)


@_moment.register
def _(activation: Exp, K: Array, nodes: int) -> Array:
    return jnp.exp(jnp.sum(K, axis=(-2, -1)) / 2)


def _sum_over_signs(K: Array, coefficients: np.ndarray) -> Array:
    """sum_s coefficient(s) exp(-s^T K s / 2), over the signs of four complex exponentials."""
    exponents = -jnp.einsum("si,...ij,sj->...s", _SIGNS, K, _SIGNS) / 2
    return jnp.sum(jnp.asarray(coefficients, K.dtype) * jnp.exp(exponents), axis=-1)


@_moment.register
def _(activation: Cos, K: Array, nodes: int) -> Array:
    return _sum_over_signs(K, np.full(16, 1 / 16))


@_moment.register
def _(activation: Sin, K: Array, nodes: int) -> Array:
    return _sum_over_signs(K, np.prod(_SIGNS, axis=1) / 16)


@_moment.register
def _(activation: RandomPhaseCosine, K: Array, nodes: int) -> Array:
    return _sum_over_signs(K, (np.sum(_SIGNS, axis=1) == 0) / 4)


@_moment.register
def _(activation: Monomial, K: Array, nodes: int) -> Array:
    if activation.power != 2:
        return _moment.dispatch(Activation)(activation, K, 2 * activation.power + 1)  # exact for polynomials
    d = [K[..., i, i] for i in range(4)]
    off = {(i, j): K[..., i, j] for i in range(4) for j in range(4)}
    total = d[0] * d[1] * d[2] * d[3]
    total += 2 * sum(off[i, j] ** 2 * d[m] * d[n] for i, j, m, n in _PAIRS)
    total += 4 * sum(off[i, j] ** 2 * off[m, n] ** 2 for i, j, m, n in _PAIRINGS)
    for i, j, k in combinations(range(4), 3):
        total += 8 * off[i, j] * off[j, k] * off[k, i] * d[6 - i - j - k]
    for i, j, m, n in ((0, 1, 2, 3), (0, 1, 3, 2), (0, 2, 1, 3)):
        total += 16 * off[i, j] * off[j, m] * off[m, n] * off[n, i]
    return total


@_moment.register
def _(activation: Erf, K: Array, nodes: int) -> Array:
    """Plackett's interpolation: with off-diagonals t K_ij the derivative in t is a sum over pairs of
    E[phi'(u_i) phi'(u_j) phi(u_k) phi(u_l)], in which the Gaussian phi' phi' only changes the covariance."""
    t, w = (jnp.asarray(x, K.dtype) for x in _INTERPOLATION)
    i, j, m, n = np.array(_PAIRS).T
    K = activation.scale**2 * K[..., None]
    p, q, r = K[..., i, i, :] + 0.5, K[..., j, j, :] + 0.5, t * K[..., i, j, :]
    mi, mj, ni, nj = (t * K[..., row, column, :] for row in (m, n) for column in (i, j))
    determinant = p * q - r**2
    a = K[..., m, m, :] - (mi**2 * q - 2 * mi * mj * r + mj**2 * p) / determinant
    b = K[..., n, n, :] - (ni**2 * q - 2 * ni * nj * r + nj**2 * p) / determinant
    c = t * K[..., m, n, :] - (mi * ni * q - (mi * nj + mj * ni) * r + mj * nj * p) / determinant
    slope = 2 / jnp.pi / jnp.sqrt(determinant)  # (4/pi) det(1 + 2 K_ij)^(-1/2)
    return jnp.sum(w * K[..., i, j, :] * slope * Erf().dual(a, c, b), axis=(-2, -1))
