"""Covariances of the outputs at given points, as faces of a network return them.

A covariance prints, multiplies and converts like its P x P matrix; `LowRank` also keeps the features whose Gram matrix
it is, so that regression works with the smaller of points and features.
"""

from abc import abstractmethod

import equinox as eqx
from jaxtyping import Array, Float


class Covariance(eqx.Module):
    """Covariance of one output over the points; `matrix` is dense. Passes as an array to `jax.numpy`."""

    @property
    @abstractmethod
    def matrix(self) -> Float[Array, "points points"]:
        """The dense covariance."""

    @property
    def shape(self) -> tuple[int, int]:
        return (self.points, self.points)

    @property
    @abstractmethod
    def points(self) -> int:
        """Number of points."""

    def __jax_array__(self) -> Float[Array, "points points"]:
        return self.matrix


class Dense(Covariance):
    """A covariance given by its matrix, (points, points).

    >>> import jax.numpy as jnp
    >>> Dense(jnp.eye(2)).points
    2
    """

    value: Float[Array, "points points"]

    @property
    def matrix(self) -> Float[Array, "points points"]:
        return self.value

    @property
    def points(self) -> int:
        return self.value.shape[-1]


class LowRank(Covariance):
    """The Gram matrix `features @ features.T` of features (points, features), every scale factor already in them.

    >>> import jax.numpy as jnp
    >>> LowRank(jnp.ones((3, 5))).matrix[0, 0].item()
    5.0
    """

    features: Float[Array, "points features"]

    @property
    def matrix(self) -> Float[Array, "points points"]:
        return self.features @ self.features.T

    @property
    def points(self) -> int:
        return self.features.shape[-2]
