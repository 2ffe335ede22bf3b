"""The infinite-width limit of a deep network: the recursion of its layer covariances.

K^1 = bias + weight X X' / inputs, K^(l+1) = bias + weight E[phi(u) phi(v)] with (u, v) ~ N(0, K^l); the last one is the
covariance of the output (Neal 1996; Lee et al. 2018, Deep neural networks as Gaussian processes, eq. 4-5).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import ArrayLike, Float, Num

from fieldprob import activations as _activations


def linear(
    X1: Float[Array, "points inputs"],
    X2: Float[Array, "points_ inputs"],
    weight_variance: Num[ArrayLike, ""],
    bias_variance: Num[ArrayLike, ""],
) -> Float[Array, "points points_"]:
    """bias_variance + weight_variance X1 X2' / inputs: the covariance of a linear layer's outputs.

    The weight variance is per fan-in: each weight has variance weight_variance / inputs.

    >>> import jax.numpy as jnp
    >>> from fieldprob import kernels
    >>> kernels.linear(jnp.ones((1, 4)), jnp.ones((1, 4)), 2.0, 0.5).item()
    2.5
    """
    product = jnp.matmul(X1, X2.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.asarray(bias_variance + weight_variance * product / X1.shape[1])


def nngp(
    X1: Float[Array, "points inputs"],
    X2: Float[Array, "points_ inputs"] | None = None,
    *,
    activations: Sequence,
    weight_variance: Sequence | Num[ArrayLike, " layers"],
    bias_variance: Sequence | Num[ArrayLike, " layers"],
) -> list[Float[Array, "points points_"]]:
    """The covariances [K^1, ..., K^(L+1)] of the pre-activations of every layer and of the output, at infinite width.

    `activations` has one entry for each of the L hidden layers (names, callables or activations); `weight_variance`
    and `bias_variance` have L + 1: entry 0 for the first layer, entry L for the readout. Weight variances are per
    fan-in. With `X2` left out the kernels are those of `X1` with itself: exactly symmetric, with diagonals exactly
    those of the recursion at equal arguments. Differentiable in the variances and in the inputs.

    Raises ValueError if shapes or lengths do not match, or a variance is negative or not finite.

    Source: Lee et al. (2018), Deep neural networks as Gaussian processes, eq. 4-5.

    >>> import jax.numpy as jnp
    >>> from fieldprob import kernels
    >>> K = kernels.nngp(jnp.eye(2), activations=["relu"], weight_variance=[2.0, 2.0], bias_variance=[0.0, 0.0])
    >>> [k[0, 0].item() for k in K]
    [1.0, 1.0]
    """
    X1 = _points("X1", X1)
    layers = [_activations.get(activation) for activation in activations]
    weight = _variances("weight_variance", weight_variance, len(layers))
    bias = _variances("bias_variance", bias_variance, len(layers))
    if X2 is None:
        return _symmetric(X1, layers, weight, bias)
    X2 = _points("X2", X2)
    if X1.shape[1] != X2.shape[1]:
        raise ValueError(f"X2 has {X2.shape[1]} inputs but X1 has {X1.shape[1]}: they must be points of one space")
    return _rectangular(X1, X2, layers, weight, bias)


def nngp_diagonal(
    X: Float[Array, "points inputs"], *, activations: Sequence, weight_variance, bias_variance
) -> list[Float[Array, " points"]]:
    """The diagonals of the kernels of `nngp`, in O(points) memory. Same arguments, same errors.

    >>> import jax.numpy as jnp
    >>> from fieldprob import kernels
    >>> q = kernels.nngp_diagonal(jnp.ones((1, 3)), activations=["relu"], weight_variance=[1, 2], bias_variance=[0, 0])
    >>> q[1].tolist()
    [1.0]
    """
    X = _points("X", X)
    layers = [_activations.get(activation) for activation in activations]
    weight = _variances("weight_variance", weight_variance, len(layers))
    bias = _variances("bias_variance", bias_variance, len(layers))
    return _diagonals(X, layers, weight, bias)


def _diagonals(X, layers, weight, bias):
    q = [bias[0] + weight[0] * jnp.sum(X**2, axis=1) / X.shape[1]]
    for phi, w, b in zip(layers, weight[1:], bias[1:], strict=True):
        q.append(b + w * phi.dual(q[-1], q[-1], q[-1]))
    return q


def _symmetric(X, layers, weight, bias):
    # One triangle would do; the average of both costs less than packing, and makes rounding symmetric.
    diagonal = jnp.eye(X.shape[0], dtype=bool)
    diagonals = _diagonals(X, layers, weight, bias)

    def tidy(kernel, q):
        return jnp.where(diagonal, q[:, None], (kernel + kernel.T) / 2)

    kernels = [tidy(linear(X, X, weight[0], bias[0]), diagonals[0])]
    for phi, w, b, q, following in zip(layers, weight[1:], bias[1:], diagonals, diagonals[1:], strict=False):
        kernels.append(tidy(b + w * phi.dual(q[:, None], kernels[-1], q[None, :]), following))
    return kernels


def _rectangular(X1, X2, layers, weight, bias):
    rows, columns = _diagonals(X1, layers, weight, bias), _diagonals(X2, layers, weight, bias)
    kernels = [linear(X1, X2, weight[0], bias[0])]
    for phi, w, b, q1, q2 in zip(layers, weight[1:], bias[1:], rows, columns, strict=False):
        kernels.append(b + w * phi.dual(q1[:, None], kernels[-1], q2[None, :]))
    return kernels


def _points(name: str, X) -> Array:
    X = jnp.asarray(X)
    if X.ndim != 2 or X.shape[1] == 0:
        raise ValueError(f"{name} has shape {X.shape}: it must be (points, inputs) with at least one input")
    return X if jnp.issubdtype(X.dtype, jnp.floating) else X.astype(jnp.result_type(float))


def _variances(name: str, values, depth: int) -> list:
    if np.isscalar(values) or (isinstance(values, Array | np.ndarray) and values.ndim == 0):
        raise ValueError(f"{name} is one number: pass {depth + 1}, one for each layer and the readout last")
    values = list(values)
    if len(values) != depth + 1:
        raise ValueError(
            f"{name} has {len(values)} entries for {depth} activations: it needs {depth + 1}, the readout last"
        )
    for layer, value in enumerate(values):
        if isinstance(value, Tracer):
            continue
        if np.ndim(value) != 0 or not (np.isfinite(value) and value >= 0):
            raise ValueError(f"{name}[{layer}] = {value} must be a finite number, zero or positive")
    return values
