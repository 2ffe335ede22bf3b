"""Derivatives of a covariance function with respect to its inputs, up to second order in each.

For any k(x, x'): the gradient in x, the mixed second derivative d_x d_x'^T (the covariance of two gradients), the
Laplacian in x (the covariance of a Laplacian with a value), and both Laplacians (that of two Laplacians).

A network's kernel depends on its inputs through A = |x|^2, p = x.x' and B = |x'|^2 only:

    grad_x k = 2 k_A x + k_p x'
    d_x d_x'^T k = 4 k_AB x x'^T + 2 k_Ap x x^T + 2 k_pB x' x'^T + k_pp x' x^T + k_p 1
    Delta_x k = 4 A k_AA + 4 p k_Ap + B k_pp + 2 d k_A

so that nothing grows with the number d of inputs but the result. Other kernels, and the double Laplacian, are
differentiated as they are.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import ArrayLike, Float, Num
from tinygp.kernels.base import Kernel, Product, Sum

from fieldprob.activations import Activation
from fieldprob.kernels import recursion
from fieldprob.kernels.memory import require_memory
from fieldprob.kernels.network import Network


def gradient(
    k: Kernel | Callable, X1: Num[ArrayLike, "points inputs"], X2: Num[ArrayLike, "points_ inputs"] | None = None
) -> Float[Array, "points points_ inputs"]:
    """d k(x, x') / dx for x in X1 and x' in X2 (X1 itself if left out).

    `k` is a kernel of fieldprob or tinygp, or a function of two points (inputs,) that returns a number. Coincident
    points are safe; infinitely differentiable networks (erf, GELU, tanh, ...) have every derivative there.

    Raises ValueError where the derivative does not exist: for a network with a kink, at coincident points for the
    tangent kernel, and where a pre-activation vanishes (x = 0 without bias); for other kernels where it is not finite.
    A compiled function cannot raise for what depends on values: there the result is NaN at such points. A kernel that
    is not a network's must itself be differentiable by JAX: a function's kinks are not seen, and a network with a kink
    inside another kernel than a sum or product (tinygp's transforms) is refused.

    >>> import jax.numpy as jnp
    >>> from fieldprob import kernels
    >>> k = kernels.Network(["linear"], [1.0, 1.0], [0.0, 0.0])
    >>> kernels.derivatives.gradient(k, jnp.ones((1, 2)), jnp.eye(2)).tolist()
    [[[0.5, 0.0], [0.0, 0.5]]]
    """
    return _apply("gradient", 1, _gradient_of_products, _gradient_of_points, k, X1, X2)


def mixed(
    k: Kernel | Callable, X1: Num[ArrayLike, "points inputs"], X2: Num[ArrayLike, "points_ inputs"] | None = None
) -> Float[Array, "points points_ inputs inputs_"]:
    """d^2 k(x, x') / dx_i dx'_j, the covariance of the gradients at x and x' (i before j).

    Arguments and errors as `gradient`. The covariance of a network with a kink has it at coincident points; its
    tangent kernel does not.

    >>> import jax.numpy as jnp
    >>> from fieldprob import kernels
    >>> k = kernels.Network(["relu"], [2.0, 1.0], [0.0, 0.0])
    >>> kernels.derivatives.mixed(k, jnp.ones((1, 2)))[0, 0].tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    return _apply("mixed second derivative", 2, _mixed_of_products, _mixed_of_points, k, X1, X2)


def laplacian(
    k: Kernel | Callable, X1: Num[ArrayLike, "points inputs"], X2: Num[ArrayLike, "points_ inputs"] | None = None
) -> Float[Array, "points points_"]:
    """The Laplacian of k(x, x') in x, the covariance of the Laplacian at x with the value at x'.

    Arguments and errors as `gradient`. The covariance of a network with a kink has it at coincident points; its
    tangent kernel does not.

    >>> import jax.numpy as jnp
    >>> from fieldprob import kernels
    >>> kernels.derivatives.laplacian(lambda x, y: jnp.sum(x**2) * jnp.sum(y), jnp.ones((1, 3))).item()
    18.0
    """
    return _apply("Laplacian", 2, _laplacian_of_products, _laplacian_of_points, k, X1, X2)


def double_laplacian(
    k: Kernel | Callable, X1: Num[ArrayLike, "points inputs"], X2: Num[ArrayLike, "points_ inputs"] | None = None
) -> Float[Array, "points points_"]:
    """The Laplacian in x of the Laplacian in x' of k(x, x'), the covariance of two Laplacians.

    Arguments and errors as `gradient`. A network with a kink does not have it at coincident points. It takes a time
    proportional to inputs^2, and for a callable activation (tanh too) half a minute of compilation.

    >>> import jax.numpy as jnp
    >>> from fieldprob import kernels
    >>> kernels.derivatives.double_laplacian(lambda x, y: jnp.sum(x**2) * jnp.sum(y**2), jnp.ones((1, 3))).item()
    36.0
    """
    return _apply("double Laplacian", 4, None, _double_laplacian_of_points, k, X1, X2)


# --- through |x|^2, x.x', |x'|^2 --------------------------------------------------------------------------------------


def _partial(f: Callable, *which: int) -> Callable:
    """Derivatives of an elementwise f(A, p, B), one after the other."""
    for index in which:
        f = partial(_slope, f, index)
    return f


def _slope(f, index, *args):
    tangents = [jnp.ones_like(x) if i == index else jnp.zeros_like(x) for i, x in enumerate(args)]
    return jax.jvp(f, args, tuple(tangents))[1]


_A, _P, _B = 0, 1, 2


def _gradient_of_products(f, products, X1, X2):
    k_A, k_p = (_partial(f, i)(*products)[..., None] for i in (_A, _P))
    return 2 * k_A * X1[:, None, :] + k_p * X2[None, :, :]


def _mixed_of_products(f, products, X1, X2):
    orders = ((_A, _B), (_A, _P), (_P, _B), (_P, _P), (_P,))
    k_AB, k_Ap, k_pB, k_pp, k_p = (_partial(f, *order)(*products)[..., None, None] for order in orders)
    x, y = X1[:, None, :], X2[None, :, :]
    rows = 4 * k_AB * x[..., :, None] + 2 * k_pB * y[..., :, None]
    columns = 2 * k_Ap * x[..., :, None] + k_pp * y[..., :, None]
    return rows * y[..., None, :] + columns * x[..., None, :] + k_p * jnp.eye(X1.shape[1], dtype=X1.dtype)


def _laplacian_of_products(f, products, X1, X2):
    k_AA, k_Ap, k_pp, k_A = (_partial(f, *order)(*products) for order in ((_A, _A), (_A, _P), (_P, _P), (_A,)))
    A, p, B = products
    return 4 * A * k_AA + 4 * p * k_Ap + B * k_pp + 2 * X1.shape[1] * k_A


def _products(X1, X2):
    """|x|^2, x.x' and |x'|^2, (points, points_); equal to the last digit where points coincide."""
    A, B = jnp.sum(X1 * X1, axis=1)[:, None], jnp.sum(X2 * X2, axis=1)[None, :]
    p = jnp.matmul(X1, X2.T, precision=jax.lax.Precision.HIGHEST)
    same = jnp.all(X1[:, None, :] == X2[None, :, :], axis=-1)
    p = p + jax.lax.stop_gradient(jnp.where(same, A - p, 0))
    B = B + jax.lax.stop_gradient(jnp.where(same, A - B, 0))
    return jnp.broadcast_to(A, p.shape), p, B


# --- any function of two points ---------------------------------------------------------------------------------------


def _gradient_of_points(k):
    return jax.grad(k)


def _mixed_of_points(k):
    return jax.jacfwd(jax.grad(k), argnums=1)


def _laplacian_of_points(k, argument: int = 0):
    def result(*points):
        def second(direction):
            def along(k):
                def slope(x):
                    return jax.jvp(k, (x,), (direction,))[1]

                return slope

            fixed = points[1 - argument]
            return along(along(lambda x: k(x, fixed) if argument == 0 else k(fixed, x)))(points[argument])

        # One direction after the other: memory does not grow with the number of inputs.
        basis = jnp.eye(points[argument].shape[0], dtype=points[argument].dtype)
        return jax.lax.scan(lambda total, e: (total + second(e), None), jnp.zeros((), basis.dtype), basis)[0]

    return result


def _double_laplacian_of_points(k):
    return _laplacian_of_points(_laplacian_of_points(k, argument=1))


# --- which of the two, and whether the derivative exists --------------------------------------------------------------


def _apply(what, order, of_products, of_points, k, X1, X2):
    X1 = recursion.points("X1", X1)
    X2 = X1 if X2 is None else recursion.points("X2", X2)
    if X1.shape[1] != X2.shape[1]:
        raise ValueError(f"X2 has {X2.shape[1]} inputs but X1 has {X1.shape[1]}: they must be points of one space")
    size = {_mixed_of_products: X1.shape[1] ** 2, _gradient_of_products: X1.shape[1]}.get(of_products, 1)
    require_memory(X1.shape[0], X2.shape[0], X1.dtype, size, X1, remedy="for fewer points at a time")
    if isinstance(k, Network) and of_products is not None:
        result = _network(of_products, k, X1, X2)
    else:
        result = _pairs(of_points, k, X1, X2)
    missing = jnp.zeros((X1.shape[0], X2.shape[0]), bool)
    networks = _networks(k)
    _require_visible(k, networks)
    for network in networks:
        missing |= _missing(network, order, X1, X2)
    result = jnp.where(missing.reshape(missing.shape + (1,) * (result.ndim - 2)), jnp.nan, result)
    if not isinstance(result, Tracer):
        _refuse(what, result)
    return result


@partial(jax.jit, static_argnums=0)
def _network(of_products, k: Network, X1, X2):
    return of_products(partial(_of_products, k, X1.shape[1]), _products(X1, X2), X1, X2)


def _of_products(k, inputs, *products):
    return k.of_products(*products, inputs)


def _pairs(of_points, k, X1, X2):
    return _kernel_pairs(of_points, k, X1, X2) if isinstance(k, Kernel) else _vmapped(of_points(k), X1, X2)


@partial(jax.jit, static_argnums=0)
def _kernel_pairs(of_points, k: Kernel, X1, X2):
    return _vmapped(of_points(k.evaluate), X1, X2)


def _vmapped(function, X1, X2):
    return jax.vmap(jax.vmap(function, (None, 0)), (0, None))(X1, X2)


def _networks(k) -> list[Network]:
    if isinstance(k, Sum | Product):
        return _networks(k.kernel1) + _networks(k.kernel2)
    return [k] if isinstance(k, Network) else []


def _require_visible(k, networks: list[Network]) -> None:
    """Raise ValueError if the kernel holds a kink in other places than the networks that are checked for it."""
    inside = [phi for phi in _activations(k) if not phi.smooth]
    if len(inside) > sum(not phi.smooth for network in networks for phi in network.activations):
        raise ValueError(
            f"k holds a network with {inside[0].name!r}, whose kink cannot be located inside a {type(k).__name__}: "
            "take derivatives of the network's kernel itself, of sums and products of it, or use a smooth activation "
            "such as 'erf' or 'gelu'"
        )


def _activations(k) -> list[Activation]:
    leaves = jax.tree.leaves(k, is_leaf=lambda node: isinstance(node, Activation))
    return [leaf for leaf in leaves if isinstance(leaf, Activation)]


def _missing(k: Network, order: int, X1, X2):
    if all(phi.smooth for phi in k.activations):
        return False
    aligned, vanishing = k.degenerate(*_products(X1, X2), X1.shape[1])
    return aligned & (order > k.coincident_order) | vanishing


def _refuse(what: str, result) -> None:
    wrong = ~np.all(np.isfinite(np.asarray(result)), axis=tuple(range(2, result.ndim)))
    if np.any(wrong):
        i, j = (int(index[0]) for index in np.nonzero(wrong))
        raise ValueError(
            f"the {what} of this kernel does not exist (or overflows) at {int(wrong.sum())} pairs of points, the first "
            f"X1[{i}], X2[{j}]: leave out coincident points, or take a smooth activation such as 'erf' or 'gelu'"
        )
