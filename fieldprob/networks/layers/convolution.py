"""Convolution over positions.

h'_{i,a} = sum_{j,b} W_{ij,b} g_{j,a+b} + b_i, with offsets b of a filter of s positions and weights of variance
weight_variance / (s channels), the fan-in. The same weights act at every position, so that at infinite width positions
are correlated, and the same offset enters both arguments:

    K'_{a,a'} = bias_variance + (weight_variance / s) sum_b C_{a+b,a'+b},

C the covariance of what comes in; the tangent kernel goes through the same sum (Novak et al. 2019, arXiv:1810.05148;
Garriga-Alonso et al. 2019, arXiv:1808.05587; Arora et al. 2019, arXiv:1904.11955).
"""

import itertools
import math
from functools import lru_cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fieldprob.networks.arguments import _integer, _variances
from fieldprob.networks.layers.base import Space
from fieldprob.networks.layers.dense import Weights

_BOUNDARIES = ("circular", "zero")


class Convolution(Weights):
    """Weights shared by all positions, from a neighbourhood of each; as many positions come out as go in.

    A filter of s positions along a dimension reaches from -((s - 1) // 2) to s // 2 around each.

    Args:
        width: channels.
        filter_size: positions that enter one neuron: a number for each dimension, or one for all.
        boundary: "circular": the positions form a ring (a torus), so that all are alike; "zero": zeros lie outside.
        weight_variance: per fan-in, filter positions times channels, also where part of the filter sees zeros; zero
            only in the branch of a `Residual`.
        bias_variance: zero for no bias.

    Raises:
        ValueError: an argument is out of range; in a network: its inputs have no positions, another number of
            dimensions, or fewer positions than the filter.

    >>> Convolution(16, filter_size=3).boundary
    'circular'
    """

    width: int = eqx.field(static=True)
    filter_size: int | tuple[int, ...] = eqx.field(static=True)
    boundary: str = eqx.field(static=True)
    weight_variance: Float[Array, ""] | float
    bias_variance: Float[Array, ""] | float

    def __init__(
        self,
        width: int,
        filter_size: int | tuple[int, ...],
        boundary: str = "circular",
        weight_variance: float = 1.0,
        bias_variance: float = 0.0,
    ):
        self.width = _integer("width", width)
        several = isinstance(filter_size, tuple | list)
        sizes = tuple(_integer("filter_size", s) for s in (filter_size if several else (filter_size,)))
        self.filter_size = sizes if several else sizes[0]
        if boundary not in _BOUNDARIES:
            raise ValueError(
                f"boundary is {boundary!r}: give 'circular' (positions on a ring) or 'zero' (zeros outside)."
            )
        self.boundary = boundary
        self.weight_variance = _variances("weight_variance", weight_variance, 1, positive=False)[0]
        self.bias_variance = _variances("bias_variance", bias_variance, 1, positive=False)[0]

    def follow(self, space):
        if space.grid is None:
            raise ValueError("its inputs have no positions: give the network its positions=, e.g. positions=(8, 8).")
        sizes = self._sizes(space)
        if len(sizes) != len(space.grid) or any(s > n for s, n in zip(sizes, space.grid, strict=True)):
            raise ValueError(
                f"filter_size is {self.filter_size} and the positions are {space.grid}: give one size for each "
                "dimension, none larger than the number of positions."
            )
        return super().follow(space)

    def _sizes(self, space: Space) -> tuple[int, ...]:
        sizes = self.filter_size
        return sizes if isinstance(sizes, tuple) else (sizes,) * len(space.grid or ())

    def _neighbours(self, space: Space):
        return neighbours(space.grid, self._sizes(space), self.boundary == "circular")

    def fan_in(self, space):
        return (math.prod(self._sizes(space)), space.width)

    def patches(self, h, space):
        index, inside = self._neighbours(space)
        patches = h[:, index, :]
        if not inside.all():
            patches = jnp.where(inside[:, :, None], patches, 0)
        return patches.reshape(*patches.shape[:2], -1)

    def grams(self, taken, space):
        # Each position counts as often as a filter lies over it.
        index, inside = self._neighbours(space)
        times = np.bincount(index[inside], minlength=space.positions) / index.shape[1]
        h = taken[0]
        F = (h * jnp.asarray(np.sqrt(times), h.dtype)[:, None]).reshape(h.shape[0], -1)
        return [F @ F.T * (self.weight_variance / F.shape[-1]) + self.bias_variance]

    def limit(self, kernels, space, record):
        where = (space.grid, self._sizes(space), self.boundary == "circular")
        mix = partial(_mean_over_offsets, where=where, axes=kernels.axes)
        kernels = kernels.weighted(self.weight_variance, self.bias_variance, mix)
        record.append(kernels.average())
        return kernels


@partial(jax.jit, static_argnames=("where", "axes"))  # one pass over K, not one for each offset
def _mean_over_offsets(K, where, axes: int):
    """(1/s) sum_b K_{a+b,a'+b}; `where` holds the arguments of `neighbours`."""
    index, inside = neighbours(*where)

    def shifted(offset):
        moved, seen = K, inside[:, offset]
        for axis in range(-axes, 0):
            moved = jnp.take(moved, index[:, offset], axis=axis)
            if not seen.all():
                moved = jnp.where(seen.reshape(seen.shape + (1,) * (-1 - axis)), moved, 0)
        return moved

    return sum(shifted(offset) for offset in range(index.shape[1])) / index.shape[1]


@lru_cache
def neighbours(grid: tuple[int, ...], sizes: tuple[int, ...], circular: bool) -> tuple[np.ndarray, np.ndarray]:
    """Position a + b for every position a and offset b, (positions, offsets), and whether it lies inside the grid.

    >>> neighbours((4,), (3,), True)[0].tolist()
    [[3, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 0]]
    """
    offsets = list(itertools.product(*(range(-((s - 1) // 2), s // 2 + 1) for s in sizes)))
    places = np.stack(np.unravel_index(np.arange(math.prod(grid)), grid), axis=-1)
    shifted = places[:, None, :] + np.asarray(offsets)[None]
    inside = np.all((shifted >= 0) & (shifted < np.asarray(grid)), axis=-1)
    index = np.asarray(np.ravel_multi_index(tuple(np.moveaxis(shifted % np.asarray(grid), -1, 0)), grid))
    return index, np.ones_like(inside) if circular else inside
