"""Statistics of the coefficients of a function along the modes of a kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float


def mode_learnability(
    draws: Float[Any, "chains draws *rest modes"], eigenvalues: Float[Any, " modes"]
) -> Float[Any, "chains draws *rest modes"]:
    """1 - n (c - mean c)² / ((n - 1) λ) for each of n draws of the coefficients c of modes with prior variances λ.

    The mean over draws is 1 - Var c / λ, the learnability of every mode (theory 06, (4)), and its Monte Carlo error
    that of any other mean. The mean c is that of all chains, which makes the value too high by Var c / λ over the
    effective sample size, a small part of that error.

    Raises:
        ValueError: fewer than two draws; eigenvalues that are not positive, or not one for each mode.

    >>> mode_learnability(np.array([[[0.5], [-0.5]]]), np.array([1.0])).ravel().tolist()
    [0.5, 0.5]
    """
    draws = np.asarray(draws)
    shape = draws.shape
    if len(shape) < 3 or (n := shape[0] * shape[1]) < 2:
        raise ValueError(f"draws has shape {shape}: a variance takes two draws, (chains, draws, ..., modes)")
    if np.shape(eigenvalues) != shape[-1:] or not np.all(np.asarray(eigenvalues) > 0):
        raise ValueError(
            f"eigenvalues are {eigenvalues} for {shape[-1]} modes: give one for each, and leave out those of zero, "
            "which are never learned"
        )
    deviation = draws - draws.mean(axis=(0, 1), keepdims=True)
    return 1 - n / (n - 1) * deviation**2 / eigenvalues
