"""The sampled side of a comparison: moments of a statistic with their Monte Carlo errors and convergence diagnostics.

Means, R-hat and effective sample sizes over chain and draw follow Vehtari et al. (2021), as ArviZ computes them;
samples that are independent by construction (a `dataset` or a `particle` dimension) have the standard error of the
mean. The variance of a statistic that was averaged analytically given the hidden weights follows from the law of total
variance, Var = E[conditional variance] + Var[conditional mean].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy import special

CHAIN_DIMS = ("chain", "draw")
STREAM_DIMS = ("chain", "block")  # means over blocks of draws
INDEPENDENT_DIMS = ("dataset", "particle")
_BATCHES = 50
_FEWEST = 8  # draws (of each chain) below which no error is estimated
_CHUNK = 128  # entries whose draws are held in float64 at once


@dataclass(frozen=True)
class Sampled:
    """One moment of one statistic, flattened over the entries that are compared.

    Attributes:
        template: the labels of the statistic; its values are not used.
        keep: positions of the compared entries in the flattened template.
        value: the sampled moment, (entries,); all that follow are (entries,) too.
        mcse: Monte Carlo standard error of `value`.
        ess: effective sample size behind `mcse`, the smaller of those for the mean and for the bulk and never above
            the number of draws.
        ess_bulk: ESS of the rank-normalised draws; `rhat`: their R-hat, rank-normalised and split.
        skewness: skewness of the sampling distribution of `value`, estimated from batch means.
        widening: how much larger than `mcse` the error is that tests use, at least 1; see `_markov`.
        degrees_of_freedom: of the variance estimate in that error.
        deterministic: entries that do not vary from draw to draw; they have no diagnostics.
        immobile: standard deviation above which a theory contradicts that an entry has none in the samples; infinite
            for entries that have one.
        tolerance: relative difference that counts as agreement where an entry is deterministic.
        chains: number of chains, 0 for independent samples.
    """

    statistic: str
    moment: str
    template: xr.DataArray
    keep: np.ndarray
    value: np.ndarray
    mcse: np.ndarray
    ess: np.ndarray
    ess_bulk: np.ndarray
    rhat: np.ndarray
    skewness: np.ndarray
    widening: np.ndarray
    degrees_of_freedom: np.ndarray
    deterministic: np.ndarray
    immobile: np.ndarray
    tolerance: float
    chains: int

    @property
    def scale(self) -> float:
        """Root mean square of the sampled moment over its entries: what relative errors are relative to."""
        return root_mean_square(self.value)

    def labels(self) -> list[str]:
        """`train_point=3, output=0` for every entry; empty for a scalar."""
        index = np.unravel_index(self.keep, self.template.shape) if self.template.ndim else ()
        columns = [
            [f"{dim}={label}" for label in self.template[dim].values[position]]
            for dim, position in zip(self.template.dims, index, strict=True)
        ]
        return [", ".join(parts) for parts in zip(*columns, strict=True)] if columns else [""]


def root_mean_square(values: Any) -> float:
    """Of numbers that may be so large or small that their squares are not representable."""
    values = np.asarray(values, float)
    largest = np.max(np.abs(values))
    return float(largest * np.sqrt(np.mean((values / largest) ** 2))) if 0 < largest < np.inf else float(largest)


def mean_and_error(draws: xr.DataArray, batches: int = 20) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean over chain and draw, and its Monte Carlo standard error by the method of batch means.

    Each chain is cut into up to `batches` consecutive batches, whose means count as independent. Of independent samples
    (`dataset` or `particle`) the error is the standard error of the mean.

    >>> rng = np.random.default_rng(0)
    >>> mean, error = mean_and_error(xr.DataArray(rng.normal(size=(4, 1000)), dims=("chain", "draw")))
    >>> abs(float(error) * 4000**0.5 - 1) < 0.3
    True
    """
    independent = [dim for dim in INDEPENDENT_DIMS if dim in draws.dims]
    if independent:
        count = draws.sizes[independent[0]]
        return draws.mean(independent), draws.std(independent, ddof=1 if count > 1 else 0) / np.sqrt(count)
    mean = draws.mean(("chain", "draw"))
    batches = min(batches, draws.sizes["draw"])
    length = draws.sizes["draw"] // batches
    kept = draws.transpose("chain", "draw", ...).values[:, draws.sizes["draw"] - batches * length :]
    means = kept.reshape(len(kept) * batches, length, *kept.shape[2:]).mean(axis=1)
    spread = means.std(axis=0, ddof=1) if len(means) > 1 else np.full(means.shape[1:], np.nan)
    return mean, mean.copy(data=spread / np.sqrt(len(means)))


def sample_dims(variable: xr.DataArray) -> tuple[str, ...]:
    """The dimensions of a variable that run over samples.

    Raises:
        ValueError: it has neither chain and draw, nor one of dataset and particle.
    """
    dims = tuple(map(str, variable.dims))
    for pair in (CHAIN_DIMS, STREAM_DIMS):
        if set(pair) <= set(dims):
            return pair
    for dim in INDEPENDENT_DIMS:
        if dim in dims:
            return (dim,)
    raise ValueError(
        f"samples of {variable.name!r} have dimensions ({', '.join(dims)}): "
        "they need chain and draw, or dataset, or particle"
    )


def check_draws(variable: xr.DataArray) -> None:
    """Refuse draws that are not real numbers, NaN or infinite, naming the statistic and how many are affected."""
    dims = sample_dims(variable)
    if variable.dtype.kind not in "fiub":
        raise ValueError(f"samples of {variable.name!r} are {variable.dtype}: give real numbers")
    entries = tuple(i for i, d in enumerate(variable.dims) if d not in dims)
    bad = ~np.isfinite(variable.values).all(axis=entries)
    if bad.any():
        raise ValueError(
            f"samples of {variable.name!r} are NaN or infinite in {bad.sum()} of {bad.size} draws: "
            "drop those draws or sample again"
        )


def measure(
    variable: xr.DataArray,
    moment: str,
    conditional: xr.DataArray | None,
    symmetric: bool,
    square: xr.DataArray | None = None,
) -> Sampled:
    """Estimate the `mean` or the `variance` of a statistic, entry by entry.

    Args:
        variable: draws of the statistic, or of its mean conditional on the hidden weights; or their means over blocks
            of draws, whose errors are found as those of draws are.
        moment: "mean" or "variance".
        conditional: draws of the variance conditional on the hidden weights, broadcast against `variable`.
        symmetric: the statistic is a symmetric matrix: take each entry once.
        square: where `variable` is block means, those of its square.
    """
    dims = sample_dims(variable)
    rest = [d for d in variable.dims if d not in dims]
    variable = variable.transpose(*rest, *dims)
    if variable.dtype.kind != "f":  # counts and flags
        variable = variable.astype(float)
    template = variable.isel(dict.fromkeys(dims, 0))
    template = template.drop_vars([c for c in template.coords if c not in rest])
    template = template.assign_coords({d: np.arange(template.sizes[d]) for d in rest if d not in template.coords})
    keep = np.arange(template.size)
    if symmetric:
        row, column = np.unravel_index(keep, template.shape)
        keep = keep[row <= column]
    shape = (template.size, *([1] if len(dims) == 1 else []), *(variable.sizes[d] for d in dims))
    draws = variable.values.reshape(shape)
    inner = None
    if conditional is not None:
        if conditional.dtype.kind != "f":
            conditional = conditional.astype(float)
        inner = conditional.broadcast_like(variable).transpose(*variable.dims).values.reshape(shape)
    squares = None if square is None else square.transpose(*rest, *dims).values.astype(float).reshape(shape)
    chunks = np.array_split(keep, max(1, -(-keep.size // _CHUNK)))
    estimate = _independent if len(dims) == 1 else _markov
    tolerance = 1e-6 if variable.dtype.itemsize >= 8 else 1e-4
    parts = [[None if x is None else x[c] for x in (draws, inner, squares)] for c in chunks]
    columns = [_moment(x, inside, square, moment, estimate, tolerance) for x, inside, square in parts]
    value, mcse, ess, ess_bulk, rhat, skewness, widening, dof, deterministic, immobile = (
        np.concatenate(column) for column in zip(*columns, strict=True)
    )
    return Sampled(
        statistic=str(variable.name),
        moment=moment,
        template=template,
        keep=keep,
        value=value,
        mcse=mcse,
        ess=ess,
        ess_bulk=ess_bulk,
        rhat=rhat,
        skewness=skewness,
        widening=widening,
        degrees_of_freedom=dof,
        deterministic=deterministic.astype(bool),
        immobile=immobile,
        tolerance=tolerance,
        chains=0 if len(dims) == 1 else variable.sizes["chain"],
    )


def _moment(draws: Any, inner: Any, squares: Any, moment: str, estimate: Any, tolerance: float) -> list[np.ndarray]:
    """Columns of `Sampled` for one chunk of entries, draws (entries, chains, draws)."""
    fixed = _constant(draws)
    size = np.abs(draws).max(axis=(1, 2)).astype(float)
    immobile = np.where(fixed, tolerance * size, np.inf)
    if inner is not None:
        spread = np.sqrt(np.maximum(inner, 0).max(axis=(1, 2)).astype(float))
        immobile = np.where(spread > 0, np.inf, immobile)
        if moment == "variance":
            fixed, size = fixed & _constant(inner), np.maximum(size, spread)
    # squares of draws of any size are representable in units of a power of two, which costs no digits
    unit = 2.0 ** np.floor(np.log2(np.where(size > 0, size, 1.0)))
    x = draws.astype(float) / unit[:, None, None]
    series = x
    bias = np.zeros(len(x))
    if moment == "variance":
        mean = x.mean(axis=(1, 2), keepdims=True)
        series = (x - mean) ** 2
        if squares is not None:  # the mean over a block of (x - mean)^2
            series = squares / unit[:, None, None] / unit[:, None, None] - 2 * mean * x + mean**2
        if inner is not None:
            series = series + inner / unit[:, None, None] / unit[:, None, None]
        # E[(x - sampled mean)^2] falls short of the variance by the variance of the sampled mean
        bias = np.where(fixed, 0.0, estimate(x, fixed)[0] ** 2)
    mcse, *diagnostics = estimate(series, fixed)
    power = 2 if moment == "variance" else 1
    with np.errstate(over="ignore"):
        value, mcse = ((v * unit) * unit ** (power - 1) for v in (series.mean(axis=(1, 2)) + bias, mcse))
    return [value, *(np.where(fixed, np.nan, c) for c in (mcse, *diagnostics)), fixed, immobile]


def _constant(draws: np.ndarray) -> np.ndarray:
    """Entries that vary by no more than rounding; nothing is known to be constant from a few draws."""
    if draws.shape[2] < _FEWEST:
        return np.zeros(len(draws), bool)
    spread = draws.max(axis=(1, 2)) - draws.min(axis=(1, 2))
    return spread <= 64 * np.finfo(draws.dtype).eps * np.abs(draws).max(axis=(1, 2))


def _independent(series: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, ...]:
    """Standard error of the mean of independent samples; columns as in `_markov`."""
    count = np.full(len(series), float(series.shape[2]))
    if series.shape[2] < _FEWEST:
        nothing = count * np.nan
        return nothing, count, count, nothing, nothing, nothing, nothing
    mcse = series.std(axis=(1, 2), ddof=1) / np.sqrt(count)
    return mcse, count, count, count * np.nan, _skewness(series, count), np.ones(len(series)), count - 1


def _markov(series: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, ...]:
    """mcse, ess, ess_bulk, rhat, skewness, widening and degrees of freedom of the mean of Markov chains.

    The window of autocorrelations behind the ESS is chosen by the data and is now and then too short. A test in the far
    tail feels that, so it uses the larger of the MCSE and the error from some fifty batch means, and, since the ESS
    itself is uncertain, ESS/12 degrees of freedom. With these and the skewness, two-sided p-values of means and
    variances of AR(1) chains (correlation 0, 0.5, 0.9, ESS from 400) were measured to be calibrated down to 1e-4.
    """
    from arviz_stats.base import array_stats  # half a dozen seconds, so not before it is needed

    entries, chains, draws = series.shape
    if draws < _FEWEST:
        nothing = np.full(entries, np.nan)
        return (nothing,) * 7
    ess = np.full(entries, np.nan)
    ess_bulk, rhat = ess.copy(), ess.copy()
    varying = series[~fixed]
    if varying.size:
        split = _halves(varying)
        scores = _normal_scores(split)
        folded = _normal_scores(np.abs(split - np.median(split, axis=(1, 2), keepdims=True)))
        with np.errstate(divide="ignore", invalid="ignore"):  # chains of which none moves
            ess_bulk[~fixed] = array_stats.ess(scores, method="identity")
            ess[~fixed] = array_stats.ess(split, method="identity")
            between, tails = (array_stats.rhat(x, method="identity") for x in (scores, folded))
        rhat[~fixed] = np.maximum(between, tails)
    # Antithetic chains can have ESS above the number of draws, but its estimate is then too uncertain to rely on.
    ess = np.minimum(np.minimum(ess, ess_bulk), chains * draws)
    mcse = series.std(axis=(1, 2), ddof=1) / np.sqrt(ess)
    widening = np.fmax(_batch_error(series) / mcse, 1)
    return mcse, ess, ess_bulk, rhat, _skewness(series, ess), widening, ess / 12


def _halves(series: np.ndarray) -> np.ndarray:
    """Every chain cut in two, (entries, 2 chains, draws / 2); a middle draw is left out."""
    half = series.shape[2] // 2
    return np.concatenate([series[:, :, :half], series[:, :, -half:]], axis=1)


def _normal_scores(x: np.ndarray) -> np.ndarray:
    """Draws replaced by the normal quantiles of their ranks, ties sharing theirs (Vehtari et al. 2021, eq. 14).

    `array_stats.ess(x, method="bulk")` and `array_stats.rhat(x, method="rank")` do the same, one entry at a time.
    """
    flat = x.reshape(len(x), -1)
    size = flat.shape[1]
    order = np.argsort(flat, axis=1)
    ordered = np.take_along_axis(flat, order, axis=1)
    position = np.arange(size)
    jump = np.diff(ordered, axis=1) != 0
    edge = np.ones((len(x), 1), bool)
    first = np.maximum.accumulate(np.where(np.hstack([edge, jump]), position, 0), axis=1)
    last = np.where(np.hstack([jump, edge]), position, size - 1)
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    scores = np.empty(flat.shape)
    np.put_along_axis(scores, order, special.ndtri(((first + last) / 2 + 5 / 8) / (size + 1 / 4)), axis=1)
    return scores.reshape(x.shape)


def _batch_means(series: np.ndarray, size: int) -> np.ndarray:
    """Means of consecutive draws, `size` at a time, (entries, batches of all chains)."""
    whole = series.shape[2] // size * size
    return series[:, :, :whole].reshape(*series.shape[:2], -1, size).mean(axis=-1).reshape(len(series), -1)


def _batch_error(series: np.ndarray) -> np.ndarray:
    """Standard error of the mean from about fifty batches, or from the chains if there are more of them."""
    per_chain = min(max(_BATCHES // series.shape[1], 1), series.shape[2])
    means = _batch_means(series, series.shape[2] // per_chain)
    return means.std(axis=1, ddof=1) / np.sqrt(means.shape[1]) if means.shape[1] > 1 else np.zeros(len(series))


def _skewness(series: np.ndarray, ess: np.ndarray) -> np.ndarray:
    """Skewness of the mean, from that of batch means.

    The third cumulant of a mean of b independent batches is that of one batch, divided by b². Batches of two
    autocorrelation times are short enough for many of them, and keep three quarters of the skewness of the mean or more
    (squares of an AR(1) process); 4/3 makes up for the rest. Independent draws are batches of one.
    """
    chains, draws = series.shape[1:]
    total = chains * draws
    batches = np.clip(np.nan_to_num(ess, nan=1.0) / 2, 20, total)
    length = 2 ** np.floor(np.log2(np.maximum(total / batches, 1))).astype(int)  # powers of 2: few groups
    length = np.where(ess >= 0.75 * total, 1, np.minimum(length, max(draws // 4, 1)))
    result = np.zeros(len(series))
    for size in np.unique(length):
        which = length == size
        x = _batch_means(series[which], size)
        x = x - x.mean(axis=1, keepdims=True)
        second, third = (x**2).mean(axis=1), (x**3).mean(axis=1)
        result[which] = third / np.where(second > 0, second, np.inf) ** 1.5 / np.sqrt(x.shape[1])
    return np.where(length > 1, 4 / 3, 1) * result
