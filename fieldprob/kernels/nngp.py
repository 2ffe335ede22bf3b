"""Covariances and tangent kernels of infinitely wide fully connected networks, layer by layer.

The formulas are in `fieldprob.kernels.recursion`.
"""

from collections.abc import Sequence

from jax import Array
from jaxtyping import ArrayLike, Float, Num

from fieldprob.kernels import recursion
from fieldprob.kernels.memory import require_memory
from fieldprob.kernels.recursion import Kernels

type _Variances = Sequence | Num[ArrayLike, " layers"]


def nngp(
    X1: Num[ArrayLike, "points inputs"],
    X2: Num[ArrayLike, "points_ inputs"] | None = None,
    *,
    activations: Sequence,
    weight_variance: _Variances,
    bias_variance: _Variances,
    every_layer: bool = True,
) -> list[Float[Array, "points points_"]]:
    """The covariances [K^1, ..., K^(L+1)] of the pre-activations of every layer and of the output, at infinite width.

    `activations` has one entry for each of the L hidden layers (names, callables or activations); `weight_variance`
    and `bias_variance` have L + 1: entry 0 for the first layer, entry L for the readout. Weight variances are per
    fan-in. With `X2` left out the kernels are those of `X1` with itself: exactly symmetric, with diagonals exactly
    those of the recursion at equal arguments. With `every_layer=False` the list holds the output's alone, and no other
    is kept in memory. Differentiable in the variances and in the inputs.

    Raises ValueError if shapes or lengths do not match, or a variance is negative or not finite; MemoryError if the
    kernels do not fit (see `blocks`).

    Source: Lee et al. (2018), Deep neural networks as Gaussian processes, eq. 4-5.

    >>> import jax.numpy as jnp
    >>> from fieldprob import kernels
    >>> K = kernels.nngp(jnp.eye(2), activations=["relu"], weight_variance=[2.0, 2.0], bias_variance=[0.0, 0.0])
    >>> [k[0, 0].item() for k in K]
    [1.0, 1.0]
    """
    return _kernels(X1, X2, activations, weight_variance, bias_variance, tangent=False, every_layer=every_layer).nngp


def ntk(
    X1: Num[ArrayLike, "points inputs"],
    X2: Num[ArrayLike, "points_ inputs"] | None = None,
    *,
    activations: Sequence,
    weight_variance: _Variances,
    bias_variance: _Variances,
    every_layer: bool = True,
) -> list[Float[Array, "points points_"]]:
    """The neural tangent kernels [T^1, ..., T^(L+1)] of every layer's pre-activations and of the output.

    T = sum over parameters of (d f / d theta)(d f' / d theta) at infinite width, in the NTK parametrisation: weights
    are sqrt(weight_variance / fan-in) omega and biases sqrt(bias_variance) beta, and the gradient is with respect to
    omega and beta, of every layer up to the one in question. T^1 = K^1. Same arguments and errors as `nngp`.

    Raises ValueError also for activations that jump (sign, step), whose derivative is a distribution.

    Source: Jacot, Gabriel and Hongler (2018), Neural tangent kernel, theorem 1; theory 01, A15.

    >>> import jax.numpy as jnp
    >>> from fieldprob import kernels
    >>> T = kernels.ntk(jnp.eye(2), activations=["relu"], weight_variance=[2.0, 2.0], bias_variance=[0.0, 0.0])
    >>> [t[0, 0].item() for t in T]
    [1.0, 2.0]
    """
    return _kernels(X1, X2, activations, weight_variance, bias_variance, tangent=True, every_layer=every_layer).ntk


def nngp_and_ntk(
    X1: Num[ArrayLike, "points inputs"],
    X2: Num[ArrayLike, "points_ inputs"] | None = None,
    *,
    activations: Sequence,
    weight_variance: _Variances,
    bias_variance: _Variances,
    every_layer: bool = True,
) -> Kernels:
    """`nngp` and `ntk` from one pass, as a tuple `(nngp, ntk)` of lists.

    With `every_layer=False` both lists hold the output's kernel alone, and no other is kept in memory.

    >>> import jax.numpy as jnp
    >>> from fieldprob import kernels
    >>> both = kernels.nngp_and_ntk(jnp.eye(2), activations=["relu"], weight_variance=[2, 2], bias_variance=[0, 0])
    >>> both.nngp[-1][0, 0].item(), both.ntk[-1][0, 0].item()
    (1.0, 2.0)
    """
    return _kernels(X1, X2, activations, weight_variance, bias_variance, tangent=True, every_layer=every_layer)


def nngp_diagonal(
    X: Num[ArrayLike, "points inputs"], *, activations: Sequence, weight_variance, bias_variance
) -> list[Float[Array, " points"]]:
    """The diagonals of the kernels of `nngp`, in O(points) memory. Same arguments, same errors.

    >>> import jax.numpy as jnp
    >>> from fieldprob import kernels
    >>> q = kernels.nngp_diagonal(jnp.ones((1, 3)), activations=["relu"], weight_variance=[1, 2], bias_variance=[0, 0])
    >>> q[1].tolist()
    [1.0]
    """
    net = recursion.architecture(activations, weight_variance, bias_variance)
    return recursion.diagonals(net, recursion.points("X", X), tangent=False).nngp


def ntk_diagonal(
    X: Num[ArrayLike, "points inputs"], *, activations: Sequence, weight_variance, bias_variance
) -> list[Float[Array, " points"]]:
    """The diagonals of the kernels of `ntk`, in O(points) memory. Same arguments, same errors.

    >>> import jax.numpy as jnp
    >>> from fieldprob import kernels
    >>> t = kernels.ntk_diagonal(jnp.ones((1, 3)), activations=["relu"], weight_variance=[1, 2], bias_variance=[0, 0])
    >>> t[1].tolist()
    [2.0]
    """
    net = recursion.architecture(activations, weight_variance, bias_variance)
    recursion.require_tangent(net)
    return recursion.diagonals(net, recursion.points("X", X), tangent=True).ntk


def _kernels(X1, X2, activations, weight_variance, bias_variance, *, tangent: bool, every_layer: bool) -> Kernels:
    X1 = recursion.points("X1", X1)
    X2 = None if X2 is None else recursion.points("X2", X2)
    net = recursion.architecture(activations, weight_variance, bias_variance)
    if tangent:
        recursion.require_tangent(net)
    return matrices(X1, X2, net, tangent=tangent, every_layer=every_layer)


def matrices(X1: Array, X2: Array | None, net: recursion.Architecture, *, tangent: bool, every_layer: bool) -> Kernels:
    """The kernels of checked arguments, if they fit into memory."""
    other = X1 if X2 is None else X2
    if X1.shape[1] != other.shape[1]:
        raise ValueError(f"X2 has {other.shape[1]} inputs but X1 has {X1.shape[1]}: they must be points of one space")
    kept = (1 + tangent) * (len(net.activations) + 1 if every_layer else 1)
    remedy = "block by block with kernels.blocks(...)" + (", or only the output's, every_layer=False" * every_layer)
    require_memory(X1.shape[0], other.shape[0], X1.dtype, kept, X1, remedy=remedy)
    recursion.warn_if_inaccurate(net, X1, tangent=tangent)
    if X2 is None:
        return recursion.symmetric(net, X1, tangent=tangent, every_layer=every_layer)
    return recursion.rectangular(net, X1, X2, tangent=tangent, every_layer=every_layer)
