"""How the layer kernels of a network of finite width are distributed before it sees any data, to first order in 1/N.

The first layer's pre-activations have a covariance that does not fluctuate; every later one is an average over the
neurons of the layer before, with a covariance of order 1/N and a mean that is off the infinite-width limit by as much:

    G^l = variance^2 Cov(phi phi) / N_l + J^l G^(l-1) J^lT,    m^l = J^l m^(l-1) + (1/2) variance F'' : G^(l-1),

with J^l the derivative of the kernel map K -> bias + variance F(K), F(K) = E[phi phi] (theory 03, (28)-(30); Yaida
2020). Pairs of points are ordered, and ":" sums over all of them.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from fieldprob.activations.four_point import unit_covariance
from fieldprob.networks import Mlp
from fieldprob.prediction import Prediction
from fieldprob.theory.kernel_fluctuations import along, chosen_method, layers_of_network, over_neurons, through
from fieldprob.theory.precision import require_float64

LARGEST_TENSOR = 60  # the most points for which it is made at all


def prior_fluctuations(
    net, X, *, method: str = "auto", neurons: int = 100_000, key: Array | None = None, nodes: int = 16
) -> Prediction:
    """Mean and variance of every layer's kernel in the prior, to first order in 1/N; any activation, biases, widths.

    Args:
        net: an `Mlp`; a bias of its readout is part of its last kernel.
        X: inputs, (points, inputs).
        method: "tensor" for the exact four-point functions of all quadruples of points (points^4 numbers), "neurons"
            for averages over draws of one neuron (points^2 numbers), "auto" for the tensor at up to 24 points if the
            four-point functions are closed forms.
        neurons: draws for each layer; the standard errors of "neurons" are `error` and `variance_error`.
        key: of the draws; needed by "neurons".
        nodes: of the quadrature for four-point functions that have no closed form, see `activations.four_point`.

    Returns:
        A `Prediction`: `kernel_0`..`kernel_L` (mean; for l >= 1 variance) and `f`, whose prior mean is zero and whose
        variance is the mean of kernel_L. It is compared with draws of the prior, not of a posterior.

    Raises:
        TypeError: the network is not an `Mlp`.
        ValueError: float32; an unknown method; draws without a key; a tensor of more than 60 points.

    Source: theory 03, (5), (28), (30).

    >>> import fieldprob as fp, jax.numpy as jnp
    >>> net = fp.Mlp(width=(10, 20), depth=2, activation="linear")
    >>> found = fp.theory.prior_fluctuations(net, jnp.ones((1, 3)))
    >>> round(float(found.variance["kernel_2"][0, 0]), 12)  # 2 (1/10 + 1/20)
    0.3
    """
    X, layers, kernels = problem("prior_fluctuations", net, X)
    method = chosen_method(method, net.activations, len(X), neurons, key)
    if method == "tensor":
        covariances, shifts = _recursion("prior_fluctuations", layers, kernels, nodes)
        variances, errors = [jnp.einsum("abab->ab", G) for G in covariances], {}
    else:
        (shifts, variances), square = _over_neurons(layers, kernels, neurons, key)
        names = [f"kernel_{layer}" for layer in range(1, len(kernels))]
        by_name = [dict(zip(names, map(jnp.sqrt, part[1:]), strict=True)) for part in square]
        errors = {"error": by_name[0], "variance_error": by_name[1]}
    means = [K + m for K, m in zip(kernels, shifts, strict=True)]
    return Prediction(
        theory="prior fluctuations",
        order="first order in 1/N",
        source="theory 03, (5), (28), (30)",
        mean={f"kernel_{layer}": K for layer, K in enumerate(means)} | {"f": jnp.zeros((len(X), 1))},
        variance={f"kernel_{layer}": V for layer, V in list(enumerate(variances))[1:]}
        | {"f": jnp.diagonal(means[-1])[:, None]},
        **errors,  # pyright: ignore[reportArgumentType]
    )


def kernel_covariance(
    net, X, layers: tuple[int, int] | None = None, *, nodes: int = 16
) -> Float[Array, "points points points points"]:
    """Prior covariance of kernel_l [a, b] and kernel_l' [c, d] for layers = (l, l'), to first order in 1/N.

    It holds points^4 numbers: for more points take `kernel_response`, its product with a matrix.

    Args:
        net: an `Mlp`.
        X: inputs, (points, inputs).
        layers: 0 to L each; the last twice unless given.
        nodes: as for `prior_fluctuations`.

    Raises:
        TypeError: the network is not an `Mlp`.
        ValueError: float32; there is no such layer; more than 60 points.

    Source: theory 03, (28), (29).

    >>> import fieldprob as fp, jax.numpy as jnp
    >>> net = fp.Mlp(width=10, depth=1, activation="linear")
    >>> round(float(kernel_covariance(net, jnp.eye(2))[0, 1, 0, 1]), 12)  # (C_00 C_11 + C_01^2) / N, C = 1 / 2
    0.025
    """
    X, maps, kernels = problem("kernel_covariance", net, X)
    if layers is not None and np.shape(layers) != (2,):
        raise ValueError(f"layers is {layers!r}: give two layers, such as (1, {net.depth}).")
    first, second = (net.depth, net.depth) if layers is None else (check_layer(net, layer) for layer in layers)
    covariances, _ = _recursion("kernel_covariance", maps[: min(first, second)], kernels, nodes)
    G = covariances[-1]
    for layer, K in list(zip(maps, kernels, strict=False))[min(first, second) : max(first, second)]:
        G = _carry(layer, K, G)  # the later kernel's pair is the first
    return G if first >= second else jnp.transpose(G, (2, 3, 0, 1))


def fourth_cumulant(net, X, *, nodes: int = 16) -> Float[Array, "points points points points"]:
    """Fourth cumulant of the outputs at four points in the prior, to first order in 1/N.

    The sum of the covariances of kernel_L over the three pairings of the points, which is exact given those. Arguments
    and errors as `kernel_covariance`.

    Source: theory 03, (6).

    >>> import fieldprob as fp, jax.numpy as jnp
    >>> net = fp.Mlp(width=10, depth=1, activation="linear")
    >>> round(float(fourth_cumulant(net, jnp.ones((1, 1)))[0, 0, 0, 0]), 12)
    0.6
    """
    G = kernel_covariance(net, X, nodes=nodes)
    return G + jnp.transpose(G, (0, 2, 1, 3)) + jnp.transpose(G, (0, 2, 3, 1))


# --- shared with the response -----------------------------------------------------------------------------------------


def problem(theory: str, net, X):
    """The inputs as an array, the kernel maps of all layers and the limit kernels; refuses what they are not for."""
    if not isinstance(net, Mlp):
        raise TypeError(f"net is a {type(net).__name__}: theory {theory!r} is for fully connected networks, fp.Mlp.")
    require_float64(theory)
    if hasattr(X, "noise_variance"):
        raise TypeError(f"X is a {type(X).__name__}: theory {theory!r} is of the prior, give it the inputs, task.X.")
    X = jnp.asarray(X, float)
    return X, layers_of_network(net), net.limit_kernels(X)


def check_layer(net, layer: int) -> int:
    if layer not in range(net.depth + 1):
        raise ValueError(f"there is no kernel_{layer}: a network of depth {net.depth} has 0 to {net.depth}.")
    return layer


def require_small(theory: str, points: int) -> None:
    if points > LARGEST_TENSOR:
        raise ValueError(
            f"theory {theory!r}: a tensor over four of {points} points takes {8 * points**4 / 2**30:.3g} GiB, several "
            f"times: give at most {LARGEST_TENSOR} points, or take method='neurons' or theory.kernel_response."
        )


# --- the recursion ----------------------------------------------------------------------------------------------------


def _recursion(theory: str, layers, kernels, nodes: int) -> tuple[list[Array], list[Array]]:
    """Covariances (28) and mean shifts (30) of kernel_0, kernel_1, ..."""
    points = kernels[0].shape[0]
    require_small(theory, points)
    covariances, shifts = [jnp.zeros((points,) * 4)], [jnp.zeros((points,) * 2)]
    for layer, K in zip(layers, kernels, strict=False):
        unit = unit_covariance(layer.activation, K, nodes=nodes)
        G, m = _advance(layer, K, unit, covariances[-1], shifts[-1])
        covariances.append(G)
        shifts.append(m)
    return covariances, shifts


@eqx.filter_jit
def _advance(layer, K, unit, G, m):
    points = K.shape[0]

    def bend(Y, Z):
        return jax.jvp(lambda K: along(layer, K, Y), (K,), (Z,))[1]

    units = jnp.eye(points**2).reshape(-1, points, points)
    units = (units + jnp.swapaxes(units, 1, 2)) / 2
    bends = jax.lax.map(lambda pair: bend(*pair), (units, G.reshape(-1, points, points)), batch_size=points)
    carried = jnp.transpose(_carry(layer, K, G), (2, 3, 0, 1))
    G = layer.weight**2 / layer.width * unit + _carry(layer, K, carried)
    return G, along(layer, K, m) + jnp.sum(bends, axis=0) / 2


@eqx.filter_jit
def _carry(layer, K, G):
    """J applied to the first pair of points of a covariance."""
    points = K.shape[0]
    columns = jnp.moveaxis(G.reshape(points, points, -1), -1, 0)
    carried = jax.lax.map(partial(along, layer, K), columns, batch_size=points)
    return jnp.moveaxis(carried, 0, -1).reshape(G.shape)


@eqx.filter_jit
def _over_neurons(layers, kernels, neurons: int, key) -> tuple[Any, Any]:
    """Mean shifts and variances of all kernels, and the squares of their standard errors."""

    def observe(source, Y, Z):
        carried = through(layers, kernels, source, Y, Z)
        return carried.shift, [Y * Z for Y, Z in zip(carried.Y, carried.Z, strict=True)]

    found = [
        over_neurons(layer, K, partial(observe, source), neurons, jax.random.fold_in(key, source))
        for source, (layer, K) in enumerate(zip(layers, kernels[:-1], strict=True), start=1)
    ]
    return jax.tree.map(lambda *parts: sum(parts[1:], start=parts[0]), *found)
