"""Statistics of the neurons of a layer that no relabelling changes, from the overlap of each with a direction."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float


def histogram_density(x: Float[Any, "*batch values"], edges) -> Float[Any, "*batch bins"]:
    """Share of the values in each bin, over its width: a density, of the values within the edges.

    A bin holds its left edge and not its right one. Works on NumPy and on JAX arrays.

    Raises:
        ValueError: edges that do not increase.

    >>> histogram_density(np.array([-0.5, 0.1, 0.2, 3.0]), [-1.0, 0.0, 1.0]).tolist()
    [0.25, 0.5]
    """
    edges = np.asarray(edges, float)
    if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0):
        raise ValueError(f"edges is {edges.tolist()}: give at least two increasing numbers")
    inside = (x[..., None] >= edges[:-1]) & (x[..., None] < edges[1:])
    return inside.mean(axis=-2) / np.diff(edges)


def specialised_fraction(m: Float[Any, "*batch neurons"], threshold: float = 0.5) -> Float[Any, "*batch"]:
    """Share of the neurons with |overlap| above a threshold.

    >>> float(specialised_fraction(np.array([-0.9, 0.1, 0.2, 0.8])))
    0.5
    """
    return (abs(m) > threshold).mean(axis=-1)
