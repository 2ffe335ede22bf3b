"""Layers of weights, and the dense one.

h'_i = sum_j W_ij g_j + b_i with W_ij ~ N(0, weight_variance / fan-in) and b_i ~ N(0, bias_variance), g what comes in
(inputs, or activations phi(h)). At infinite width, with C the covariance of what comes in,

    K' = bias_variance + weight_variance C,   Theta' = K' + weight_variance T,

T the tangent kernel of what comes in; for activations T = E[phi'(u) phi'(v)] Theta (Neal 1996; Lee et al. 2018,
arXiv:1711.00165, eq. 5; Jacot, Gabriel & Hongler 2018, arXiv:1806.07572, theorem 1).
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from fieldprob.networks.arguments import _integer, _is_zero, _variances
from fieldprob.networks.layers.base import Layer, Space, standard_normal


class Weights(Layer):
    """A layer of weights and biases, each sampled as a standard normal and scaled in the forward pass."""

    width: eqx.AbstractVar[int | None]
    weight_variance: eqx.AbstractVar[Float[Array, ""] | float]
    bias_variance: eqx.AbstractVar[Float[Array, ""] | float]

    @property
    def weight_layers(self) -> int:
        return 1

    @abc.abstractmethod
    def fan_in(self, space: Space) -> tuple[int, ...]:
        """Shape of the weights that enter one neuron."""

    def follow(self, space: Space) -> Space:
        return Space(space.grid, self.width or 0, "pre-activations")

    def sample(self, space: Space, index: int) -> dict[str, Array]:
        if self.width is None:
            raise ValueError(
                f"{self} has no width, which only the last layer of a network, the readout, may leave out."
            )
        name = f"weight_{index}"
        parameters = {name: standard_normal(name, self.width, *self.fan_in(space))}
        if not _is_zero(self.bias_variance):
            name = f"bias_{index}"
            parameters[name] = standard_normal(name, self.width)
        return parameters

    def forward(self, parameters, h, space, index, taken):
        taken.append(h)
        W = parameters[f"weight_{index}"].astype(h.dtype).reshape(self.width, -1)
        h = (self.patches(h, space) @ W.T) * jnp.sqrt(self.weight_variance / W.shape[-1]).astype(h.dtype)
        if f"bias_{index}" in parameters:
            b = parameters[f"bias_{index}"].astype(h.dtype)
            h = h + b * jnp.sqrt(self.bias_variance).astype(h.dtype)
        return h

    def patches(self, h, space: Space):
        """What enters one neuron at each position, (points, [positions,] fan-in)."""
        return h


class Dense(Weights):
    """Weights between all neurons; where there are positions, the same weights between the channels at each.

    Args:
        width: neurons; None for the last layer of a network, which gives the outputs.
        weight_variance: per fan-in; zero only in the branch of a `Residual`.
        bias_variance: zero for no bias.

    Raises:
        ValueError: an argument is out of range.

    >>> Dense(64, weight_variance=2.0).bias_variance
    0.0
    """

    width: int | None = eqx.field(static=True)
    weight_variance: Float[Array, ""] | float
    bias_variance: Float[Array, ""] | float

    def __init__(self, width: int | None = None, weight_variance: float = 1.0, bias_variance: float = 0.0):
        self.width = None if width is None else _integer("width", width)
        self.weight_variance = _variances("weight_variance", weight_variance, 1, positive=False)[0]
        self.bias_variance = _variances("bias_variance", bias_variance, 1, positive=False)[0]

    def fan_in(self, space):
        return (space.width,)

    def grams(self, taken, space):
        F = taken[0].reshape(taken[0].shape[0], -1)
        return [F @ F.T * (self.weight_variance / F.shape[-1]) + self.bias_variance]

    def limit(self, kernels, space, record):
        kernels = kernels.weighted(self.weight_variance, self.bias_variance)
        record.append(kernels.average())
        return kernels
