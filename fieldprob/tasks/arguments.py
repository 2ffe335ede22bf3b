"""Turning what a user passes into clean arrays, counts and random generators.

Each function takes the name of the argument first and puts it in the error, with the offending value and the remedy.
Checks of values look at concrete data only: a traced array (inside `jax.jit`, `jax.grad` or a NumPyro model) passes
through with its shape checked and its values unseen.
"""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def is_traced(value: Any) -> bool:
    """Whether the values of an array are unknown because JAX is tracing."""
    return isinstance(value, Tracer)


def floats(name: str, value: Any) -> Any:
    """`value` as a NumPy array of JAX's default float dtype; a traced array stays traced.

    Integers and booleans become floats. Masked entries become NaN, so that the check for finite numbers finds them.

    Raises: TypeError if `value` is not an array of real numbers; ValueError if one is too large for the dtype.
    """
    dtype = jnp.result_type(float)
    if is_traced(value):
        if not jnp.issubdtype(value.dtype, jnp.complexfloating):
            return value.astype(dtype)
        raise TypeError(f"{name} has dtype {value.dtype}: pass real numbers.")
    try:
        array = np.ma.filled(value.astype(float), np.nan) if isinstance(value, np.ma.MaskedArray) else np.asarray(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} ({type(value).__name__}) is not an array: pass a rectangular array of numbers."
        ) from None
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
        raise TypeError(f"{name} has dtype {array.dtype}: pass real numbers, e.g. np.asarray({name}, dtype=float).")
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    if (np.isinf(converted) & np.isfinite(array)).any():
        raise ValueError(f"{name} has entries too large for {dtype} (up to {np.abs(array).max():.3g}): rescale it.")
    return converted


def require_finite(name: str, array: Any) -> None:
    """Raises ValueError if a concrete array holds NaN or infinite numbers, saying how many and where the first is."""
    if is_traced(array):
        return
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        total, value = int(bad.sum()), float(array[first])
        where = f", the first ({value:g}) at index {first}" if first else f" ({value:g})"
        raise ValueError(
            f"{name} has {total} NaN or infinite {'entry' if total == 1 else 'entries'} in {array.dtype}{where}: "
            f"replace or drop the points concerned."
        )


def count(name: str, value: Any, minimum: int = 1) -> int:
    """`value` as an int of at least `minimum`. Raises: TypeError or ValueError otherwise."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} = {value!r} is not an integer: pass how many, as an int.") from None
    if number < minimum:
        raise ValueError(f"{name} = {number} must be at least {minimum}.")
    return number


def real(name: str, value: Any, minimum: float = -np.inf) -> float:
    """`value` as a finite Python float of at least `minimum`. Raises: TypeError or ValueError otherwise."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} = {value!r} is not a number: pass one real number.") from None
    if not np.isfinite(number) or number < minimum:
        bound = "" if minimum == -np.inf else f" and at least {minimum:g}"
        raise ValueError(f"{name} = {number:g} must be finite{bound}.")
    return number


def generator(seed: Any) -> np.random.Generator:
    """A NumPy generator from a non-negative int or from one JAX key.

    NumPy's bit streams depend neither on the device nor on whether JAX computes in 32 or 64 bits, so the same seed
    gives the same data everywhere. The int s gives `numpy.random.default_rng(s)`; `jax.random.key(s)` gives other
    data than s.

    Raises: TypeError if `seed` is neither, or is traced; ValueError if it is negative.
    """
    if is_traced(seed):
        raise TypeError("seed is traced: data are drawn outside jit and vmap; make the task first, then pass it in.")
    if isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key) and seed.shape == ():
        return np.random.default_rng(np.asarray(jax.random.key_data(seed)).tolist())
    if isinstance(seed, (jax.Array, np.ndarray)) and seed.dtype == np.uint32 and seed.ndim == 1:
        return np.random.default_rng(np.asarray(seed).tolist())
    try:
        return np.random.default_rng(count("seed", seed, minimum=0))
    except TypeError:
        raise TypeError(f"seed = {seed!r} is neither an int nor one JAX key: pass e.g. seed=0.") from None
