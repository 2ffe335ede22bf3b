"""`Comparison`: what `compare` returns. One table of numbers, and the ways to read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fieldprob.compare import text
from fieldprob.compare.sampled import root_mean_square
from fieldprob.compare.verdict import DIFFERS, worst

if TYPE_CHECKING:
    from os import PathLike

    from matplotlib.figure import Figure
    from rich.table import Table


@dataclass(frozen=True, repr=False)
class Comparison:
    """Sampled against predicted, number by number; prints itself as a table.

    Attributes:
        numbers: the table that `to_dataframe` returns.
        theories: one row a theory: verdict, compared, differing, unconverged, log_evidence, order, source.
        false_alarm: probability with which a theory that is exact is said to differ, at most.
        minimum_ess, maximum_rhat: what counts as converged.
        sample_size: sizes of the sample dimensions, e.g. {"chain": 4, "draw": 1000}.
    """

    numbers: pd.DataFrame
    theories: pd.DataFrame
    false_alarm: float
    minimum_ess: float
    maximum_rhat: float
    sample_size: dict[str, int] = field(default_factory=dict)

    @property
    def verdicts(self) -> dict[str, str]:
        """'agrees', 'differs' or 'not converged' for every theory ('not compared' if it gives the evidence alone)."""
        return {str(theory): str(verdict) for theory, verdict in self.theories["verdict"].items()}

    def to_dataframe(self) -> pd.DataFrame:
        """Every number that was compared, one a row.

        Columns: theory, statistic, moment ("mean" or "variance"), index (the coordinates, as text), kind ("value",
        "lower", "upper"), sampled, mcse, predicted, prediction_error, z (difference over combined error), p_value (of
        Student's t after the correction for skewness), relative_error (|difference| over the root mean square of the
        sampled moment over the entries of the statistic), rhat, ess_bulk, ess (the smaller of those for bulk and mean,
        at most the number of draws), verdict. A number that is the same in every draw has no diagnostics (NaN): it is
        judged by its difference, with a tolerance of 1e-6 (1e-4 if it was sampled in float32) relative to the number
        itself, or to √(K_ii K_jj) in a symmetric matrix K.
        """
        return self.numbers.copy()

    def summary(self) -> pd.DataFrame:
        """One row a theory, statistic and moment.

        sampled and predicted are root mean squares over the entries (the value itself for a scalar), as are mcse,
        relative_error and noise_floor, the relative error that the Monte Carlo error alone would give.
        """
        rows = []
        keys: Any
        part: Any
        for keys, part in self.numbers.groupby(["theory", "statistic", "moment"], sort=False):
            single = len(part) == 1
            scale = root_mean_square(part["sampled"])
            row = {
                "theory": keys[0],
                "statistic": keys[1],
                "moment": keys[2],
                "kind": part["kind"].iloc[0],
                "numbers": len(part),
                "sampled": part["sampled"].iloc[0] if single else scale,
                "mcse": root_mean_square(part["mcse"]),
                "predicted": part["predicted"].iloc[0] if single else root_mean_square(part["predicted"]),
                "relative_error": root_mean_square(part["relative_error"]),
                "noise_floor": root_mean_square(part["mcse"]) / scale if scale else np.nan,
                "max_abs_z": part["z"].abs().max(),
                "min_p_value": part["p_value"].min(),
                "differing": int((part["verdict"] == DIFFERS).sum()),
                "ess_min": part["ess"].min(),
                "rhat_max": part["rhat"].max(),
                "verdict": worst(part["verdict"]),
            }
            rows.append(row)
        return pd.DataFrame(rows)

    def ranking(self) -> pd.DataFrame:
        """Theories by closeness to the samples: root mean square of the relative errors of the statistics all predict.

        Every statistic and moment counts once, however many entries it has; bounds do not count. A relative error at or
        below `noise_floor`, the value that Monte Carlo error alone gives, cannot tell theories apart.

        Columns: relative_error, noise_floor, statistics (how many were common), verdict; index theory, best first.
        """
        rows: Any = self.summary()
        rows = rows[rows["kind"] == "value"]
        theories = rows.groupby(["statistic", "moment"])["theory"].transform("nunique")
        common = rows[theories == rows["theory"].nunique()].groupby("theory")
        ranked: Any = common.agg(
            relative_error=("relative_error", root_mean_square),
            noise_floor=("noise_floor", root_mean_square),
            statistics=("theory", "size"),
        ).reindex(self.theories.index)
        ranked["statistics"] = ranked["statistics"].fillna(0).astype(int)
        ranked["verdict"] = self.theories["verdict"]
        return ranked.sort_values("relative_error", kind="stable")

    def __repr__(self) -> str:
        return text.plain(self)

    def rich(self) -> Table:
        """The table as a `rich.table.Table`."""
        return text.rich(self)

    def plot(self, path: str | PathLike[str] | None = None) -> Figure:
        """Figure of sampled against predicted, written to `path` if one is given."""
        from fieldprob.plots import comparison

        figure = comparison(self)
        if path is not None:
            figure.savefig(path, dpi=200, bbox_inches="tight")
        return figure
