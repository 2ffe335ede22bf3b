"""Averages over independent draws that carry weights (importance sampling), on NumPy and on JAX arrays.

With weights w_i = exp(log_weights_i), the mean of x is sum w x / sum w. Its standard error is that of a ratio of two
means, sqrt(sum w^2 (x - mean)^2) / sum w (delta method); the effective sample size is (sum w)^2 / sum w^2 (Kong 1992;
Owen, Monte Carlo theory, methods and examples, chapter 9).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

MINIMUM_EFFECTIVE = 200.0  # draws, below which an average over weighted draws is not to be trusted


class Estimate(NamedTuple):
    """A number, or an array of them, and its standard error."""

    value: Any
    error: Any


def normalised(log_weights: Float[Any, " draws"]) -> Float[Any, " draws"]:
    """Weights that sum to one.

    >>> import numpy as np
    >>> normalised(np.array([1000.0, 1000.0])).tolist()
    [0.5, 0.5]
    """
    weights = _relative(log_weights)
    return weights / weights.sum()


def effective_sample_size(log_weights: Float[Any, " draws"]) -> Float[Any, ""]:
    """(sum w)^2 / sum w^2: equally weighted draws that would leave the same error.

    >>> import numpy as np
    >>> float(effective_sample_size(np.zeros(10)))
    10.0
    """
    weights = _relative(log_weights)
    return weights.sum() ** 2 / (weights**2).sum()


def log_mean_weight(log_weights: Float[Any, " draws"]) -> Estimate:
    """log of the mean of w, with its standard error: the log evidence where w is a likelihood.

    >>> import numpy as np
    >>> round(float(log_mean_weight(np.log([1.0, 3.0])).value), 6)
    0.693147
    """
    xp = _module(log_weights)
    weights = _relative(log_weights)
    mean = weights.mean()
    return Estimate(xp.log(mean) + log_weights.max(), weights.std() / mean / len(weights) ** 0.5)


def weighted_mean(log_weights: Float[Any, " draws"], values: Float[Any, "draws *entries"]) -> Estimate:
    """The weighted mean over the first axis, with its standard error.

    >>> import numpy as np
    >>> float(weighted_mean(np.log([1.0, 3.0]), np.array([0.0, 1.0])).value)
    0.75
    """
    weights = normalised(log_weights).reshape(-1, *[1] * (values.ndim - 1))
    mean = (weights * values).sum(axis=0)
    return Estimate(mean, (weights**2 * (values - mean) ** 2).sum(axis=0) ** 0.5)


def require_effective(log_weights: Float[Any, " draws"], remedy: str) -> None:
    """Refuse weights of which a few carry most. Traced weights are not inspected.

    Raises:
        ValueError: the effective sample size is below 200; `remedy` says what to do.
    """
    if isinstance(log_weights, Tracer):
        return
    if np.isnan(log_weights).any() or not np.isfinite(log_weights.max()):
        raise ValueError("log weights are NaN, or none is finite: the model or the data hold values that are not.")
    effective = float(effective_sample_size(log_weights))
    if effective < MINIMUM_EFFECTIVE:
        raise ValueError(
            f"the weights of {len(log_weights)} draws have an effective sample size of {effective:.3g}, below "
            f"{MINIMUM_EFFECTIVE:g}: {remedy}"
        )


def _module(array):
    return np if isinstance(array, np.ndarray) else jnp


def _relative(log_weights):
    """Weights relative to the largest."""
    return _module(log_weights).exp(log_weights - log_weights.max())
