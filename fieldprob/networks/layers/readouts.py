"""From positions to one vector: flattening, and averaging over positions.

In front of a dense layer, with C the covariance of what comes in and A the number of positions:

    flatten:          K' = bias_variance + (weight_variance / A) sum_a C_{a,a},
    average pooling:  K' = bias_variance + (weight_variance / A^2) sum_{a,a'} C_{a,a'},

and the tangent kernel through the same sums (Novak et al. 2019, arXiv:1810.05148, section 3).
"""

import jax.numpy as jnp

from fieldprob.networks.layers.base import Layer, Space
from fieldprob.networks.layers.limit import average


class _Readout(Layer):
    def _check(self, space: Space) -> None:
        if space.grid is None:
            raise ValueError("there are no positions: leave it out, or give the network its positions=.")
        if space.kind == "inputs":
            raise ValueError("it follows the inputs: leave it and positions= out, Dense takes all inputs at once.")


class Flatten(_Readout):
    """All channels of all positions become the neurons of a point; the next layer has weights of its own for each.

    Kernels of one position with another are not needed: memory points^2 x positions, where pooling takes points^2 x
    positions^2.

    Raises:
        ValueError: in a network: there are no positions.

    >>> Flatten().weight_layers
    0
    """

    def follow(self, space):
        self._check(space)
        # Neurons at different positions are correlated: no longer copies of one Gaussian process.
        return Space(None, space.positions * space.width, "flattened positions")

    def forward(self, parameters, h, space, index, taken):
        return h.reshape(h.shape[0], -1)

    def limit(self, kernels, space, record):
        return kernels.reduce(lambda K: average(K, kernels.axes))


class AveragePooling(_Readout):
    """The mean over all positions of each channel: the network no longer knows where something is.

    At infinite width it needs the kernels of all pairs of positions: memory points^2 x positions^2.

    Raises:
        ValueError: in a network: there are no positions; the kernels do not fit into memory.

    >>> AveragePooling().weight_layers
    0
    """

    def follow(self, space):
        self._check(space)
        return Space(None, space.width, "pooled positions")

    def forward(self, parameters, h, space, index, taken):
        return jnp.mean(h, axis=1)

    def limit(self, kernels, space, record):
        return kernels.reduce(lambda K: jnp.mean(K, axis=(-2, -1)))
