"""The figure of a sweep: theory as lines, samples as points with error bars, one panel a statistic.

Panels of a scalar show its value. Panels of an array show how far the sampled mean is from each theory, relative to its
own size, above a grey band in which Monte Carlo error hides the difference. Colours are theories, and the other
parameters line styles and filled or open markers; the other way round where there are fewer theories than combinations.
"""

import re
from collections.abc import Mapping, Sequence
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
    "COLOURS", "LINES", "MARKERS", "STYLE", "chosen", "combinations", "legend_below", "name_of", "panel_order",
    "plot_sweep", "scale_axis", "style", "swept_axis",
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
    table: pd.DataFrame,
    parameters: Sequence[str],
    path: str | Path | None = None,
    title: str = "",
    marks: Mapping[str, float] | None = None,
) -> Figure:
    """Draws the table of a sweep.

    Args:
        table: what `fieldprob.sweep.as_table` returns.
        parameters: the swept parameters, without `seed`. The first numeric one is the horizontal axis.
        path: where to save the figure, if anywhere.
        title: above all panels.
        marks: values on the horizontal axis at which a vertical line is drawn, by label.

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
        theories = [str(theory) for theory in table["theory"].unique() if theory]
        for index, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
            _draw(axes, averaged, panel, axis, others, groups, theories)
            for mark, value in enumerate((marks or {}).values()):
                axes.axvline(value, **_mark_style(mark))
            if index >= len(panels) - columns:
                axes.set_xlabel(axis.replace("_", " "))
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        handles = _legend(averaged, groups, others, theories, {quantity for _, quantity in panels})
        handles += [Line2D([], [], label=label, **_mark_style(mark)) for mark, label in enumerate(marks or {})]
        legend_below(figure, handles)
        if title:
            figure.suptitle(title, fontsize=10.5)
        if path is not None:
            figure.savefig(path)
    return figure


def legend_below(figure: Figure, handles: Sequence[Line2D]) -> None:
    """A legend below all panels, in as many columns as the figure is wide."""
    for columns in range(min(4, len(handles)), 0, -1):
        legend = figure.legend(
            handles=handles, loc="outside lower center", ncols=columns, columnspacing=1.6, handlelength=2.3
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


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
        "f_test", "f", "discrepancy_test", "discrepancy", "test_loss", "train_loss", "kernel", "kernel_shift",
        "alignment", "alignment_gain", "alignment_parallel", "alignment_orthogonal",
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
    draw = _draw_value if quantity == "value" else _draw_distance
    for index, group in enumerate(groups):
        draw(axes, chosen(rows, others, group), axis, position, theories, index, len(groups))
    axes.set_title(statistic, loc="left")
    if quantity == "distance":
        axes.set_ylabel("|sampled − theory| / |sampled|", fontsize=8)
        axes.set_yscale("log")
        _scale_distances(axes)
    axes.grid(True, which="major", color="0.92", linewidth=0.7)
    axes.set_axisbelow(True)


def style(number: int, index: int) -> dict[str, Any]:
    """Of a theory by its number, and a combination of the other parameters by its index."""
    colour = COLOURS[number % len(COLOURS)]
    face = "white" if index else colour
    return {
        "color": colour, "marker": MARKERS[number % len(MARKERS)], "linestyle": LINES[index % len(LINES)],
        "markerfacecolor": face,
    }  # fmt: skip


def _mark_style(mark: int) -> dict[str, Any]:
    return {"color": "0.35", "linewidth": 0.9, "linestyle": LINES[(mark + 1) % len(LINES)], "zorder": 0}


def _theory_style(number: int, index: int, theories: int, groups: int) -> dict[str, Any]:
    """As `style`; beside more combinations than theories colours are combinations, and lines theories."""
    found = style(number, index)
    if groups == 1 or theories < groups:
        found["linestyle"] = LINES[number % len(LINES)]
    return found if theories >= groups else found | {"color": _colour(index), "markerfacecolor": "white"}


def _sampled_style(index: int, theories: int, groups: int) -> dict[str, Any]:
    colour = "black" if theories >= groups else _colour(index)
    return {"color": colour, "markerfacecolor": colour if theories >= groups and not index else "white"}


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _draw_value(axes, part, axis, position, theories, index, count) -> None:
    for number, theory in enumerate(theories):
        line = part[part["theory"] == theory].sort_values(axis, key=position)
        if line.empty:
            continue
        x, y = position(line[axis]), line["value"].to_numpy()
        look = _theory_style(number, index, len(theories), count)
        width = 1.4 + 1.5 * (1 - (number + 1) / len(theories))  # so that lines in the same place are all seen
        look |= {"marker": "_" if len(x) == 1 else None, "markersize": 14, "linewidth": width}
        axes.plot(x, y, zorder=2, **look)
        if (line["error"] > 0).any():
            low, high = y - line["error"], y + line["error"]
            axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0, zorder=1)
    points = part[part["theory"] == ""].sort_values(axis, key=position)
    x, shift = position(points[axis]), (index - (count - 1) / 2) * 0.012
    x = x * 10**shift if axes.get_xscale() == "log" else x + shift * 10
    look = _sampled_style(index, len(theories), count)
    axes.errorbar(x, points["value"], yerr=points["error"], fmt="o", zorder=3, **look)


def _draw_distance(axes, part, axis, position, theories, index, count) -> None:
    floor = part[part["theory"] == ""].sort_values(axis, key=position)
    x = position(floor[axis])
    if count == 1:
        axes.fill_between(x, np.zeros(len(x)), floor["value"], color="0.88", linewidth=0, zorder=0)
    look = _floor_style(index, len(theories), count)
    axes.plot(x, floor["value"], linewidth=0.9, zorder=1, marker="_" if len(x) == 1 else None, **look)
    for number, theory in enumerate(theories):
        line = part[(part["theory"] == theory) & (part["value"] > 0)].sort_values(axis, key=position)
        if line.empty:
            continue
        value, error = line["value"].to_numpy(), line["error"].to_numpy()
        # on a logarithmic axis a bar must not reach zero
        bars = np.stack([np.minimum(error, 0.9 * value), error])
        look = _theory_style(number, index, len(theories), count)
        axes.errorbar(position(line[axis]), value, yerr=bars, linewidth=1.0, zorder=3, **look)


def _floor_style(index: int, theories: int, groups: int) -> dict[str, Any]:
    if theories < groups:
        return {"color": _colour(index), "linestyle": (0, (1, 2))}
    return {"color": "0.6", "linestyle": LINES[index % len(LINES)]}


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
    else:
        margin = 0.06 * (values[-1] - values[0]) or 0.06 * abs(values[0]) or 1.0
        axes.set_xlim(values[0] - margin, values[-1] + margin)
        if len(values) <= 7:
            axes.set_xticks(values, [f"{value:g}" for value in values])
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


def _legend(averaged, groups, others, theories, quantities) -> list[Line2D]:
    several, by_theory = len(groups) > 1, len(theories) >= len(groups)
    seeds = int(np.max(averaged["seeds"].to_numpy()))
    handles = []
    if "value" in quantities:
        label = "sampled" if seeds == 1 else f"sampled, mean of {seeds} seeds"
        face = "black" if by_theory else "white"
        handles.append(Line2D([], [], color="black", marker="o", linestyle="", markerfacecolor=face, label=label))
    for number, theory in enumerate(theories):
        if theory not in set(averaged["theory"]):
            continue
        look = _theory_style(number, 0, len(theories), len(groups))
        look |= {} if by_theory else {"color": "0.25"}
        look |= {} if "distance" in quantities else {"marker": ""}
        handles.append(Line2D([], [], label=theory, **look))
    if "distance" in quantities:
        look = _floor_style(0, len(theories), len(groups)) | {"color": "0.6", "linewidth": 1.0}
        handles.append(Line2D([], [], label="Monte Carlo noise floor", **look))
    for index, group in enumerate(groups if several else []):
        look = _sampled_style(index, len(theories), len(groups))
        look |= {"linestyle": LINES[index % len(LINES)], "marker": "o"} if by_theory else {"linewidth": 4}
        handles.append(Line2D([], [], label=name_of(others, group), **look))
    return handles


def name_of(parameters: Sequence[str], values: Sequence[Any]) -> str:
    """A combination of parameters in a legend."""
    return ", ".join(f"{name.replace('_', ' ')} = {value}" for name, value in zip(parameters, values, strict=True))
