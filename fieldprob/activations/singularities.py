"""Where an elementwise function jumps or has a kink, found numerically.

If g is differentiable on a short cell, its increment is the trapezoidal integral of g' up to the third power of the
cell; if g jumps there, the jump remains however short the cell. Bisecting every cell of a grid separates the two.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import maximum_filter1d

from fieldprob.activations.hermite import Derivative

_CELLS = 1024
_HALF_RANGE = 8.0
_BISECTIONS = 9
_THRESHOLD = 1e-2


def find_singularities(fn: Callable) -> tuple[list[float], list[float]]:
    """Positions in (-8, 8) where `fn` jumps, and where its first or second derivative does.

    Jumps below one per cent of the largest value within a distance of one of the function that jumps are not seen, nor
    are two in one cell of 1/64.

    Raises ValueError if `fn` is not an elementwise JAX function or not finite there.
    """
    name = getattr(fn, "__name__", repr(fn))
    orders = [fn]
    for _ in range(3):
        orders.append(Derivative(orders[-1]))
    evaluate = jax.jit(lambda z: [g(z) for g in orders])

    def values(z):
        with jax.ensure_compile_time_eval():
            return [np.asarray(g) for g in evaluate(jnp.asarray(z, jnp.result_type(float)))]

    # Off-centre, so that neither 0 nor another round number is an end of a cell.
    edges = np.linspace(-_HALF_RANGE, _HALF_RANGE, _CELLS + 1) - 0.0061
    try:
        grid = values(edges)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{name} is not an elementwise differentiable JAX function: {reason}") from error
    if grid[0].shape != edges.shape:
        raise ValueError(f"{name} maps shape {edges.shape} to {grid[0].shape}: an activation acts elementwise")
    if not np.all(np.isfinite(grid[0])):
        raise ValueError(f"{name} is not finite everywhere between -8 and 8: an activation must be")

    found = [_jumps(values, edges, order, _local_scale(grid[order])) for order in range(3)]
    return found[0], sorted(found[1] + found[2])


def _local_scale(values: np.ndarray) -> np.ndarray:
    """Largest size of a function within a distance of one of every cell: growth elsewhere must not hide a jump."""
    size = np.abs(np.nan_to_num(values, nan=np.inf))
    local = maximum_filter1d(size, 2 * round(_CELLS / (2 * _HALF_RANGE)) + 1)[:-1]
    return np.maximum(local, 1e-8 * np.max(size))  # below that there is only rounding


def _jumps(values: Callable, edges: np.ndarray, order: int, scale: np.ndarray) -> list[float]:
    low, high = edges[:-1], edges[1:]
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        left = _mismatch(values, low, middle, order)
        right = _mismatch(values, middle, high, order)
        keep_left = left >= right
        low, high = np.where(keep_left, low, middle), np.where(keep_left, middle, high)
    jump = _mismatch(values, low, high, order)
    return [float(z) for z in ((low + high) / 2)[jump > _THRESHOLD * scale]]


def _mismatch(values: Callable, low: np.ndarray, high: np.ndarray, order: int) -> np.ndarray:
    """|increment of g - trapezoidal integral of g'| over each cell; infinite where g' is not finite."""
    at_low, at_high = values(low), values(high)
    slope = (at_low[order + 1] + at_high[order + 1]) / 2
    with np.errstate(invalid="ignore"):
        mismatch = np.abs(at_high[order] - at_low[order] - (high - low) * slope)
    return np.where(np.isfinite(mismatch), mismatch, np.inf)
