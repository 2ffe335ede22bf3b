"""The pair (kernel, tangent kernel) that layers map at infinite width, between points and between their positions.

K_{a,a'}(x, x') is the covariance of one neuron at position a of point x and position a' of x', Theta_{a,a'}(x, x')
its tangent kernel, sum over parameters of (df_a(x)/dtheta) (df_a'(x')/dtheta). Convolution shifts both positions alike,
so that a network which flattens needs a = a' only: P^2 A numbers for A positions. One that pools needs P^2 A^2, all
pairs.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fieldprob.kernels.memory import available_bytes

# Arrays of the size of the kernel that are alive at the same time, in the worst layer.
_COPIES = 8
_HIGHEST = jax.lax.Precision.HIGHEST


class Kernels(eqx.Module):
    """Kernels between points X1 and X2 and of every point with itself, with as many axes of positions as are needed.

    rows: of each point of X1 with itself, (points1, 1, *positions).
    columns: of each point of X2 with itself, (1, points2, *positions); None where X2 is X1.
    cross: of X1 with X2, (points1, points2, *positions); None where only `rows` are wanted.
    tangent: the tangent kernel, shaped as `cross`; None where it is not wanted.
    axes: axes of positions: 0 none, 1 the same position in both arguments, 2 all pairs of positions.
    """

    rows: Float[Array, "points1 1 *positions"]
    columns: Float[Array, "1 points2 *positions"] | None
    cross: Float[Array, "points1 points2 *positions"] | None
    tangent: Float[Array, "points1 points2 *positions"] | None
    axes: int = eqx.field(static=True)

    def map(self, kernel: Callable, tangent: Callable | None = None) -> "Kernels":
        """`kernel(K, a, b)` of every kernel K, with a and b the variances of its two arguments at their positions, and
        `tangent(Theta, K, a, b)`, or `kernel(Theta, a, b)` unless given, of the tangent kernel."""
        rows = kernel(self.rows, *self._variances(self.rows, self.rows))
        columns = self.columns
        if columns is not None:
            columns = kernel(columns, *self._variances(columns, columns))
        if self.cross is None:
            return Kernels(rows, columns, None, None, self.axes)
        a, b = self._variances(self.rows, self.other)
        theta = self.tangent
        if theta is not None:
            theta = kernel(theta, a, b) if tangent is None else tangent(theta, self.cross, a, b)
        return Kernels(rows, columns, kernel(self.cross, a, b), theta, self.axes)

    def reduce(self, reduction: Callable) -> "Kernels":
        """`reduction(K)` of every kernel and of the tangent kernel; it takes all axes of positions away."""
        rows, columns, cross, tangent = jax.tree.map(reduction, (self.rows, self.columns, self.cross, self.tangent))
        return Kernels(rows, columns, cross, tangent, 0)

    def weighted(self, weight_variance, bias_variance, mix: Callable = lambda K: K) -> "Kernels":
        """Through weights and biases: K <- b + w mix(K), Theta <- K + w mix(Theta), `mix` linear over positions."""
        result = self.map(
            lambda K, a, b: bias_variance + weight_variance * mix(K),
            lambda theta, K, a, b: weight_variance * mix(theta),
        ).symmetrised()
        K, theta = result.cross, result.tangent
        return result if K is None or theta is None else eqx.tree_at(lambda k: k.tangent, result, K + theta)

    def plus(self, other: "Kernels") -> "Kernels":
        """Of the sum of two processes that are independent."""
        return jax.tree.map(jnp.add, self, other)

    @property
    def other(self) -> Float[Array, "1 points2 *positions"]:
        """Kernels of the second arguments' points with themselves."""
        return jnp.swapaxes(self.rows, 0, 1) if self.columns is None else self.columns

    def _variances(self, rows, columns):
        if self.axes < 2:
            return rows, columns
        a, b = (jnp.diagonal(K, axis1=-2, axis2=-1) for K in (rows, columns))
        return a[..., :, None], b[..., None, :]

    def symmetrised(self) -> "Kernels":
        """Without the asymmetry of rounding: where X2 is X1 the diagonal is exactly `rows`."""
        if self.cross is None or self.columns is not None:
            return self
        same = jnp.eye(self.cross.shape[0], dtype=bool).reshape(self.cross.shape[:2] + (1,) * self.axes)
        cross = jnp.where(same, self.rows, (self.cross + self._transposed(self.cross)) / 2)
        tangent = None if self.tangent is None else (self.tangent + self._transposed(self.tangent)) / 2
        return Kernels(self.rows, None, cross, tangent, self.axes)

    def _transposed(self, K):
        K = jnp.swapaxes(K, 0, 1)
        return jnp.swapaxes(K, -2, -1) if self.axes == 2 else K

    def average(self) -> Float[Array, "points1 points2"]:
        """The kernel averaged over the positions, the same in both arguments; of `rows` alone without `cross`."""
        means = self.reduce(lambda K: average(K, self.axes)).symmetrised()
        return means.rows if means.cross is None else means.cross


def average(K: Float[Array, "points1 points2 *positions"], axes: int) -> Float[Array, "points1 points2"]:
    """The mean over positions a of K_{a,a}."""
    if axes == 2:
        K = jnp.diagonal(K, axis1=-2, axis2=-1)
    return jnp.mean(K, axis=-1) if axes else K


def of_inputs(X1, X2, *, axes: int, cross: bool, tangent: bool) -> Kernels:
    """The pair for the inputs themselves: mean over channels of their products, and no tangent kernel.

    X1, X2: (points, channels), or (points, positions, channels) where `axes` is 1 or 2; X2 may be None.

    Raises:
        MemoryError: the kernels of all (pairs of) positions do not fit.
    """
    spec = {0: "ic,jc->ij", 1: "iac,jac->ija", 2: "iac,jbc->ijab"}[axes]

    def product(A, B):
        return jnp.einsum(spec, A, B, precision=_HIGHEST) / A.shape[-1]

    own = jax.vmap(lambda x: product(x[None], x[None])[0])
    second = X1 if X2 is None else X2
    if cross:
        _check_memory(X1.shape[0], second.shape[0], X1.shape[1:-1], axes, X1)
    K = product(X1, second) if cross else None
    theta = jnp.zeros_like(K) if tangent and K is not None else None
    columns = None if X2 is None else jnp.swapaxes(own(X2), 0, 1)
    return Kernels(own(X1), columns, K, theta, axes).symmetrised()


def _check_memory(points1: int, points2: int, positions: tuple[int, ...], axes: int, X) -> None:
    entries = math.prod(positions) ** axes
    need = _COPIES * X.dtype.itemsize * points1 * points2 * entries
    have = available_bytes(X)
    if need > have:
        block = max(1, math.floor(points1 * have / need))
        what = {0: "the kernel", 1: "the kernels at every position", 2: "the kernels of all pairs of positions"}[axes]
        fewer = f" Flatten() needs {math.prod(positions)} times less than average pooling." if axes == 2 else ""
        raise MemoryError(
            f"about {need / 1e9:.3g} GB are needed for {what} of {points1} x {points2} points, and there are "
            f"{have / 1e9:.3g} GB: take blocks of at most {block} points, net.limit(X[:{block}], X), ....{fewer}"
        )
