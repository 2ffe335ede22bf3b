"""How the kernels of a network's layers fluctuate in its prior, to first order in 1/N, and how one layer hands that on.

The covariance of kernel_l is a sum over its own and the earlier layers of Cov(phi phi) / N_l, carried to it by the
derivative of the layers' kernel map K -> bias + variance E[phi phi]; the second derivative shifts the mean (theory 03,
(28)-(30); theory 01, E8-E11). Such a covariance is a sum of products Y x Z of perturbations of a kernel: either over
the pairs of points, exactly, or over draws of one neuron (theory 01, E12). All else is the same code.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from fieldprob.activations.four_point import CLOSED
from fieldprob.theory.setting import Setting

_TENSOR_POINTS = 24  # the most points for which "auto" takes the tensor: points^4 numbers
_BATCH = 64  # draws carried through the layers at once


class Layer(NamedTuple):
    """The kernel map of a hidden layer: K -> bias + weight E[phi phi]."""

    activation: Any
    weight: Any
    bias: Any
    width: Any

    def __call__(self, K: Float[Array, "points points"]) -> Float[Array, "points points"]:
        q = jnp.diagonal(K)
        return self.bias + self.weight * self.activation.dual(q[:, None], K, q[None, :])


def layers_of(problem: Setting) -> list[Layer]:
    weights = (*problem.weight_variance[1:], problem.readout)
    biases = (*problem.bias_variance[1:], problem.readout_bias)
    return [Layer(*parts) for parts in zip(problem.activations, weights, biases, problem.widths, strict=True)]


def layers_of_network(net) -> list[Layer]:
    """Those of an `Mlp`, the bias of its readout included; numbers as arrays: one compilation for all their values."""
    readout, bias = net.readout_variance / net.chi, net.bias_variance[-1] / net.chi
    weights, biases = (*net.weight_variance[1:], readout), (*net.bias_variance[1:-1], bias)
    numbers = [[jnp.asarray(value, float) for value in values] for values in (weights, biases, net.widths)]
    return [Layer(*parts) for parts in zip(net.activations, *numbers, strict=True)]


def chosen_method(method: str, activations, points: int, neurons: int, key) -> str:
    """ "tensor" or "neurons"; raises a ValueError for anything else, and for draws that cannot be made."""
    if method not in ("auto", "tensor", "neurons"):
        raise ValueError(f"method is {method!r}: give 'auto', 'tensor' or 'neurons'.")
    if method == "auto":
        closed = all(isinstance(phi, CLOSED) for phi in activations)
        method = "tensor" if closed and points <= _TENSOR_POINTS else "neurons"
    if method == "neurons" and neurons < 2:
        raise ValueError(f"neurons is {neurons}: averages over draws of neurons need two or more.")
    if method == "neurons" and key is None:
        raise ValueError(
            f"four-point functions at {points} points are averaged over draws of neurons (exact are those of some "
            f"activations at up to {_TENSOR_POINTS} points): give a key, key=jax.random.key(0)."
        )
    return method


def over_pairs(layer: Layer, unit_covariance, observe):
    """The sum of `observe(Y, Z)` over Y = the unit perturbation of each pair of points, Z = its covariance."""
    points = unit_covariance.shape[0]
    i, j = np.triu_indices(points)
    unit = np.zeros((i.size, points, points))
    unit[np.arange(i.size), i, j] = unit[np.arange(i.size), j, i] = 1.0
    covariance = layer.weight**2 / layer.width * unit_covariance[i, j]

    def add(total, pair):
        return jax.tree.map(jnp.add, total, observe(*pair)), None

    zero = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), jax.eval_shape(observe, unit[0], covariance[0]))
    return jax.lax.scan(add, zero, (jnp.asarray(unit), covariance))[0]


def over_neurons(layer: Layer, K, observe, neurons: int, key):
    """The mean of `observe(Y, Y)` over one-neuron draws Y = (weight phi phi^T - its mean) / sqrt(width), and the
    square of its standard error."""
    eigenvalues, vectors = jnp.linalg.eigh(K)
    root = vectors * jnp.sqrt(jnp.maximum(eigenvalues, 0))
    mean = layer(K) - layer.bias

    def draw(key):
        for_h, for_phase = jax.random.split(key)
        h = root @ jax.random.normal(for_h, (K.shape[0],), K.dtype)
        phase = 2 * jnp.pi * jax.random.uniform(for_phase, (), K.dtype)
        phi = layer.activation.phi(h, phase) if layer.activation.random_phase else layer.activation.phi(h)
        Y = (layer.weight * jnp.outer(phi, phi) - mean) / jnp.sqrt(layer.width)
        return observe(Y, Y)

    def batch(sums, start):
        index = start + jnp.arange(_BATCH)
        values = jax.vmap(lambda i: draw(jax.random.fold_in(key, i)))(index)
        values = jax.tree.map(lambda v: jnp.where(jnp.expand_dims(index < neurons, range(1, v.ndim)), v, 0), values)
        moments = jax.tree.map(lambda v: jnp.stack([jnp.sum(v, axis=0), jnp.sum(v**2, axis=0)]), values)
        return jax.tree.map(jnp.add, sums, moments), None

    zero = jax.tree.map(lambda v: jnp.zeros((2, *v.shape), v.dtype), jax.eval_shape(draw, key))
    sums = jax.lax.scan(batch, zero, jnp.arange(0, neurons, _BATCH))[0]
    mean_of = jax.tree.map(lambda v: v[0] / neurons, sums)
    square = jax.tree.map(lambda v: jnp.maximum(v[1] / neurons - (v[0] / neurons) ** 2, 0) / (neurons - 1), sums)
    return mean_of, square


class Fluctuation(NamedTuple):
    """A covariance Y x Z of one kernel and what it does to those after it, a list over all layers from 0: the
    covariances of theirs and the shifts of their prior means. Zero before."""

    Y: list[Array]
    Z: list[Array]
    shift: list[Array]


def through(layers, kernels, source: int, Y, Z) -> Fluctuation:
    """Theory 03, (28)-(30): carry Y x Z, a covariance of kernel `source`, through the layers after it."""
    zero = [jnp.zeros_like(Y)] * source
    carried = Fluctuation([*zero, Y], [*zero, Z], [*zero, jnp.zeros_like(Y)])
    for layer, K in zip(layers[source:], kernels[source:-1], strict=True):
        on = partial(along, layer, K)
        bend = jax.jvp(lambda K, layer=layer: along(layer, K, carried.Y[-1]), (K,), (carried.Z[-1],))[1]
        carried.shift.append(on(carried.shift[-1]) + bend / 2)
        carried.Y.append(on(carried.Y[-1]))
        carried.Z.append(on(carried.Z[-1]))
    return carried


def along(function, K, V):
    """The derivative of a function of a kernel along V."""
    return jax.jvp(function, (K,), (V,))[1]
