"""Statistics of the neurons of one layer that no relabelling of them changes, from overlaps of each with a direction."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float


def overlap_histogram(m: Float[Any, "*batch neurons"], edges) -> Float[Any, "*batch bins"]:
    """Share of the neurons with an overlap in each bin, over its width: a density, of the neurons within the edges.

    A bin holds its left edge and not its right one. Works on NumPy and on JAX arrays.

    Raises:
        ValueError: edges that do not increase.

    >>> overlap_histogram(np.array([-0.5, 0.1, 0.2, 3.0]), [-1.0, 0.0, 1.0]).tolist()
    [0.25, 0.5]
    """
    edges = np.asarray(edges, float)
    if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0):
        raise ValueError(f"edges is {edges.tolist()}: give at least two numbers that increase")
    inside = (m[..., None] >= edges[:-1]) & (m[..., None] < edges[1:])
    return inside.mean(axis=-2) / np.diff(edges)


def specialised_fraction(m: Float[Any, "*batch neurons"], threshold: float = 0.5) -> Float[Any, "*batch"]:
    """Share of the neurons with |overlap| above a threshold.

    >>> float(specialised_fraction(np.array([-0.9, 0.1, 0.2, 0.8])))
    0.5
    """
    return (abs(m) > threshold).mean(axis=-1)
