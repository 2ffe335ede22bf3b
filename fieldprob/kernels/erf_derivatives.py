"""Input derivatives of the two-layer erf covariance in closed form.

k(x, x') = b_1 + w_1 (2/pi) arcsin(2c / sqrt(A B)), with s = w_0 / inputs, a = b_0 + s |x|^2, c = b_0 + s x.x',
b = b_0 + s |x'|^2, A = 1 + 2a, B = 1 + 2b, D = A B - 4 c^2, u = x' - (2c/A) x and p = 4 w_1 / pi:

    grad_x k          = p s D^(-1/2) u
    d_x d_x'^T k      = p s { (1 - (2s/A) x x^T) D^(-1/2) - 1/2 D^(-3/2) u (4 s A x' - 8 s c x)^T }
    Delta_x k         = p s { -1/2 D^(-3/2) (4 s B x - 8 s c x').u
                              + D^(-1/2) [-(2/A) s x.x' + (8 c s / A^2) |x|^2 - 2 c d / A] }

(theory 01, A19-A21; Williams 1997, Computing with infinite networks, for k itself). What automatic differentiation of
`kernels.Network(["erf"], ...)` gives, and gives for any kernel, written out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, Num

from fieldprob.activations.gaussian import determinant
from fieldprob.kernels import recursion
from fieldprob.kernels.memory import require_memory


class ErfDerivatives(NamedTuple):
    """Gradient in x (points, points_, inputs), mixed second derivative (points, points_, inputs, inputs_) with the
    index of x first, and Laplacian in x (points, points_)."""

    gradient: Array
    mixed: Array
    laplacian: Array


def erf_derivatives(
    X1: Num[ArrayLike, "points inputs"],
    X2: Num[ArrayLike, "points_ inputs"] | None = None,
    *,
    weight_variance,
    bias_variance,
) -> ErfDerivatives:
    """Derivatives of the covariance of a network with one hidden layer of erf, `X2` being `X1` if left out.

    `weight_variance` (per fan-in) and `bias_variance` have two entries, the readout's last, as in `kernels.nngp`. For
    erf(scale z) multiply the first ones by scale^2.

    Raises ValueError if shapes or lengths do not match, or a variance is negative or not finite.

    Source: theory 01, A19-A21.

    >>> import jax.numpy as jnp
    >>> from fieldprob import kernels
    >>> result = kernels.erf_derivatives(jnp.zeros((1, 2)), weight_variance=[2.0, 1.0], bias_variance=[0.0, 0.0])
    >>> print(round(result.mixed[0, 0, 0, 0].item(), 12), round(4 / 3.141592653589793, 12))
    1.273239544735 1.273239544735
    """
    X1 = recursion.points("X1", X1)
    X2 = X1 if X2 is None else recursion.points("X2", X2)
    if X1.shape[1] != X2.shape[1]:
        raise ValueError(f"X2 has {X2.shape[1]} inputs but X1 has {X1.shape[1]}: they must be points of one space")
    _, weight, bias = recursion.architecture(["erf"], weight_variance, bias_variance)
    size = X1.shape[1] ** 2 + X1.shape[1] + 1
    require_memory(X1.shape[0], X2.shape[0], X1.dtype, size, X1, remedy="for fewer points at a time")
    return _closed_form(X1, X2, weight, bias)


@jax.jit
def _closed_form(X1, X2, weight, bias) -> ErfDerivatives:
    inputs = X1.shape[1]
    s, p = weight[0] / inputs, weight[1] * 4 / jnp.pi
    x, y = X1[:, None, :], X2[None, :, :]
    xx, yy = jnp.sum(X1**2, axis=1)[:, None], jnp.sum(X2**2, axis=1)[None, :]
    xy = jnp.matmul(X1, X2.T, precision=jax.lax.Precision.HIGHEST)
    A, B, c = 1 + 2 * (bias[0] + s * xx), 1 + 2 * (bias[0] + s * yy), bias[0] + s * xy
    D = 1 + 2 * (bias[0] + s * xx + (bias[0] + s * yy)) + 4 * determinant(bias[0] + s * xx, c, bias[0] + s * yy)
    u = y - (2 * c / A)[..., None] * x
    gradient = p * s * u / jnp.sqrt(D)[..., None]

    def outer(v, w):
        return v[..., :, None] * w[..., None, :]

    def matrix(scalar):
        return jnp.broadcast_to(scalar, D.shape)[..., None, None]

    falling = 4 * s * A[..., None] * y - 8 * s * c[..., None] * x
    mixed = (jnp.eye(inputs, dtype=D.dtype) - matrix(2 * s / A) * outer(x, x)) / matrix(jnp.sqrt(D))
    mixed = p * s * (mixed - outer(u, falling) / matrix(2 * D**1.5))
    along = 4 * s * B * (xy - 2 * c / A * xx) - 8 * s * c * (yy - 2 * c / A * xy)
    rest = -2 / A * s * xy + 8 * c * s / A**2 * xx - 2 * c * inputs / A
    laplacian = p * s * (-along / (2 * D**1.5) + rest / jnp.sqrt(D))
    return ErfDerivatives(gradient, mixed, laplacian)
