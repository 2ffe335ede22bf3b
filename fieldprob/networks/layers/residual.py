"""Residual connections: h <- h + branch(h).

The branch ends in weights of zero mean that are independent of h, so there is no cross term at infinite width:

    K <- K + K_branch,   Theta <- Theta + Theta_branch.

For h <- h + W phi(h) + b this is K <- K + bias_variance + weight_variance C(K), and Theta <- Theta + (the increment of
K) + weight_variance E[phi' phi'] Theta (Yang & Schoenholz 2017, arXiv:1712.08969; Huang et al. 2020, arXiv:2002.06262).
"""

import jax.numpy as jnp

from fieldprob.networks.layers.base import Layer, Space
from fieldprob.networks.layers.nonlinearity import Nonlinearity


class Residual(Layer):
    """Adds what a branch of layers makes of the pre-activations to them.

    Args:
        branch: layers, of which the last has weights and as many neurons (channels, positions) as come in:
            `Residual("relu", Dense(64))`, with normalisation `Residual(LayerNorm(), "relu", Dense(64))`. A weight
            variance of zero makes it the identity.

    `kernel_l` after the last layer of the branch is that of the sum. At finite width it is the covariance of the new
    part, given what came in, plus the mean over neurons of h h^T.

    Raises:
        ValueError: there is no branch; in a network: it does not follow a layer of weights, or the branch does not end
            in one or changes the number of neurons or positions.

    >>> from fieldprob.networks import Dense
    >>> Residual("relu", Dense(64)).weight_layers
    1
    """

    branch: tuple[Layer, ...]

    def __init__(self, *branch):
        if not branch:
            raise ValueError("Residual has no branch: give its layers, e.g. Residual('relu', Dense(64)).")
        self.branch = tuple(as_layer(layer) for layer in branch)
        for layer in self.branch:
            if getattr(layer, "width", 0) is None:
                raise ValueError(f"{layer} in a Residual has no width: only the last layer of a network has none.")

    @property
    def weight_layers(self) -> int:
        return sum(layer.weight_layers for layer in self.branch)

    def follow(self, space):
        if space.kind != "pre-activations":
            raise ValueError(
                f"it follows {space.kind}: what a residual connection adds to must be pre-activations, put it directly "
                "behind a layer of weights (Dense, Convolution, Residual)."
            )
        result = space
        for layer in self.branch:
            result = layer.follow(result)
        if not self.branch[-1].weight_layers:
            raise ValueError(f"its branch ends in {self.branch[-1]}: end it in a layer of weights.")
        if result != space:
            raise ValueError(
                f"its branch turns {describe(space)} into {describe(result)}: a sum needs the same of both, so give "
                f"the last layer of the branch width {space.width}."
            )
        return space

    def _walk(self, space: Space, index: int = 0):
        for layer in self.branch:
            yield layer, space, index
            space, index = layer.follow(space), index + layer.weight_layers

    def sample(self, space, index):
        parameters = {}
        for layer, before, number in self._walk(space, index):
            parameters |= layer.sample(before, number)
        return parameters

    def forward(self, parameters, h, space, index, taken):
        inner, change = [], h
        for layer, before, number in self._walk(space, index):
            change = layer.forward(parameters, change, before, number, inner)
        # The covariance of the sum needs both what came in and what the last weights took in.
        inner[-1] = jnp.concatenate([h, inner[-1]], axis=-1)
        taken.extend(inner)
        return h + change

    def grams(self, taken, space):
        h, last = jnp.split(taken[-1], [space.width], axis=-1)
        taken, result = [*taken[:-1], last], []
        for layer, before, number in self._walk(space):
            result += layer.grams(taken[number : number + layer.weight_layers], before)
        h = h.reshape(h.shape[0], -1)
        return [*result[:-1], result[-1] + h @ h.T / h.shape[-1]]

    def limit(self, kernels, space, record):
        change = kernels
        for layer, before, _ in self._walk(space):
            change = layer.limit(change, before, record)
        kernels = kernels.plus(change)
        record[-1] = kernels.average()
        return kernels


def as_layer(value) -> Layer:
    """A layer as it is; an activation, its name or a callable as a `Nonlinearity`."""
    if isinstance(value, Layer):
        return value
    if isinstance(value, type) and issubclass(value, Layer):
        raise ValueError(f"{value.__name__} is a class: make a layer of it, {value.__name__}(...).")
    return Nonlinearity(value)


def describe(space: Space) -> str:
    """The size of a space in words."""
    places = "" if space.grid is None else f"{' x '.join(map(str, space.grid))} positions of "
    return f"{places}{space.width} {'neurons' if space.grid is None else 'channels'}"
