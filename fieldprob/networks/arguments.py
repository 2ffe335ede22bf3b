"""Checks and conversions of what a network is given, and its standard-normal sites."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.core import Tracer
from jaxtyping import Array, Float

_SCALINGS = {"standard": 1.0, "mean-field": 2.0}


def _standard_normal(name: str, *shape: int) -> Any:
    return numpyro.sample(name, dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))


def _inputs(name: str, X) -> Float[Array, "points inputs"]:
    X = jnp.asarray(X)
    if X.ndim != 2:
        raise ValueError(f"{name} has shape {X.shape}: give (points, inputs).")
    if jnp.issubdtype(X.dtype, jnp.complexfloating):
        raise ValueError(f"{name} is complex ({X.dtype}): give real inputs.")
    if not isinstance(X, Tracer) and (bad := int(np.sum(~np.isfinite(np.asarray(X))))):
        raise ValueError(f"{name} has {bad} entries that are NaN or infinite: remove them.")
    return X if jnp.issubdtype(X.dtype, jnp.floating) else X.astype(float)


def _point_sets(X1, X2):
    X1, X2 = _inputs("X1", X1), None if X2 is None else _inputs("X2", X2)
    if X2 is not None and X1.shape[-1] != X2.shape[-1]:
        raise ValueError(f"X1 has {X1.shape[-1]} inputs and X2 has {X2.shape[-1]}: they must be the same.")
    return X1, X2


def _integer(name: str, value) -> int:
    """A whole number of at least 1."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < 1:
        raise ValueError(f"{name} is {value!r}: give an integer of at least 1.")
    return int(value)


def _is_zero(variance) -> bool:
    return not isinstance(variance, Tracer) and float(variance) == 0.0


def _per_layer(name: str, value, layers: int) -> tuple:
    """One value for each layer, from one value or a sequence of exactly `layers`."""
    if getattr(value, "ndim", 0) == 1:
        value = tuple(value)
    if isinstance(value, str) or callable(value) or not isinstance(value, Sequence):
        return (value,) * layers
    if len(value) != layers:
        raise ValueError(f"{name} has {len(value)} entries: give one value, or one a layer ({layers}).")
    return tuple(value)


def _variances(name: str, value, layers: int, *, positive: bool) -> tuple:
    values = _per_layer(name, value, layers)
    for v in values:
        if isinstance(v, Tracer):
            continue
        try:
            number = float("refused" if isinstance(v, str | bool) else v)
        except (TypeError, ValueError):
            raise ValueError(f"{name} is {value!r}: give a number, or one for each of {layers} layers.") from None
        if not (number > 0 if positive else number >= 0) or number == float("inf"):
            need = "positive" if positive else "zero or positive"
            raise ValueError(f"{name} is {value!r}: a variance must be {need} and finite.")
    return tuple(v if isinstance(v, jax.Array | Tracer) else float(v) for v in values)


def _gamma(scaling) -> float:
    if isinstance(scaling, str):
        if scaling not in _SCALINGS:
            raise ValueError(f"scaling is {scaling!r}: give 'standard', 'mean-field' or a number gamma of at least 1.")
        return _SCALINGS[scaling]
    if isinstance(scaling, bool) or not isinstance(scaling, int | float | np.number) or not 1.0 <= scaling < np.inf:
        raise ValueError(f"scaling is {scaling!r}: give 'standard', 'mean-field' or a number gamma of at least 1.")
    return float(scaling)
