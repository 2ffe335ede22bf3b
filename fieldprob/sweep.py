"""Sweeps: what one result says in a few numbers, and the table of those numbers over many results.

Of a scalar statistic the numbers are its sampled mean and what each theory predicts. Of an array they are the root mean
square difference between sampled and predicted, relative to the root mean square of the sampled one, and the same of
the Monte Carlo error: below this noise floor a theory cannot be told from the samples.

Where one of the theories is exact, the others have an error that no sampling limits: the ladder of approximations.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from fieldprob.compare import drawn
from fieldprob.compare.sampled import mean_and_error
from fieldprob.study import opened

__all__ = [
    "COLUMNS", "ROUNDING", "as_table", "average_seeds", "mean_and_error", "read_summary", "slopes",
    "summarise", "theory_errors",
]  # fmt: skip

COLUMNS = ("statistic", "quantity", "theory", "value", "error")
ROUNDING = 1e-10  # a distance or error below this is an identity: nothing to draw
_POWER_LAW = 1.2  # how far, as a factor, errors are off the line of a power law


def summarise(
    numbers: pd.DataFrame | None, samples: xr.Dataset, predictions: Sequence[xr.Dataset] = ()
) -> pd.DataFrame:
    """The summary of one result: columns statistic, quantity, theory, value, error.

    The quantity is "value" of a scalar (theory "" for the sampled one) or "distance" of an array (theory "" for the
    noise floor); and "size" and "error", see `theory_errors`. A posterior variance counts as a statistic,
    `f_test_variance`.

    Args:
        numbers: what `Comparison.to_dataframe` returns, None where nothing was compared.
        samples: the posterior; only its scalars that nobody predicts are read.
        predictions: what `Prediction.to_dataset` returns, one a theory.
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
    return pd.concat([pd.DataFrame(rows, columns=list(COLUMNS)), theory_errors(predictions)], ignore_index=True)


def theory_errors(predictions: Sequence[xr.Dataset]) -> pd.DataFrame:
    """Errors of theories against an exact one, over the mean of every statistic that both predict.

    The columns are those of `summarise`. The quantity "error" is the root mean square of theory - exact relative to
    that of the exact one, which is the "size" that the exact theory has a row of. The column `error` is what numerical
    errors that a theory states of itself amount to. Of several exact theories the first that has a statistic counts;
    there are no rows where none is.

    Args:
        predictions: what `Prediction.to_dataset` returns, one a theory.

    >>> from fieldprob.prediction import Prediction
    >>> exact = Prediction(theory="exact", mean={"train_loss": 2.0}, exact=True)
    >>> other = Prediction(theory="other", mean={"train_loss": 1.5})
    >>> theory_errors([other.to_dataset(), exact.to_dataset()])[["quantity", "theory", "value"]].values.tolist()
    [['size', 'exact', 2.0], ['error', 'other', 0.25]]
    """
    rows: list[tuple[str, str, str, float, float]] = []
    exact = [dataset for dataset in predictions if dataset.attrs.get("exact", False)]
    for name in dict.fromkeys(name for dataset in exact for name in _means(dataset)):
        reference = next(dataset for dataset in exact if name in dataset)
        size = _rms(reference[name])
        if not size > 0:
            continue
        rows.append((name, "size", reference.attrs["theory"], size, 0.0))
        for dataset in predictions:
            if dataset is reference or name not in _means(dataset):
                continue
            predicted, truth = xr.align(dataset[name], reference[name], join="inner")  # one may cover fewer points
            own = _rms(dataset[f"{name}_error"]) if f"{name}_error" in dataset else 0.0
            rows.append((name, "error", dataset.attrs["theory"], _rms(predicted - truth) / _rms(truth), own / size))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def slopes(averaged: pd.DataFrame, axis: str, others: Sequence[str] = ()) -> dict[tuple, float]:
    """Slopes of log error against log `axis`, by least squares: (*values of `others`, statistic, theory) -> slope.

    Nothing is fitted to fewer than three points, along words, or where a point is off the line by more than a factor of
    1.2 and the errors are no power law; errors of rounding size are left out.

    Args:
        averaged: what `average_seeds` returns, of which the errors are taken.
        axis: a parameter.
        others: the other parameters, each combination of which has slopes of its own.
    """
    if not pd.api.types.is_numeric_dtype(averaged[axis]):
        return {}
    errors = averaged.query(f"quantity == 'error' and value > {ROUNDING} and `{axis}` > 0")
    fitted = {}
    for key, line in errors.groupby([*others, "statistic", "theory"], sort=False):
        x, y = np.log(line[axis].to_numpy(float)), np.log(line["value"].to_numpy(float))
        slope, offset = np.polyfit(x, y, 1) if len(line) > 2 else (np.nan, np.nan)
        if np.abs(slope * x + offset - y).max() < np.log(_POWER_LAW):
            fitted[key] = float(slope)
    return fitted


def read_summary(path: str | Path) -> pd.DataFrame:
    """The summary of a saved result; of its draws only a few scalars are read.

    Raises:
        FileNotFoundError, ValueError: as `fieldprob.Result.load`.
    """
    with opened(path) as tree:
        numbers = tree["comparison"].to_dataset().to_dataframe() if "comparison" in tree.children else None
        branch = tree["predictions"].children if "predictions" in tree.children else {}
        predictions = sorted(
            (node.to_dataset() for node in branch.values()), key=lambda dataset: dataset.attrs["index"]
        )
        return summarise(numbers, drawn(tree).to_dataset(), predictions)


def _means(dataset: xr.Dataset) -> list[str]:
    return [str(name) for name, variable in dataset.data_vars.items() if variable.attrs["moment"] == "mean"]


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
