"""What a layer of a network is: its parameters, its finite-width map and its infinite-width map.

A network is a sequence of layers. A finite network maps h (points, neurons), or (points, positions, channels) where
the inputs have positions, from layer to layer. At infinite width the neurons of a layer are independent copies of one
centred Gaussian process, so that a layer maps the pair (kernel, tangent kernel) of one neuron: see `Kernels`.
"""

import abc
import math
from typing import NamedTuple

import equinox as eqx
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from fieldprob.networks.layers.limit import Kernels


class Space(NamedTuple):
    """What a layer takes in: which numbers, and how they are distributed.

    grid: the positions along each dimension, or None where a point has no positions.
    width: neurons, or channels of each position; 0 for the inputs of a network that has seen no data yet.
    kind: "inputs"; "pre-activations", Gaussian at infinite width; or "activations", their nonlinear functions.
    """

    grid: tuple[int, ...] | None
    width: int
    kind: str

    @property
    def positions(self) -> int:
        """Number of positions; 1 where there are none."""
        return math.prod(self.grid or ())


class Layer(eqx.Module):
    """A layer. `index` in its methods is the number of layers with weights in front of it, which names its sites.

    Methods take the `Space` of what comes in, so that a layer need not know its place in a network.
    """

    @property
    def weight_layers(self) -> int:
        """How many layers of weights it holds."""
        return 0

    @abc.abstractmethod
    def follow(self, space: Space) -> Space:
        """The space of its outputs. Raises a ValueError where the layer cannot follow what comes in."""

    def sample(self, space: Space, index: int) -> dict[str, Array]:
        """NumPyro sites of its parameters, all standard normal."""
        return {}

    @abc.abstractmethod
    def forward(
        self,
        parameters: dict[str, Array],
        h: Float[Array, "points *positions channels"],
        space: Space,
        index: int,
        taken,
    ) -> Float[Array, "points *positions channels_"]:
        """The finite-width map, in the dtype of h. What each layer of weights takes in is appended to `taken`."""

    def grams(self, taken: list, space: Space) -> list[Float[Array, "points points"]]:
        """Covariance of the outputs of each of its layers of weights given what that took in, averaged over positions:
        what the infinite-width kernel is the limit of."""
        return []

    @abc.abstractmethod
    def limit(self, kernels: Kernels, space: Space, record: list) -> Kernels:
        """The infinite-width map. The kernel after each layer of weights is appended to `record`."""


def standard_normal(name: str, *shape: int) -> Array:
    """A NumPyro site of independent standard normals."""
    return numpyro.sample(name, dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))  # pyright: ignore[reportReturnType]
