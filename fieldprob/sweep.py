"""Sweeps: what one result says in a few numbers, and the table of those numbers over many results.

Of a scalar statistic the numbers are its sampled mean and what each theory predicts. Of an array they are the root mean
square difference between sampled and predicted, relative to the root mean square of the sampled one, and the same of
the Monte Carlo error: below this noise floor a theory cannot be told from the samples.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from fieldprob.study import opened

__all__ = ["COLUMNS", "as_table", "average_seeds", "mean_and_error", "read_summary", "summarise"]

COLUMNS = ("statistic", "quantity", "theory", "value", "error")


def mean_and_error(draws: xr.DataArray, batches: int = 20) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean over chain and draw, and its Monte Carlo standard error by the method of batch means.

    Each chain is cut into up to `batches` consecutive batches, whose means count as independent.

    >>> rng = np.random.default_rng(0)
    >>> mean, error = mean_and_error(xr.DataArray(rng.normal(size=(4, 1000)), dims=("chain", "draw")))
    >>> abs(float(error) * 4000**0.5 - 1) < 0.3
    True
    """
    mean = draws.mean(("chain", "draw"))
    batches = min(batches, draws.sizes["draw"])
    length = draws.sizes["draw"] // batches
    kept = draws.transpose("chain", "draw", ...).values[:, draws.sizes["draw"] - batches * length :]
    means = kept.reshape(len(kept) * batches, length, *kept.shape[2:]).mean(axis=1)
    spread = means.std(axis=0, ddof=1) if len(means) > 1 else np.full(means.shape[1:], np.nan)
    return mean, mean.copy(data=spread / np.sqrt(len(means)))


def summarise(numbers: pd.DataFrame | None, samples: xr.Dataset) -> pd.DataFrame:
    """The summary of one result: columns statistic, quantity, theory, value, error.

    The quantity is "value" of a scalar (theory "" for the sampled one) or "distance" of an array (theory "" for the
    noise floor). A posterior variance counts as a statistic, `f_test_variance`.

    Args:
        numbers: what `Comparison.to_dataframe` returns, None where nothing was compared.
        samples: the posterior; only its scalars that nobody predicts are read.
    """
    rows: list[tuple[str, str, str, float, float]] = []
    compared: set[str] = set()
    if numbers is not None:
        for key, entries in numbers.groupby(["statistic", "moment"], sort=False):
            statistic, moment = key  # pyright: ignore[reportGeneralTypeIssues]
            name = str(statistic) if moment == "mean" else f"{statistic}_variance"
            compared.add(name)
            rows.extend(_scalar_rows(name, entries) if _is_scalar(entries) else _array_rows(name, entries))
    for name, draws in samples.data_vars.items():
        if set(draws.dims) == {"chain", "draw"} and str(name) not in compared:
            mean, error = mean_and_error(draws)
            rows.append((str(name), "value", "", float(mean), float(error)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def read_summary(path: str | Path) -> pd.DataFrame:
    """The summary of a saved result; of its draws only a few scalars are read.

    Raises:
        FileNotFoundError, ValueError: as `fieldprob.Result.load`.
    """
    with opened(path) as tree:
        numbers = tree["comparison"].to_dataset().to_dataframe() if "comparison" in tree.children else None
        return summarise(numbers, tree["posterior"].to_dataset())


def _is_scalar(entries: pd.DataFrame) -> bool:
    return bool((entries["index"] == "").all())


def _scalar_rows(name: str, entries: pd.DataFrame) -> Iterator[tuple[str, str, str, float, float]]:
    first = entries.iloc[0]
    yield name, "value", "", first["sampled"], _zero(first["mcse"])
    for row in entries.itertuples():
        yield name, "value", str(row.theory), float(row.predicted), _zero(row.prediction_error)  # pyright: ignore


def _array_rows(name: str, entries: pd.DataFrame) -> Iterator[tuple[str, str, str, float, float]]:
    scale = _rms(entries["sampled"])
    if not scale > 0:
        return
    yield name, "distance", "", _rms(entries.drop_duplicates("index")["mcse"].fillna(0.0)) / scale, 0.0
    for theory, part in entries.groupby("theory", sort=False):
        difference = part["sampled"] - part["predicted"]
        distance = _rms(difference)
        # linear propagation of the error of each difference, taken as independent; seeds show what that misses
        own = _rms(difference * part["mcse"].fillna(0.0)) / distance / np.sqrt(len(part)) if distance > 0 else 0.0
        yield name, "distance", str(theory), distance / _rms(part["sampled"]), own / scale


def average_seeds(table: pd.DataFrame, parameters: Sequence[str]) -> pd.DataFrame:
    """Mean and standard error over seeds of every number at every point of the sweep.

    With one seed the error is the Monte Carlo error of that run, and so it is where it exceeds the scatter of seeds.

    Args:
        table: rows of `summarise` with a column for each swept parameter and `seed`.
        parameters: names of the swept parameters, without `seed`.
    """
    keys = [*parameters, "statistic", "quantity", "theory"]

    def combine(group: pd.DataFrame) -> pd.Series:
        count = len(group)
        scatter = group["value"].std(ddof=1) / np.sqrt(count) if count > 1 else 0.0
        own = np.sqrt((group["error"] ** 2).sum()) / count
        return pd.Series({"value": group["value"].mean(), "error": max(scatter, own), "seeds": count})

    return table.groupby(keys, sort=False, dropna=False)[["value", "error"]].apply(combine).reset_index()


def as_table(summaries: Iterable[tuple[Mapping[str, Any], pd.DataFrame]]) -> pd.DataFrame:
    """One table of the summaries of many results, each with the parameters that tell it from the others."""
    frames = [summary.assign(**{k: _scalar(v) for k, v in point.items()}) for point, summary in summaries]
    table = pd.concat(frames, ignore_index=True)
    swept = [column for column in table.columns if column not in COLUMNS]
    return table.reindex(columns=[*swept, *COLUMNS])


def _rms(values: Any) -> float:
    return float(np.sqrt((values**2).mean()))


def _zero(error: Any) -> float:
    return float(error) if np.isfinite(error) else 0.0


def _scalar(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value) if value is None else value
