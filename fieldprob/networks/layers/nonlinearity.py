"""An activation function, applied to every neuron.

At infinite width pre-activations are Gaussian, and with a, b their variances,

    C = E[phi(u) phi(v)],   T = E[phi'(u) phi'(v)] Theta,   (u, v) ~ N(0, [[a, K], [K, b]])

(Lee et al. 2018, arXiv:1711.00165, eq. 4; Jacot et al. 2018, arXiv:1806.07572).
"""

import jax.numpy as jnp
from jax.scipy.special import ndtr

from fieldprob import activations
from fieldprob.activations.accuracy import warn_if_inaccurate
from fieldprob.networks.layers.base import Layer, Space, standard_normal


class Nonlinearity(Layer):
    """An activation function phi. In a network, its name or a callable will do.

    The tangent kernel is that of weights and biases: the phases of `random_phase_cosine` count as fixed.

    Args:
        activation: a name ("erf", "relu", ...), an `Activation`, or a callable.

    Raises:
        ValueError: the activation is unknown; in a network: it does not follow a layer of weights, where alone
            pre-activations are Gaussian.

    >>> Nonlinearity("relu").activation.name
    'relu'
    """

    activation: activations.Activation

    def __init__(self, activation):
        self.activation = activations.get(activation)

    def follow(self, space):
        if space.kind != "pre-activations":
            raise ValueError(
                f"it follows {space.kind}, which are not Gaussian: put a layer of weights (Dense, Convolution, "
                "Residual) in front of it, or give one callable for the composition of two functions."
            )
        return Space(space.grid, space.width, "activations")

    def sample(self, space, index):
        if not self.activation.random_phase:
            return {}
        name = f"phase_{index - 1}"
        return {name: standard_normal(name, space.width)}

    def forward(self, parameters, h, space, index, taken):
        if not self.activation.random_phase:
            return self.activation.phi(h)
        # A phase uniform on the circle, as a function of a standard normal: every latent has the same prior.
        return self.activation.phi(h, 2 * jnp.pi * ndtr(parameters[f"phase_{index - 1}"].astype(h.dtype)))

    def limit(self, kernels, space, record):
        phi = self.activation
        warn_if_inaccurate(phi, kernels.rows, slope=kernels.tangent is not None)
        return kernels.map(
            lambda K, a, b: phi.dual(a, K, b), lambda theta, K, a, b: phi.dual_derivative(a, K, b) * theta
        )
