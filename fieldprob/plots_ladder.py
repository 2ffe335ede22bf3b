"""The ladder of theories: the error of each against an exact one, along a sweep, one panel a statistic.

The errors are those of `fieldprob.sweep.theory_errors`. Colours and markers are theories, as in the figure of the
sweep; line styles are the parameters beside that of the horizontal axis.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from fieldprob.plots_sweep import (
    LINES,
    STYLE,
    chosen,
    combinations,
    legend_below,
    name_of,
    panel_order,
    scale_axis,
    style,
    swept_axis,
)
from fieldprob.sweep import ROUNDING, average_seeds, slopes

__all__ = ["plot_ladder"]

_ENTRIES = 14  # slopes below each other beside a panel


def plot_ladder(
    table: pd.DataFrame, parameters: Sequence[str], path: str | Path | None = None, title: str = ""
) -> Figure:
    """Draws the errors of theories against an exact one, with the fitted log-log slope of each line.

    Args:
        table: what `fieldprob.sweep.as_table` returns, with rows of the quantity "error".
        parameters: the swept parameters, without `seed`, as for `plot_sweep`.
        path: where to save the figure, if anywhere.
        title: above all panels.

    Returns:
        The matplotlib figure, to be changed at will.

    Raises:
        ValueError: no theory has an error, because none is exact or because all agree with it.
    """
    axis, others = swept_axis(table, parameters)
    averaged = average_seeds(table, list(parameters) or [axis])
    theories = [theory for theory in table["theory"].unique() if theory]
    errors = averaged.query(f"quantity == 'error' and value > {ROUNDING}")
    if errors.empty:
        raise ValueError("there is no error to draw: give a study one exact theory, Prediction(exact=True), and others")
    groups = combinations(errors, others)
    fitted = slopes(averaged, axis, others)
    statistics = sorted(set(errors["statistic"]), key=panel_order)
    columns = min(len(statistics), 3)
    rows = -(-len(statistics) // columns)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            rows, columns, figsize=(3.9 * columns + 0.2, 2.7 * rows + 0.9), squeeze=False, layout="constrained"
        )
        for index, (axes, statistic) in enumerate(zip(grid.flat, statistics, strict=False)):
            position = scale_axis(axes, averaged[axis])
            part = chosen(errors, ["statistic"], [statistic])
            lines = _draw(axes, part, axis, position, others, groups, theories)
            keys = {key: (*key[0], statistic, key[1]) for key in lines}
            _beside(axes, [(line, fitted[keys[key]]) for key, line in lines.items() if keys[key] in fitted])
            axes.set_title(statistic, loc="left")
            if index % columns == 0:
                axes.set_ylabel("|theory − exact| / |exact|", fontsize=8)
            if index >= len(statistics) - columns:
                axes.set_xlabel(axis.replace("_", " "))
        for axes in grid.flat[len(statistics) :]:
            axes.set_axis_off()
        drawn = set(errors["theory"])
        handles = [
            Line2D([], [], label=theory, **style(number, 0))
            for number, theory in enumerate(theories)
            if theory in drawn
        ]
        for index, group in enumerate(groups if others else []):
            look = LINES[index % len(LINES)]
            handles.append(Line2D([], [], color="0.25", linestyle=look, label=name_of(others, group)))
        legend_below(figure, handles)
        if title:
            figure.suptitle(title, fontsize=10.5)
        if path is not None:
            figure.savefig(path)
    return figure


def _draw(axes: Axes, errors: pd.DataFrame, axis, position, others, groups, theories) -> dict[tuple, Line2D]:
    """The line of each combination of the other parameters and theory."""
    lines = {}
    for index, group in enumerate(groups):
        part = chosen(errors, others, group)
        for number, theory in enumerate(theories):
            line = part[part["theory"] == theory].sort_values(axis, key=position)
            if line.empty:
                continue
            drawn = axes.errorbar(
                position(line[axis]), line["value"], yerr=np.minimum(line["error"], 0.9 * line["value"]),
                linewidth=1.1, **style(number, index),
            )  # fmt: skip
            lines[group, theory] = drawn.lines[0]
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    axes.grid(True, which="major", color="0.92", linewidth=0.7)
    axes.set_axisbelow(True)
    return lines


def _beside(axes: Axes, slopes: list[tuple[Line2D, float]]) -> None:
    """The slopes on the right of a panel, of lines that are power laws, from the highest line to the lowest."""
    ordered = sorted(slopes, key=lambda entry: -np.asarray(entry[0].get_ydata(), dtype=float)[-1])
    if ordered:
        axes.legend(
            [line for line, _ in ordered], [f"{slope:z.2f}" for _, slope in ordered], title="slope",
            loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=-(-len(ordered) // _ENTRIES), fontsize=6.5,
            title_fontsize=7, handlelength=2.0, labelspacing=0.3, borderaxespad=0.2, columnspacing=0.8,
        )  # fmt: skip
