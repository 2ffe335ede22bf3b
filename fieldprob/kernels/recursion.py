"""One pass through the layers of an infinitely wide fully connected network: covariances and tangent kernels.

With (u, v) ~ N(0, K^l), K^1 = bias + weight X X' / inputs and T^1 = K^1,

    K^(l+1) = bias + weight E[phi(u) phi(v)],    T^(l+1) = K^(l+1) + weight E[phi'(u) phi'(v)] T^l

(Lee et al. 2018, Deep neural networks as Gaussian processes, eq. 4-5; Jacot, Gabriel and Hongler 2018, Neural tangent
kernel, theorem 1; theory 01, A15). Compiled as a whole, so that an entry goes through all layers without leaving the
processor: memory is touched for the product X X' and for the kernels that are asked for.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import ArrayLike, Float, Int, Num

from fieldprob import activations as _activations
from fieldprob.activations import Rough, Smooth, accuracy
from fieldprob.activations.accuracy import is_numerical


class Architecture(NamedTuple):
    """The arguments of the recursion: L activations, L + 1 weight and bias variances (per fan-in, the readout last)."""

    activations: tuple
    weight_variance: tuple
    bias_variance: tuple


class Kernels(NamedTuple):
    """Covariances and tangent kernels, one entry a layer, the output's last; `ntk` is empty where not asked for."""

    nngp: list[Array]
    ntk: list[Array]


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


@partial(jax.jit, static_argnames=("tangent", "every_layer"))
def symmetric(net: Architecture, X: Array, *, tangent: bool, every_layer: bool) -> Kernels:
    """The kernels of points with themselves: exactly symmetric, with the diagonals of `diagonals`."""
    K = linear(X, X, net.weight_variance[0], net.bias_variance[0])
    position = jnp.arange(X.shape[0])
    q = diagonals(net, X, tangent=tangent)
    return _through_layers(net, _even(K), q, q, (position, position), tangent, every_layer, even=_even)


@partial(jax.jit, static_argnames=("tangent", "every_layer"))
def rectangular(
    net: Architecture,
    X1: Array,
    X2: Array,
    positions: tuple[Int[Array, " points"], Int[Array, " points_"]] | None = None,
    *,
    tangent: bool,
    every_layer: bool,
) -> Kernels:
    """The kernels of two sets of points. `positions` in a common set mark entries that lie on its diagonal."""
    K = linear(X1, X2, net.weight_variance[0], net.bias_variance[0])
    rows, columns = diagonals(net, X1, tangent=tangent), diagonals(net, X2, tangent=tangent)
    return _through_layers(net, K, rows, columns, positions, tangent, every_layer)


@partial(jax.jit, static_argnames=("tangent",))
def diagonals(net: Architecture, X: Float[Array, "points inputs"], *, tangent: bool) -> Kernels:
    """The diagonals of the kernels of `symmetric`, in O(points) memory."""
    q = [net.bias_variance[0] + net.weight_variance[0] * jnp.sum(X**2, axis=1) / X.shape[1]]
    t = q[:1]
    for phi, w, b in _hidden(net):
        if tangent:
            slope = phi.dual_derivative(q[-1], q[-1], q[-1])
        q.append(b + w * phi.dual(q[-1], q[-1], q[-1]))
        if tangent:
            t.append(q[-1] + w * slope * t[-1])
    return Kernels(q, t if tangent else [])


def elementwise(net: Architecture, a: Array, c: Array, b: Array, *, tangent: bool) -> Array:
    """The output's kernel as a function of the first layer's variance `a`, covariance `c` and variance `b`."""
    t = c
    for phi, w, bias in _hidden(net):
        slope = w * phi.dual_derivative(a, c, b) if tangent else 0.0
        a, c, b = (bias + w * phi.dual(*moments) for moments in ((a, a, a), (a, c, b), (b, b, b)))
        t = c + slope * t
    return t if tangent else c


def _hidden(net: Architecture):
    return zip(net.activations, net.weight_variance[1:], net.bias_variance[1:], strict=True)


def _through_layers(
    net, K, rows: Kernels, columns: Kernels, positions, tangent, every_layer, even=lambda kernel: kernel
) -> Kernels:
    on_diagonal = None if positions is None else positions[0][:, None] == positions[1][None, :]

    def exact(kernel, diagonal):
        return kernel if on_diagonal is None else jnp.where(on_diagonal, diagonal[:, None], kernel)

    K = exact(K, rows.nngp[0])
    T = K
    nngp, ntk = [K], [K]
    for layer, (phi, w, b) in enumerate(_hidden(net)):
        moments = rows.nngp[layer][:, None], K, columns.nngp[layer][None, :]
        tidy = (lambda kernel: kernel) if _closed(phi) else even
        slope = tidy(phi.dual_derivative(*moments)) if tangent else None
        K = exact(b + w * tidy(phi.dual(*moments)), rows.nngp[layer + 1])
        nngp.append(K)
        if tangent:
            T = exact(K + w * slope * T, rows.ntk[layer + 1])
            ntk.append(T)
    ntk = ntk if tangent else []
    return Kernels(nngp, ntk) if every_layer else Kernels(nngp[-1:], ntk[-1:])


def _closed(phi) -> bool:
    """Whether exchanging the two variances changes no bit: closed forms are written so; expansions and quadratures take
    rows and columns in turn, and are made symmetric afterwards."""
    return not isinstance(phi, Smooth | Rough)


def _even(kernel):
    return (kernel + kernel.T) / 2


# --- arguments --------------------------------------------------------------------------------------------------------


def architecture(activations: Sequence, weight_variance, bias_variance) -> Architecture:
    """Check and convert the arguments of the recursion.

    Raises ValueError if lengths do not match, or a variance is negative or not finite.
    """
    if isinstance(activations, str) or not isinstance(activations, Sequence):
        raise ValueError(f"activations = {activations!r}: pass a list, one for each hidden layer, such as ['erf']")
    layers = tuple(_activations.get(activation) for activation in activations)
    weight = _variances("weight_variance", weight_variance, len(layers))
    return Architecture(layers, weight, _variances("bias_variance", bias_variance, len(layers)))


def require_tangent(net: Architecture) -> None:
    """Raise ValueError for activations that jump: they have no tangent kernel."""
    for phi in net.activations:
        require_continuous(phi)


def require_continuous(phi: _activations.Activation) -> None:
    """Raise ValueError for an activation that jumps."""
    jax.eval_shape(phi.dual_derivative, 1.0, 0.5, 1.0)


def points(name: str, X) -> Array:
    """X as floats, (points, inputs). Raises ValueError for other shapes, complex numbers, NaN and infinity."""
    X = jnp.asarray(X)
    if X.ndim != 2 or X.shape[1] == 0:
        raise ValueError(f"{name} has shape {X.shape}: it must be (points, inputs) with at least one input")
    if jnp.iscomplexobj(X):
        raise ValueError(f"{name} is complex: pass real inputs, for instance real and imaginary parts side by side")
    X = X if jnp.issubdtype(X.dtype, jnp.floating) else X.astype(jnp.result_type(float))
    if not isinstance(X, Tracer) and not _all_finite(X):
        row = int(np.argmin(np.all(np.isfinite(np.asarray(X)), axis=1)))
        raise ValueError(f"{name} has NaN or infinity, first in row {row}: leave such points out, or fill them in")
    return X


def _all_finite(X: Array) -> bool:
    with jax.ensure_compile_time_eval():
        return bool(jnp.all(jnp.isfinite(X)))


def warn_if_inaccurate(net: Architecture, X: Array, *, tangent: bool) -> None:
    """Warn of activations whose averages are inaccurate at the variances that these points give them."""
    if isinstance(X, Tracer) or not any(is_numerical(phi) for phi in net.activations):
        return
    with jax.ensure_compile_time_eval():
        variances = diagonals(net, X, tangent=False).nngp
    for phi, variance in zip(net.activations, variances[:-1], strict=True):
        accuracy.warn_if_inaccurate(phi, variance, slope=tangent)


def _variances(name: str, values, depth: int) -> tuple:
    if np.isscalar(values) or (isinstance(values, Array | np.ndarray) and values.ndim == 0):
        raise ValueError(f"{name} is one number: pass {depth + 1}, one for each layer and the readout last")
    values = tuple(values)
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
