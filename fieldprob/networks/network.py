"""What every network does with its readout: scale, noise, features, and the faces that sample weights."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from fieldprob.gp.covariance import LowRank
from fieldprob.networks.arguments import _inputs
from fieldprob.networks.superposition import features


class Network(eqx.Module):
    """A network whose outputs are linear in a Gaussian readout: `Mlp` and `Sequential`."""

    rescale_noise: eqx.AbstractVar[bool]
    depth: eqx.AbstractVar[int]
    chi: eqx.AbstractVar[float]

    @abstractmethod
    def _output_variances(self) -> tuple[Any, Any]:
        """Variances of the readout's weights (per fan-in) and bias, 1/chi included."""

    @abstractmethod
    def sample_hidden(self, inputs: int) -> dict[str, Array]: ...

    @abstractmethod
    def sample_readout(self, outputs: int = 1) -> dict[str, Array]: ...

    @abstractmethod
    def hidden(self, parameters, X) -> list[Array]: ...

    def _no_kernel(self, other):
        # tinygp would take a network for a constant
        raise TypeError("a network is no kernel: add and multiply fp.kernels.Limit(network), its infinite-width limit.")

    __add__ = __radd__ = __mul__ = __rmul__ = _no_kernel

    def effective_noise(self, task):
        """The noise variance of the likelihood: the task's divided by chi (unless `rescale_noise` is False).

        Has the shape of `task.noise_variance`.
        """
        return task.noise_variance / self.chi if self.rescale_noise else task.noise_variance

    def output_features(self, phi: Float[Array, "points neurons"]) -> Float[Array, "points features"]:
        """Features F of the last hidden layer's activations whose Gram matrix F F^T is kernel_L, bias included."""
        readout, bias = self._output_variances()
        return features(phi, readout / phi.shape[-1], bias)

    def outputs(self, parameters, phi: Float[Array, "points neurons"]) -> Float[Array, "points outputs"]:
        """Outputs for given readout parameters and last activations."""
        readout, bias = self._output_variances()
        f = phi @ parameters["readout"] * jnp.sqrt(readout / phi.shape[-1])
        name = f"bias_{self.depth}"
        return f + jnp.sqrt(bias) * parameters[name] if name in parameters else f

    # --- faces as NumPyro statements ----------------------------------------------------------------------------------

    def weights(self, X, outputs: int = 1) -> Float[Array, "points outputs"]:
        """Sample every weight (NumPyro sites) and return the outputs f(X)."""
        X = _inputs("X", X)
        parameters = self.sample_hidden(X.shape[-1]) | self.sample_readout(outputs)
        return self.outputs(parameters, self.hidden(parameters, X)[-1])

    def collapsed(self, X) -> LowRank:
        """Sample every weight but the readout (NumPyro sites) and return the covariance of the outputs given them."""
        X = _inputs("X", X)
        return LowRank(self.output_features(self.hidden(self.sample_hidden(X.shape[-1]), X)[-1]))
