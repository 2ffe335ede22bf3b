"""Infinitely wide networks as kernels of tinygp: they add, multiply and condition like any other.

A kernel is a function of two points; tinygp's convention is `kernel(X)` for the variances (points,) and
`kernel(X1, X2)` for the covariance matrix (points, points_).
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jaxtyping import Bool, Float
from tinygp.kernels.base import Constant, Kernel, Product, Sum

from fieldprob.activations import Activation
from fieldprob.kernels import recursion
from fieldprob.kernels.nngp import matrices
from fieldprob.kernels.recursion import Architecture


class MatrixKernel(Kernel):
    """A kernel that knows a faster way to its matrix than entry by entry; so do its sums and products."""

    def __add__(self, other):
        return MatrixSum(self, _kernel(other))

    def __radd__(self, other):
        return self if isinstance(other, int) and other == 0 else MatrixSum(_kernel(other), self)

    def __mul__(self, other):
        return MatrixProduct(self, _kernel(other))

    def __rmul__(self, other):
        return MatrixProduct(_kernel(other), self)


class MatrixSum(MatrixKernel, Sum):
    """The sum of two kernels, matrix by matrix."""

    def __call__(self, X1, X2=None):
        return self.kernel1(X1, X2) + self.kernel2(X1, X2)


class MatrixProduct(MatrixKernel, Product):
    """The product of two kernels, matrix by matrix."""

    def __call__(self, X1, X2=None):
        return self.kernel1(X1, X2) * self.kernel2(X1, X2)


class Network(MatrixKernel):
    """The covariance of the outputs of an infinitely wide fully connected network, or its neural tangent kernel.

    Args:
        activations: one for each of the L hidden layers: names, callables or activations.
        weight_variance: L + 1 variances per fan-in, the readout's last.
        bias_variance: L + 1 variances, the readout's last.
        tangent: the tangent kernel (see `fieldprob.kernels.ntk`) instead of the covariance.

    A tinygp kernel: sums and products with tinygp's, `tinygp.GaussianProcess(kernel, X)` and gradients with respect to
    the variances work. A point is (inputs,), or a number for one input.

    Raises ValueError if lengths do not match, a variance is negative or not finite, or `tangent` is asked for with an
    activation that jumps.

    >>> import jax.numpy as jnp, tinygp
    >>> from fieldprob import kernels
    >>> kernel = kernels.Network(["relu"], [2.0, 2.0], [0.0, 0.0]) + tinygp.kernels.ExpSquared(1.0)
    >>> kernel(jnp.eye(2)).tolist()
    [2.0, 2.0]
    >>> tinygp.GaussianProcess(kernel, jnp.eye(2), diag=0.1).log_probability(jnp.ones(2)).shape
    ()
    """

    activations: tuple[Activation, ...]
    weight_variance: tuple
    bias_variance: tuple
    tangent: bool = eqx.field(static=True)

    def __init__(self, activations: Sequence, weight_variance, bias_variance, tangent: bool = False):
        net = recursion.architecture(activations, weight_variance, bias_variance)
        if tangent:
            recursion.require_tangent(net)
        self.activations, self.weight_variance, self.bias_variance = net
        self.tangent = tangent

    @property
    def architecture(self) -> Architecture:
        return Architecture(self.activations, self.weight_variance, self.bias_variance)

    def evaluate(self, X1: Float[Array, " inputs"], X2: Float[Array, " inputs"]) -> Float[Array, ""]:
        """The kernel of two points."""
        x, y = jnp.atleast_1d(X1), jnp.atleast_1d(X2)
        squares, product = jnp.sum(x * x), jnp.sum(x * y)
        # Coincident points must be so to the last digit; the derivatives stay those of the product.
        product = product + stop_gradient(jnp.where(jnp.all(x == y), squares - product, 0))
        return self.of_products(squares, product, jnp.sum(y * y), x.shape[0])

    def of_products(self, xx: Array, xy: Array, yy: Array, inputs: int) -> Array:
        """The kernel as a function of |x|^2, x.y and |y|^2, elementwise."""
        return recursion.elementwise(self.architecture, *self._moments(xx, xy, yy, inputs), tangent=self.tangent)

    def _moments(self, xx, xy, yy, inputs):
        w, b = self.weight_variance[0], self.bias_variance[0]
        return b + w * xx / inputs, b + w * xy / inputs, b + w * yy / inputs

    def evaluate_diag(self, X: Float[Array, " inputs"]) -> Float[Array, ""]:
        """The kernel of a point with itself."""
        return self(X[None])[0]

    def __call__(self, X1, X2=None):
        points = _points(X1)
        if X2 is None:
            diagonal = recursion.diagonals(self.architecture, points, tangent=self.tangent)
            return (diagonal.ntk if self.tangent else diagonal.nngp)[-1]
        other = None if X2 is X1 else _points(X2)
        both = matrices(points, other, self.architecture, tangent=self.tangent, every_layer=False)
        return (both.ntk if self.tangent else both.nngp)[-1]

    # --- where derivatives with respect to inputs exist ---------------------------------------------------------------

    @property
    def coincident_order(self) -> float:
        """Derivatives with respect to inputs, counted over both, exist up to this order where two points coincide
        (more generally, where a layer with a kink sees a correlation of +-1); elsewhere they exist to any order.

        A kink makes the covariance |angle|^3 there and the tangent kernel |angle|, a jump the covariance |angle|.
        """
        if all(phi.smooth for phi in self.activations):
            return float("inf")
        return 0 if self.tangent or any(_jumps(phi) for phi in self.activations) else 2

    def degenerate(self, xx: Array, xy: Array, yy: Array, inputs: int) -> tuple[Bool[Array, "..."], Bool[Array, "..."]]:
        """Where a layer whose activation is not smooth sees a correlation of +-1, and where it sees a variance of 0
        (there the covariance has no gradient)."""
        a, c, b = self._moments(xx, xy, yy, inputs)
        aligned = vanishing = jnp.zeros(jnp.broadcast_shapes(a.shape, c.shape, b.shape), bool)
        for phi, w, bias in zip(self.activations, self.weight_variance[1:], self.bias_variance[1:], strict=True):
            if not phi.smooth:
                size = jnp.sqrt(a) * jnp.sqrt(b)
                zero = (a == 0) | (b == 0)
                aligned |= ~zero & (size - jnp.abs(c) <= 64 * jnp.finfo(c.dtype).eps * size)
                vanishing |= zero
            a, c, b = (bias + w * phi.dual(*m) for m in ((a, a, a), (a, c, b), (b, b, b)))
        return aligned, vanishing


class Limit(MatrixKernel):
    """The infinite-width limit of any network as a tinygp kernel: `fp.Sequential` with its layers, `fp.Mlp`.

    Args:
        network: has `limit`, `limit_variance` and, for `tangent`, `limit_tangent`.
        tangent: the tangent kernel instead of the covariance.

    Raises ValueError for what is no network.

    >>> import fieldprob as fp, jax.numpy as jnp, tinygp
    >>> net = fp.Mlp(width=8, activation="relu", weight_variance=2.0)
    >>> (fp.kernels.Limit(net) + tinygp.kernels.ExpSquared(1.0))(jnp.eye(2)).tolist()
    [2.0, 2.0]
    """

    network: Any
    tangent: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if not hasattr(self.network, "limit") or not hasattr(self.network, "limit_tangent"):
            raise ValueError(f"network = {self.network!r} has no infinite-width limit: pass fp.Sequential or fp.Mlp")

    def evaluate(self, X1: Float[Array, " inputs"], X2: Float[Array, " inputs"]) -> Float[Array, ""]:
        """The kernel of two points."""
        return self(jnp.atleast_1d(X1)[None], jnp.atleast_1d(X2)[None])[0, 0]

    def evaluate_diag(self, X: Float[Array, " inputs"]) -> Float[Array, ""]:
        """The kernel of a point with itself."""
        return self(jnp.atleast_1d(X)[None])[0]

    def __call__(self, X1, X2=None):
        points, matrix = _points(X1), self.network.limit_tangent if self.tangent else self.network.limit
        if X2 is not None:
            return matrix(points, None if X2 is X1 else _points(X2))
        if self.tangent:
            return jax.vmap(lambda x: matrix(x[None])[0, 0])(points)
        return self.network.limit_variance(points)


def _jumps(phi: Activation) -> bool:
    try:
        recursion.require_continuous(phi)
    except ValueError:
        return True
    return False


def _kernel(other) -> Kernel:
    return other if isinstance(other, Kernel) else Constant(other)


def _points(X) -> Array:
    X = jnp.asarray(X)
    return recursion.points("X", X[:, None] if X.ndim == 1 else X)
