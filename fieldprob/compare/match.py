"""`compare`: match the statistics of samples and predictions, and judge every theory by all of its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from fieldprob import statistics
from fieldprob.compare.comparison import Comparison
from fieldprob.compare.sampled import STREAM_DIMS, Sampled, check_draws, measure, sample_dims
from fieldprob.compare.verdict import AGREES, DIFFERS, NOT_CONVERGED, holm, p_values, rhat_limit, worst

_COMPARED = ("mean", "variance")


def compare(
    samples: Any,
    predictions: Any,
    *,
    false_alarm: float = 0.01,
    minimum_ess: float = 400,
    maximum_rhat: float = 1.01,
) -> Comparison:
    """Compare sampled statistics with what theories predict for them.

    Means are compared for every statistic that both sides have, variances where a theory predicts them. Statistics are
    matched by name, dimensions and coordinates, so that either side may cover only some of the points; a matrix that is
    symmetric is compared once per pair. Where the samples hold `<name>_conditional_variance`, `<name>` is taken as the
    conditional mean and the variance is that of the law of total variance. A predicted `covariance` is not compared.

    A theory is said to differ if Holm's procedure rejects any of its numbers at the family-wise level `false_alarm`: a
    theory that is exactly right is said to differ with at most that probability, however many numbers it predicts and
    however they are correlated. Nothing is said of a theory, but 'not converged', if any number it is compared with has
    an effective sample size below `minimum_ess`, or an R-hat above `maximum_rhat` by more than chance. Samples that are
    independent by construction have no R-hat, and a quarter of `minimum_ess` is enough of them. A number that is
    the same in every draw needs no error bar; it is not converged if there are fewer than 8 draws (per chain), or if
    the theory predicts a variance for it.

    Args:
        samples: DataTree with a group `posterior` or `trajectory`, or a Dataset, of variables with dimensions chain and
            draw; or, for samples that are independent by construction, `dataset` or `particle`. Statistics in a group
            `stream`, means over blocks of draws, are compared too; their ESS and R-hat are those of the block means.
        predictions: one `Prediction`, or several with different names, or datasets that `Prediction.to_dataset` wrote.
        false_alarm: family-wise false-alarm rate of each theory's verdict.
        minimum_ess: effective sample size below which a number is not converged.
        maximum_rhat: R-hat above which a number is not converged.

    Raises:
        ValueError: no statistic in common, dimensions, sizes or coordinates that do not match, draws that are not
            finite real numbers, two theories of one name, a level out of range.
        TypeError: samples or predictions are something else.

    >>> import numpy as np, xarray as xr
    >>> from fieldprob.prediction import Prediction
    >>> draws = np.random.default_rng(0).normal(1.0, 2.0, (4, 1000))
    >>> samples = xr.Dataset({"train_loss": (("chain", "draw"), draws)})
    >>> theory = Prediction(theory="exact", mean={"train_loss": 1.0}, variance={"train_loss": 4.0})
    >>> compare(samples, theory).verdicts
    {'exact': 'agrees'}
    """
    _check_level("false_alarm", false_alarm, 1e-300, 1, "a probability between 0 and 1, such as 0.01")
    _check_level("minimum_ess", minimum_ess, 0, np.inf, "a number of effective draws, such as 400")
    _check_level("maximum_rhat", maximum_rhat, 1, np.inf, "a number of at least 1, such as 1.01")
    posterior, squares = _posterior(samples)
    theories = _theories(predictions)
    _check_common(posterior, theories)

    sampled: dict[tuple[str, str], Sampled] = {}
    tables = []
    for theory in theories:
        parts = []
        for variable in _in_order(theory):
            name, moment = variable.attrs["statistic"], variable.attrs["moment"]
            if moment not in _COMPARED or name not in posterior or posterior[name].size == 0:
                continue
            if (name, moment) not in sampled:
                sampled[name, moment] = _measure(posterior, squares, name, moment, theories)
            error = theory.get(f"{name}_error" if moment == "mean" else f"{name}_variance_error")
            variance = theory.get(f"{name}_variance")
            parts.append(_differences(sampled[name, moment], variable, error, variance, theory.attrs["theory"]))
        if parts:
            table = pd.concat(parts, ignore_index=True)
            tables.append(_judge(table, false_alarm, minimum_ess, maximum_rhat))
    numbers = pd.concat(tables, ignore_index=True)
    first = posterior[next(iter(sampled))[0]]
    return Comparison(
        numbers=numbers.drop(columns=["missed", "chains"]),
        theories=pd.DataFrame([_overall(theory, numbers) for theory in theories]).set_index("theory"),
        false_alarm=false_alarm,
        minimum_ess=minimum_ess,
        maximum_rhat=maximum_rhat,
        sample_size={dim: first.sizes[dim] for dim in sample_dims(first)},
    )


def _check_level(argument: str, value: Any, least: float, below: float, remedy: str) -> None:
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not least <= value < below:
        raise ValueError(f"{argument}={value!r}: give {remedy}")


def drawn(samples: xr.DataTree) -> xr.DataTree:
    """The group that holds the draws: posterior, trajectory out of equilibrium, or the tree itself without either."""
    name = next((name for name in ("posterior", "trajectory") if name in samples.children), None)
    return samples if name is None else samples.children[name]


def _posterior(samples: Any) -> tuple[dict[str, xr.DataArray], dict[str, xr.DataArray]]:
    """Draws or block means of every statistic, and of those streamed as block means also the means of their squares."""
    group = samples
    if isinstance(samples, xr.DataTree):
        group = drawn(samples).to_dataset()
    if not isinstance(group, xr.Dataset):
        raise TypeError(
            f"samples is a {type(samples).__name__}: give a DataTree with a group posterior or trajectory, or a Dataset"
        )
    branch = samples.children.get("stream") if isinstance(samples, xr.DataTree) else None
    stream = xr.Dataset() if branch is None else branch.to_dataset()
    squares = {str(name): stream[f"{name}_square"] for name in stream if f"{name}_square" in stream}
    means = {name: stream[name] for name in squares}
    return means | {str(name): variable for name, variable in group.data_vars.items()}, squares


def _theories(predictions: Any) -> list[xr.Dataset]:
    if isinstance(predictions, Mapping) and not isinstance(predictions, xr.Dataset):
        raise TypeError(
            f"predictions is a {type(predictions).__name__}: give a list, such as list(predictions.values())"
        )
    several = isinstance(predictions, Iterable) and not isinstance(predictions, xr.Dataset)
    given: list[Any] = list(predictions) if several else [predictions]
    if not given:
        raise ValueError("predictions is empty: give at least one Prediction")
    for prediction in given:
        if not isinstance(prediction, xr.Dataset) and not hasattr(prediction, "to_dataset"):
            raise TypeError(
                f"predictions holds a {type(prediction).__name__}: give what a theory returns, a Prediction"
            )
    theories = [p if isinstance(p, xr.Dataset) else p.to_dataset() for p in given]
    for theory in theories:
        if "theory" not in theory.attrs:
            raise ValueError(
                "predictions holds a dataset without a theory's name: give what Prediction.to_dataset wrote"
            )
        for name, variable in theory.data_vars.items():
            if not {"statistic", "moment"} <= set(variable.attrs):
                raise ValueError(
                    f"predictions holds a dataset whose variable {name!r} does not say which statistic and moment it "
                    "is: give what Prediction.to_dataset wrote"
                )
    names = [theory.attrs["theory"] for theory in theories]
    if len(set(names)) < len(names):
        raise ValueError(f"predictions holds two theories of one name, among {names}: give them different ones")
    return theories


def _in_order(theory: xr.Dataset) -> list[xr.DataArray]:
    """The variables with those of one statistic together, its mean first."""
    variables = list(theory.data_vars.values())
    names = [v.attrs["statistic"] for v in variables]
    return sorted(variables, key=lambda v: names.index(v.attrs["statistic"]))


def _check_common(posterior: dict[str, xr.DataArray], theories: list[xr.Dataset]) -> None:
    sampled = {name for name, variable in posterior.items() if variable.size}
    some = False
    for theory in theories:
        predicted = {v.attrs["statistic"] for v in theory.data_vars.values() if v.attrs["moment"] in _COMPARED}
        some |= bool(predicted)
        if predicted and not predicted & sampled:
            raise ValueError(
                f"samples and {theory.attrs['theory']!r} have no statistic in common: "
                f"sampled are {sorted(sampled)}, predicted are {sorted(predicted)}"
            )
    if not some:
        raise ValueError(f"predictions hold no mean and no variance to compare: sampled are {sorted(sampled)}")


def _measure(
    posterior: dict[str, xr.DataArray],
    squares: dict[str, xr.DataArray],
    name: str,
    moment: str,
    theories: list[xr.Dataset],
) -> Sampled:
    variable = posterior[name]
    conditional = posterior.get(f"{name}_conditional_variance")
    square = squares.get(name) if sample_dims(variable) == STREAM_DIMS else None
    check_draws(variable)
    if conditional is not None:
        check_draws(conditional)
        if sample_dims(conditional) != sample_dims(variable):
            raise ValueError(
                f"{name!r} and {name + '_conditional_variance'!r} must both be draws, or both be streamed: "
                "stream both or none of them"
            )
    predicted = [v for t in theories for v in t.data_vars.values() if v.attrs["statistic"] == name]
    predicted = [v for v in predicted if v.attrs["moment"] in _COMPARED]
    first_draw = variable.isel(dict.fromkeys(sample_dims(variable), 0))
    symmetric = all(map(_is_symmetric, [first_draw, *predicted]))
    return measure(variable, moment, conditional, symmetric, square)


def _is_symmetric(variable: xr.DataArray) -> bool:
    """Whether a variable is a symmetric matrix over (dimension, dimension_) with equal coordinates."""
    if variable.ndim != 2 or variable.shape[0] != variable.shape[1]:
        return False
    first, second = sorted(map(str, variable.dims))
    if second != f"{first}_":
        return False
    if first in variable.coords and not np.array_equal(variable[first].values, variable[second].values):
        return False
    values = variable.values
    return np.allclose(values, values.T, rtol=0, atol=1e-5 * np.abs(values).max(initial=0))


def _differences(
    sampled: Sampled, predicted: xr.DataArray, error: xr.DataArray | None, variance: xr.DataArray | None, theory: str
) -> pd.DataFrame:
    """The numbers of one theory, statistic and moment; entries that the theory does not cover are left out."""
    value = _align(predicted, sampled.template, theory)[sampled.keep]
    errors = np.zeros_like(value) if error is None else _align(error, sampled.template, theory)[sampled.keep]
    kind = predicted.attrs.get("kind", "value") if sampled.moment == "mean" else "value"
    fixed, difference = sampled.deterministic, sampled.value - value
    if variance is not None:  # what does not move where it should is stuck
        deviation = np.sqrt(np.maximum(_align(variance, sampled.template, theory)[sampled.keep], 0))
        fixed = fixed & ~(deviation > sampled.immobile)
    with np.errstate(divide="ignore", invalid="ignore"):
        z, p = p_values(
            difference,
            sampled.mcse,
            errors,
            sampled.skewness,
            sampled.degrees_of_freedom,
            sampled.widening,
            kind,
        )
        relative = np.where(difference == 0, 0.0, np.abs(difference) / sampled.scale)
    # what does not fluctuate is compared to a tolerance, widened by the theory's own error
    miss = {"value": np.abs(difference), "lower": -difference, "upper": difference}[kind]
    tolerance = _rounding(sampled, value) + 4 * errors
    table: Any = pd.DataFrame(
        {
            "theory": theory,
            "statistic": sampled.statistic,
            "moment": sampled.moment,
            "index": sampled.labels(),
            "kind": kind,
            "sampled": sampled.value,
            "mcse": np.where(fixed, 0.0, sampled.mcse),
            "predicted": value,
            "prediction_error": errors,
            "z": np.where(fixed, np.nan, z),
            "p_value": np.where(fixed, np.nan, p),
            "relative_error": relative,
            "rhat": sampled.rhat if statistics.is_invariant(sampled.statistic) else np.nan,
            "ess_bulk": sampled.ess_bulk,
            "ess": sampled.ess,
            "missed": np.where(fixed, miss > tolerance, np.nan),
            "chains": sampled.chains,
        }
    )
    return table[np.isfinite(value)]


def _rounding(sampled: Sampled, predicted: np.ndarray) -> np.ndarray:
    """The difference that rounding may make: relative to √(K_ii K_jj) in a symmetric matrix, else to the entry itself.

    A little of the root mean square is added, since an entry may be small because larger terms cancel in it.
    """
    scale, floor = np.fmax(np.abs(sampled.value), np.abs(predicted)), 1e-3
    if sampled.keep.size < sampled.template.size:  # only the pairs of a symmetric matrix are kept
        row, column = np.unravel_index(sampled.keep, sampled.template.shape)
        root = np.zeros(sampled.template.shape[0])
        root[row[row == column]] = np.sqrt(scale[row == column])
        scale, floor = np.fmax(scale, root[row] * root[column]), 1e-8
    tolerance = sampled.tolerance * (scale + floor * sampled.scale)
    return tolerance + np.where(np.isfinite(sampled.immobile), sampled.immobile**2, 0) * (sampled.moment == "variance")


def _align(predicted: xr.DataArray, template: xr.DataArray, theory: str) -> np.ndarray:
    """Predicted values at the sampled labels, flattened; NaN where the theory has none."""
    name, dims = template.name, template.dims
    if set(predicted.dims) != set(dims):
        if "time" in dims and "time" not in predicted.dims:
            raise ValueError(
                f"{name!r} was sampled at {template.sizes['time']} times, and {theory!r} predicts it at none: choose "
                "one, samples.isel(time=-1)"
            )
        raise ValueError(
            f"{name!r} has dimensions ({', '.join(map(str, dims))}) in the samples and "
            f"({', '.join(map(str, predicted.dims))}) in the prediction of {theory!r}: give both the same"
        )
    for dim in dims:
        here, there = template[dim].values, predicted[dim].values
        # kernels may be recorded at some of the points, and the first modes; of any other dimension all is expected
        unlabelled = all(np.array_equal(x, np.arange(len(x))) for x in (here, there))
        if unlabelled and len(here) != len(there) and dim not in ("point", "point_", "mode"):
            raise ValueError(
                f"{name!r} has {len(here)} entries along {dim} in the samples and {len(there)} in the prediction of "
                f"{theory!r}: was it made for another task?"
            )
        if not np.isin(here, there).any():
            raise ValueError(
                f"{name!r} has no {dim} in common: sampled at {here[0]}..{here[-1]}, "
                f"predicted by {theory!r} at {there[0]}..{there[-1]}"
            )
    aligned = predicted.reindex({dim: template[dim].values for dim in dims}).transpose(*dims)
    return aligned.values.astype(float).reshape(-1)


def _judge(table: Any, false_alarm: float, minimum_ess: float, maximum_rhat: float) -> pd.DataFrame:
    """Add the verdict on every number of one theory."""
    fixed = table["missed"].notna().to_numpy()
    independent = (table["chains"] == 0).to_numpy()
    markov = ~independent & ~fixed
    limit = rhat_limit(maximum_rhat, table["ess"].to_numpy(), int(table["chains"].max()), int(markov.sum()))
    invariant = table["statistic"].map(statistics.is_invariant).to_numpy()
    mixed = (table["rhat"] <= limit).to_numpy() | ~invariant | independent
    converged = mixed & (table["ess"].to_numpy() >= np.where(independent, minimum_ess / 4, minimum_ess))
    differs = holm(table["p_value"].to_numpy(), false_alarm) | (table["missed"] == 1).to_numpy()
    verdict = np.where(differs, DIFFERS, AGREES)
    return table.assign(verdict=np.where(~fixed & ~converged, NOT_CONVERGED, verdict))


def _overall(theory: xr.Dataset, numbers: Any) -> dict[str, Any]:
    name = theory.attrs["theory"]
    verdict = numbers.loc[numbers["theory"] == name, "verdict"]
    return {
        "theory": name,
        "verdict": worst(verdict) if len(verdict) else "not compared",
        "compared": len(verdict),
        "differing": int((verdict == DIFFERS).sum()),
        "unconverged": int((verdict == NOT_CONVERGED).sum()),
        "log_evidence": theory.attrs.get("log_evidence", np.nan),
        "order": theory.attrs.get("order", ""),
        "source": theory.attrs.get("source", ""),
    }
