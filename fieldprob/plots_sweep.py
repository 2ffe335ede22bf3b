"""The figure of a sweep: theory as lines, samples as points with error bars, one panel a statistic.

Panels of a scalar show its value. Panels of an array show how far the sampled mean is from each theory, relative to its
own size, above a grey band in which Monte Carlo error hides the difference.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from fieldprob.sweep import ROUNDING, average_seeds

__all__ = [
    "COLOURS", "LINES", "MARKERS", "STYLE", "chosen", "combinations", "panel_order", "plot_sweep", "scale_axis",
    "swept_axis",
]  # fmt: skip

# Okabe and Ito's colours, distinguishable by colour-blind readers; black is kept for the samples.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F", "#7A5195")
LINES: Any = ("-", "--", "-.", ":", (0, (9, 2)), (0, (4, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "errorbar.capsize": 2.0,
    "savefig.dpi": 160,
}


def plot_sweep(
    table: pd.DataFrame, parameters: Sequence[str], path: str | Path | None = None, title: str = ""
) -> Figure:
    """Draws the table of a sweep.

    Args:
        table: what `fieldprob.sweep.as_table` returns.
        parameters: the swept parameters, without `seed`. The first numeric one is the horizontal axis, the combinations
            of the others are colours.
        path: where to save the figure, if anywhere.
        title: above all panels.

    Returns:
        The matplotlib figure, to be changed at will.
    """
    axis, others = swept_axis(table, parameters)
    averaged = average_seeds(table.query("quantity in ('value', 'distance')"), list(parameters) or [axis])
    panels = _panels(averaged)
    with plt.rc_context(STYLE):
        columns = min(len(panels), 4 if len(panels) > 6 else 3)
        rows = -(-len(panels) // columns)
        figure, grid = plt.subplots(
            rows, columns, figsize=(3.1 * columns + 0.2, 2.55 * rows + 0.75), squeeze=False, layout="constrained"
        )
        groups = combinations(averaged, others)
        theories = [str(theory) for theory in averaged["theory"].unique() if theory]
        for index, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
            _draw(axes, averaged, panel, axis, others, groups, theories)
            if index >= len(panels) - columns:
                axes.set_xlabel(axis.replace("_", " "))
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        seeds = int(np.max(averaged["seeds"].to_numpy()))
        figure.legend(
            handles=_legend(groups, others, theories, {quantity for _, quantity in panels}, seeds),
            loc="outside lower center",
            ncols=4,
            columnspacing=1.6,
            handlelength=2.2,
        )
        if title:
            figure.suptitle(title, fontsize=10.5)
        if path is not None:
            figure.savefig(path)
    return figure


def swept_axis(table: pd.DataFrame, parameters: Sequence[str]) -> tuple[str, list[str]]:
    """The parameter of the horizontal axis (the first numeric one, else the first, else `seed`), and the rest."""
    numeric = [p for p in parameters if pd.api.types.is_numeric_dtype(table[p]) and table[p].dtype != bool]
    axis = (numeric or list(parameters) or ["seed"])[0]
    return axis, [p for p in parameters if p != axis]


def _panels(averaged: pd.DataFrame) -> list[tuple[str, str]]:
    panels = []
    for key, rows in averaged.groupby(["statistic", "quantity"], sort=False):
        statistic, quantity = key  # pyright: ignore[reportGeneralTypeIssues]
        distances = rows.loc[rows["theory"] != "", "value"]
        if quantity == "distance" and not (distances > ROUNDING).any():
            continue
        panels.append((str(statistic), str(quantity)))

    if not panels:
        raise ValueError("there is nothing to draw: no statistic is scalar and none is predicted")
    return sorted(panels, key=lambda panel: panel_order(panel[0]))


def panel_order(statistic: str) -> tuple[int, int, str]:
    """Sorts the panels of statistics: outputs first, then kernels and alignments layer by layer, then the rest."""
    order = (
        "f_test", "f", "discrepancy_test", "discrepancy", "test_loss", "train_loss", "kernel", "alignment",
        "alignment_parallel", "alignment_orthogonal",
    )  # fmt: skip
    stem = re.sub(r"_\d+$", "", statistic.removesuffix("_variance"))
    layer = re.search(r"_(\d+)$", statistic)
    return (order.index(stem) if stem in order else len(order), int(layer.group(1)) if layer else 0, statistic)


def combinations(averaged: pd.DataFrame, others: list[str]) -> list[tuple]:
    """The values that the parameters `others` take together; one empty combination where there are none."""
    return list(averaged[others].drop_duplicates().itertuples(index=False, name=None)) if others else [()]


def chosen(table: Any, parameters: Sequence[str], values: Sequence[Any]) -> Any:
    """The rows of a table in which the parameters have these values."""
    for name, value in zip(parameters, values, strict=True):
        table = table[table[name] == value]
    return table


def _draw(
    axes: Axes,
    averaged: pd.DataFrame,
    panel: tuple[str, str],
    axis: str,
    others: list[str],
    groups: list[tuple],
    theories: list[str],
) -> None:
    statistic, quantity = panel
    rows = averaged[(averaged["statistic"] == statistic) & (averaged["quantity"] == quantity)]
    position = scale_axis(axes, averaged[axis])
    for index, group in enumerate(groups):
        part = chosen(rows, others, group)
        shift = (index - (len(groups) - 1) / 2) * 0.012 if len(groups) > 1 else 0.0
        if quantity == "value":
            _draw_value(axes, part, axis, position, theories, index, len(groups), shift)
        else:
            _draw_distance(axes, part, axis, position, theories, index, len(groups))
    axes.set_title(statistic, loc="left")
    if quantity == "distance":
        axes.set_ylabel("|sampled − theory| / |sampled|", fontsize=8)
        axes.set_yscale("log")
        _scale_distances(axes)
    axes.grid(True, which="major", color="0.92", linewidth=0.7)
    axes.set_axisbelow(True)


def _draw_value(axes, part, axis, position, theories, index, count, shift) -> None:
    for number, theory in enumerate(theories):
        line = part[part["theory"] == theory].sort_values(axis, key=position)
        if line.empty:
            continue
        x, y = position(line[axis]), line["value"].to_numpy()
        colour = COLOURS[(index if count > 1 else number) % len(COLOURS)]
        style = LINES[number % len(LINES)]
        axes.plot(x, y, color=colour, linestyle=style, zorder=2, marker="_" if len(x) == 1 else None, markersize=14)
        if (line["error"] > 0).any():
            axes.fill_between(x, y - line["error"], y + line["error"], color=colour, alpha=0.15, linewidth=0, zorder=1)
    points = part[part["theory"] == ""].sort_values(axis, key=position)
    colour = "black" if count == 1 else COLOURS[index % len(COLOURS)]
    x = position(points[axis])
    x = x * 10**shift if axes.get_xscale() == "log" else x + shift * 10
    axes.errorbar(x, points["value"], yerr=points["error"], fmt="o", color=colour, zorder=3, markerfacecolor="white")


def _draw_distance(axes, part, axis, position, theories, index, count) -> None:
    floor = part[part["theory"] == ""].sort_values(axis, key=position)
    x = position(floor[axis])
    if count == 1:
        bottom = np.zeros(len(x))
        axes.fill_between(x, bottom, floor["value"], color="0.88", linewidth=0, zorder=0)
        axes.plot(x, floor["value"], color="0.6", linewidth=0.9, zorder=1, marker="_" if len(x) == 1 else None)
    else:
        axes.plot(
            x, floor["value"], color=COLOURS[index % len(COLOURS)], linewidth=0.8, linestyle=(0, (1, 2)), zorder=1
        )
    for number, theory in enumerate(theories):
        line = part[(part["theory"] == theory) & (part["value"] > 0)].sort_values(axis, key=position)
        if line.empty:
            continue
        colour = COLOURS[(index if count > 1 else number) % len(COLOURS)]
        value, error = line["value"].to_numpy(), line["error"].to_numpy()
        # on a logarithmic axis a bar must not reach zero
        bars = np.stack([np.minimum(error, 0.9 * value), error])
        axes.errorbar(
            position(line[axis]), value, yerr=bars, color=colour, fmt=MARKERS[number % len(MARKERS)],
            linestyle=LINES[number % len(LINES)], linewidth=1.0, zorder=3, markerfacecolor="white",
        )  # fmt: skip


def scale_axis(axes: Axes, column: Any):
    """Sets scale and ticks of the horizontal axis; returns the map from values to positions on it."""
    values = sorted(column.unique()) if pd.api.types.is_numeric_dtype(column) else list(dict.fromkeys(column))
    if not pd.api.types.is_numeric_dtype(column) or column.dtype == bool:
        axes.set_xticks(range(len(values)), [str(value) for value in values])
        axes.set_xlim(-0.5, len(values) - 0.5)
        return lambda series: series.map(values.index).to_numpy(dtype=float)
    if values[0] > 0 and values[-1] / values[0] >= 5:
        axes.set_xscale("log")
        axes.set_xlim(values[0] / 1.25, values[-1] * 1.25)
        shown = _spread(values)
        axes.xaxis.set_major_locator(FixedLocator(shown))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif len(values) <= 7:
        axes.set_xticks(values)
    return lambda series: series.to_numpy(dtype=float)


def _spread(values: list[Any]) -> list[Any]:
    """At most about six tick values, the first kept, none too close to the one before on a logarithmic axis."""
    least = max(np.log(values[-1] / values[0]) / 7, 1e-9)
    shown = [values[0]]
    for value in values[1:]:
        if np.log(value / shown[-1]) >= least:
            shown.append(value)
    return shown


def _scale_distances(axes: Axes) -> None:
    low, high = axes.get_ylim()
    drawn = [np.ravel(line.get_ydata()) for line in axes.get_lines()]
    values = np.concatenate([np.asarray(d, dtype=float) for d in drawn]) if drawn else np.array([])
    values = values[np.isfinite(values) & (values > ROUNDING)]
    if values.size:
        low, high = values.min() / 1.8, values.max() * 1.8
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 30 else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(groups, others, theories, quantities, seeds) -> list[Line2D]:
    many = len(groups) > 1
    handles = []
    if "value" in quantities:
        label = "sampled" if seeds == 1 else f"sampled, mean of {seeds} seeds"
        handles.append(Line2D([], [], color="black", marker="o", linestyle="", markerfacecolor="white", label=label))
    for number, theory in enumerate(theories):
        colour = "0.25" if many else COLOURS[number % len(COLOURS)]
        marker = MARKERS[number % len(MARKERS)] if "distance" in quantities else ""
        style = LINES[number % len(LINES)]
        handles.append(
            Line2D([], [], color=colour, linestyle=style, marker=marker, markerfacecolor="white", label=theory)
        )
    if "distance" in quantities:
        style = (0, (1, 2)) if many else "-"
        handles.append(Line2D([], [], color="0.6", linewidth=1.0, linestyle=style, label="Monte Carlo noise floor"))
    for index, group in enumerate(groups if many else []):
        label = ", ".join(f"{name.replace('_', ' ')} = {value}" for name, value in zip(others, group, strict=True))
        handles.append(Line2D([], [], color=COLOURS[index % len(COLOURS)], linewidth=4, label=label))
    return handles
