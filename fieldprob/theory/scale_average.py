"""Outputs of a Gaussian process of random scale, f | s ~ N(0, s K), from averages over the scale."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from fieldprob.gp import Modes


class ScaleAverage(NamedTuple):
    """Averages over the scale s in the eigenbasis of the data, with k the noise: `scale` of s, `coefficients` of
    s y / (k + s lambda) and `spread` whose Gram matrix is their covariance, `kept` of k s / (k + s lambda), `explained`
    of s^2 / (k + s lambda)."""

    scale: Float[Array, ""]
    coefficients: Float[Array, " points"]
    spread: Float[Array, "terms points"]
    kept: Float[Array, " points"]
    explained: Float[Array, " points"]


class Outputs(NamedTuple):
    """Mean and covariance of f at all points."""

    mean: Float[Array, " all_points"]
    covariance: Float[Array, "all_points all_points"]


def outputs(modes: Modes, K: Float[Array, "all_points all_points"], average: ScaleAverage) -> Outputs:
    """Average of the posteriors at each scale, and the covariance of their means added.

    At the data nothing is subtracted from the prior, so that a small noise costs no digits.
    """
    P, cross = modes.y.shape[0], modes.cross
    spread = cross @ modes.kept(average.spread).T
    columns = jnp.concatenate([cross, spread], axis=1)
    at_data = jnp.concatenate([modes.basis * modes.kept(average.kept), spread[:P]], axis=1) @ columns.T
    others = jnp.concatenate([-modes.others * modes.kept(average.explained), spread[P:]], axis=1) @ columns[P:].T
    corner = average.scale * K[P:, P:] + others
    covariance = jnp.concatenate([at_data, jnp.concatenate([at_data[:, P:].T, corner], axis=1)])
    return Outputs(cross @ modes.kept(average.coefficients), covariance)
