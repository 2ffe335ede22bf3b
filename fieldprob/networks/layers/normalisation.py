"""Layer normalisation of pre-activations.

h_i <- (h_i - m) / sqrt(v + epsilon), m and v the mean and the (biased) variance of the neurons of one point, or of the
channels at one position of it; no gain or bias is learned (Ba, Kiros & Hinton 2016, arXiv:1607.06450). At infinite
width the weights have zero mean, so m -> 0 and v -> K_aa, which no longer fluctuates:

    K_ab <- K_ab / sqrt((K_aa + epsilon) (K_bb + epsilon)),   Theta_ab <- Theta_ab / the same.

The derivatives of m and v drop out of the tangent kernel as 1/width (Lee et al. 2018 for the kernel; Novak et al. 2020,
arXiv:1912.02803, for the tangent kernel).
"""

import equinox as eqx
import jax.numpy as jnp

from fieldprob.networks.arguments import _variances
from fieldprob.networks.layers.base import Layer


class LayerNorm(Layer):
    """Layer normalisation over the neurons of a point, or over the channels at each of its positions.

    Args:
        epsilon: added to the variance; with zero (the default), a point at which every neuron vanishes stays at zero.

    Raises:
        ValueError: epsilon is negative; in a network: it does not follow a layer of weights, or that has one neuron.

    >>> LayerNorm().epsilon
    0.0
    """

    epsilon: float = eqx.field(static=True)

    def __init__(self, epsilon: float = 0.0):
        self.epsilon = float(_variances("epsilon", epsilon, 1, positive=False)[0])

    def follow(self, space):
        if space.kind != "pre-activations":
            raise ValueError(
                f"it follows {space.kind}: put it directly behind a layer of weights (Dense, Convolution, Residual)."
            )
        if space.width < 2:
            raise ValueError("it follows a layer of width 1, and one neuron minus its mean is 0: use a larger width.")
        return space

    def forward(self, parameters, h, space, index, taken):
        h = h - jnp.mean(h, axis=-1, keepdims=True)
        return h * self._over_root(jnp.mean(h**2, axis=-1, keepdims=True))

    def limit(self, kernels, space, record):
        return kernels.map(lambda K, a, b: K * (self._over_root(a) * self._over_root(b)))

    def _over_root(self, variance):
        """1 / sqrt(variance + epsilon), and 0 where that is infinite; safe to differentiate there."""
        total = variance + self.epsilon
        return jnp.where(total > 0, 1 / jnp.sqrt(jnp.where(total > 0, total, 1)), 0)
