"""What an ensemble leaves behind: every particle, or moments over particles that arrive in batches.

Central sums S_p = sum (x - mean)^p of two batches a and b join into those of their union (Chan, Golub & LeVeque 1983;
Pebay, Sandia report SAND2008-6212, section 2), with D = mean_b - mean_a and n = n_a + n_b:

    mean = mean_a + n_b D / n,   S_2 = S_2a + S_2b + D^2 n_a n_b / n,   ...
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

Recorded = Mapping[str, Mapping[str, Any]]  # group -> statistic -> (particles of a batch, ...)


class Sums(NamedTuple):
    """Mean and central sums of a statistic over `count` particles, and its co-moment `cross` with the same statistic
    at a reference time, of which `reference` is the mean (None where there is none)."""

    count: Any
    mean: Any
    second: Any
    third: Any
    fourth: Any
    reference: Any
    cross: Any


def sums(x, valid, reference=None) -> Sums:
    """Sums over the first axis of x, (particles, ...), where `valid` (particles,) is true; JAX arrays, under jit."""
    x = x.astype(jnp.result_type(x, jnp.float32))
    valid = valid.reshape(valid.shape + (1,) * (x.ndim - 1))
    count = jnp.sum(valid)
    mean = jnp.sum(x, axis=0, where=valid) / count
    deviation = jnp.where(valid, x - mean, 0)
    second, third, fourth = (jnp.sum(deviation**p, axis=0) for p in (2, 3, 4))
    if reference is None:
        return Sums(count, mean, second, third, fourth, None, None)
    origin = jnp.sum(reference, axis=0, where=valid) / count
    cross = jnp.sum(deviation * (reference - origin), axis=0)
    return Sums(count, mean, second, third, fourth, origin, cross)


def join(a: Sums | None, b: Sums) -> Sums:
    """The sums of two batches together, in NumPy and float64; `a` is None before the first."""
    b = b._make(None if v is None else np.asarray(v, float) for v in b)
    if a is None:
        return b
    k, m, n, D = a.count, b.count, a.count + b.count, b.mean - a.mean
    second = a.second + b.second + D**2 * k * m / n
    third = a.third + b.third + D**3 * k * m * (k - m) / n**2 + 3 * D * (k * b.second - m * a.second) / n
    fourth = a.fourth + b.fourth + D**4 * k * m * (k**2 - k * m + m**2) / n**3
    fourth = fourth + 6 * D**2 * (k**2 * b.second + m**2 * a.second) / n**2 + 4 * D * (k * b.third - m * a.third) / n
    reference, cross = a.reference, a.cross
    if b.reference is not None:
        E = b.reference - a.reference
        reference, cross = a.reference + E * m / n, a.cross + b.cross + D * E * k * m / n
    return Sums(n, a.mean + D * m / n, second, third, fourth, reference, cross)


def moments(s: Sums) -> dict[str, np.ndarray]:
    """Estimates, keyed by what is appended to the statistic's name, as in a `fieldprob.Prediction`.

    "" the mean over particles, `_error` its standard error; `_variance` the unbiased variance, `_variance_error` its
    standard error, sqrt((mu_4 - sigma^4 (n - 3) / (n - 1)) / n); `_autocovariance` with the reference time.
    """
    n = s.count
    variance = s.second / (n - 1)
    spread = s.fourth / n - variance**2 * (n - 3) / (n - 1)
    result = {
        "": s.mean,
        "_error": np.sqrt(variance / n),
        "_variance": variance,
        "_variance_error": np.sqrt(np.maximum(spread, 0) / n),
    }
    return result if s.cross is None else result | {"_autocovariance": s.cross / (n - 1)}


class Particles:
    """Every particle, in arrays (particle, time, ...) that are allocated once."""

    sample_dims = ("particle", "time")

    def __init__(self, particles: int, times: int):
        self.done = 0
        self._shape = (particles, times)
        self._arrays: dict[str, dict[str, np.ndarray]] = {}

    def add(self, first: int, k: int, recorded: Recorded) -> None:
        """Statistics of the particles from `first` on, at time k."""
        for group, values in recorded.items():
            arrays = self._arrays.setdefault(group, {})
            for name, value in values.items():
                value = np.asarray(value)
                if name not in arrays:
                    arrays[name] = np.empty((*self._shape, *value.shape[1:]), value.dtype)
                rows = arrays[name][first : first + len(value), k]
                rows[...] = value[: len(rows)]

    def close(self, done: int) -> None:
        """The first `done` particles are complete at all times."""
        self.done = done

    def result(self, group: str) -> dict[str, dict[str, np.ndarray]]:
        """Statistic -> suffix -> array; the only suffix is empty."""
        return {name: {"": value[: self.done]} for name, value in self._arrays[group].items()}


class Moments:
    """Moments over particles, in arrays (time, ...). What `add` takes are `Sums`."""

    sample_dims = ("time",)

    def __init__(self, times: int):
        self.done = 0
        self._new: list[Any] = [None] * times
        self._sums: list[dict[str, dict[str, Sums]]] = [{} for _ in range(times)]

    def add(self, first: int, k: int, recorded: Recorded) -> None:
        self._new[k] = recorded

    def close(self, done: int) -> None:
        # not before the whole batch is there, so that all times have the same particles
        for old, new in zip(self._sums, self._new, strict=True):
            for group, values in new.items():
                known = old.setdefault(group, {})
                known |= {name: join(known.get(name), s) for name, s in values.items()}
        self.done = done

    def result(self, group: str) -> dict[str, dict[str, np.ndarray]]:
        """Statistic -> suffix -> array; the suffixes of `moments`, NaN where there is none before the reference."""
        rows = [{name: moments(s) for name, s in row[group].items()} for row in self._sums]
        return {
            name: {
                end: np.stack([row[name].get(end, np.full_like(row[name][""], np.nan)) for row in rows])
                for end in rows[-1][name]
            }
            for name in rows[-1]
        }
