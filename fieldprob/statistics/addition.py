"""How much of the targets is learned, and the Fourier modes of the weights that learn it.

Formulas work on NumPy and on JAX arrays, with sample dimensions in front.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float


def residual_amplitude(f: Float[Any, "*batch points outputs"], y: Float[Any, "points outputs"]) -> Float[Any, "*batch"]:
    """y . (y - f) / |y|² over points and outputs: 1 before anything is learned, 0 where f = y (theory 04's a).

    Raises:
        ValueError: f is not (..., points, outputs) like y.

    >>> import numpy as np
    >>> y = np.array([[1.0], [-2.0]])
    >>> float(residual_amplitude(0.75 * y, y))
    0.25
    """
    if np.shape(f)[-2:] != np.shape(y):
        raise ValueError(f"f has shape {np.shape(f)} and y {np.shape(y)}: give both (points, outputs)")
    return 1 - (f * y).sum(axis=(-2, -1)) / (y * y).sum()


def target_eigenvalue(K: Float[Any, "*batch points points"], y: Float[Any, "points outputs"]) -> Float[Any, "*batch"]:
    """tr y^T K y / |y|²: the eigenvalue of the output covariance K on the targets, where they are eigenvectors.

    Raises:
        ValueError: K and y are not on the same points.

    >>> import numpy as np
    >>> y = np.array([[1.0], [-2.0]])
    >>> float(target_eigenvalue(0.5 * np.eye(2) + y @ y.T, y))
    5.5
    """
    if len(np.shape(y)) != 2 or np.shape(K)[-2:] != (len(y), len(y)):
        raise ValueError(f"K has shape {np.shape(K)} and y {np.shape(y)}: give (points, points) and (points, outputs)")
    return ((K @ y) * y).sum(axis=(-2, -1)) / (y * y).sum()


def fourier_powers(weights: Float[Any, "*batch modulus"]) -> Float[Any, "*batch modes"]:
    """|w_k|², w_k = sum over x of w_x exp(2 pi i k x / P) / P, of the independent modes k = 1..(P - 1)/2.

    A cosine of amplitude A has power A²/4 in its mode, and standard normal weights have mean power 1/P in each.

    Raises:
        ValueError: the modulus, the length of the last dimension, is even.

    >>> import numpy as np
    >>> x = np.arange(7)
    >>> fourier_powers(3 * np.cos(2 * np.pi * 2 * x / 7 + 0.4)).round(12).tolist()
    [0.0, 2.25, 0.0]
    """
    P = np.shape(weights)[-1]
    if not P % 2:
        raise ValueError(f"weights has shape {np.shape(weights)}: the last dimension is the modulus, an odd number")
    phase = 2 * np.pi * np.outer(np.arange(P), np.arange(1, (P + 1) // 2)) / P
    return ((weights @ np.cos(phase)) ** 2 + (weights @ np.sin(phase)) ** 2) / P**2
