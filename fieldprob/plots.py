"""Figures. A plot takes numbers already computed, returns a matplotlib Figure and changes no global setting."""

from __future__ import annotations

import re
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fieldprob.compare import Comparison

# Okabe and Ito's colours, told apart by colour-blind readers, and a marker each so that print works too
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
_MARKERS = "osD^vPXp"
_COLUMNS = 3
_LINES = ("-", "--", "-.", ":")
_ABSCISSAE = ("points", "time")  # dimensions along which a statistic is a curve
_CURVES = 5  # of one statistic in one panel
_NEGLIGIBLE = 0.01  # of the largest curve of every panel: not drawn
_TITLE, _LABEL = 11, 10
_SAMPLED: Any = {
    "color": "0.35", "marker": "o", "linestyle": "none", "markersize": 3.5, "elinewidth": 0.8, "zorder": 3,
}  # fmt: skip


def comparison(comparison: Comparison) -> Figure:
    """Sampled against predicted: a panel per statistic and moment, one colour and marker per theory.

    Error bars are two combined standard errors of the sample and the prediction; the grey line is where both agree. The
    scalars share one panel that shows sampled minus predicted relative to the sampled value. A statistic along the
    number of points or time is drawn as curves, theories as lines; a theory far from the samples leaves the panel.
    """
    from matplotlib.figure import Figure

    numbers: Any = comparison.to_dataframe()
    theories = list(comparison.theories.index)
    groups = dict(tuple(numbers.groupby(["statistic", "moment"], sort=False)))
    scalars = [key for key, part in groups.items() if part["index"].nunique() == 1]
    panels: list[Any] = [key for key in groups if key not in scalars]
    curves = _curves({key: groups[key] for key in panels if _abscissa(groups[key])})
    logarithmic = {_family(key) for key, part in curves.items() if _spans_a_decade(key, part)}
    if scalars:
        panels.append(None)
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width = 3.4 * columns + 0.2
    figure = Figure(figsize=(width, 3.0 * rows + 0.5), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    for ax, key in zip(axes, panels, strict=False):
        ax.spines[["top", "right"]].set_visible(False)
        if key is None:
            _strip(ax, {k: groups[k] for k in scalars}, theories)
        elif key in curves:
            _curve(ax, key, curves[key], theories, _family(key) in logarithmic)
        else:
            _panel(ax, groups[key], theories)
        ax.tick_params(which="both", labelsize=_LABEL - 1)
        ax.set_title("scalars" if key is None else _name(key), fontsize=_TITLE)
    only = len(curves) == len(panels)
    handles: list[Any] = [
        axes[0].plot(
            [], [], color=c, marker="" if only else m, linestyle=_LINES[k % len(_LINES)] if curves else "none",
            markersize=5, label=_legend(comparison, t),
        )[0]
        for k, (t, c, m) in enumerate(_styles(theories))
    ]  # fmt: skip
    if curves:
        handles.insert(0, axes[0].errorbar([], [], [], label="sampled ± 2 standard errors", **_SAMPLED))
    fitting = max(int(width / 2.5), 1)
    figure.legend(
        handles=handles, loc="outside upper center", ncols=min(len(handles), fitting), frameon=False, fontsize=_LABEL
    )
    return figure


def _styles(theories: list[str]) -> list[tuple[str, str, str]]:
    return [(t, _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]) for i, t in enumerate(theories)]


def _legend(comparison: Comparison, theory: str) -> str:
    return f"{theory} ({comparison.verdicts[theory]})"


def _name(key: tuple[str, str]) -> str:
    statistic, moment = key
    return f"{_words(statistic)}, {moment}"


def _words(name: str) -> str:
    return name.rstrip("_").replace("train_", "training_").replace("_", " ")


def _two_errors(part: Any) -> np.ndarray:
    return 2 * np.hypot(part["mcse"].to_numpy(), part["prediction_error"].to_numpy())


def _panel(ax: Axes, part: Any, theories: list[str]) -> None:
    """One statistic: predicted along x, sampled along y."""
    errors = np.nan_to_num(_two_errors(part))  # a few draws have no error, and perhaps no variance
    values = np.concatenate([part["predicted"], part["sampled"] - errors, part["sampled"] + errors])
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    ends = (low - margin, high + margin)
    ax.plot(ends, ends, color="0.6", linewidth=1, zorder=0)
    size = len(part) // part["theory"].nunique()
    few = size < 60
    for theory, colour, marker in _styles(theories):
        own = part[part["theory"] == theory]
        ax.errorbar(
            own["predicted"],
            own["sampled"],
            _two_errors(own),
            color=colour,
            marker=marker,
            linestyle="none",
            markersize=4.5 if few else 3,
            elinewidth=0.8,
            alpha=0.85 if few else 0.5,
            markeredgewidth=0,
            rasterized=size > 2000,
        )
    ax.set_xlim(ends)
    ax.set_ylim(ends)
    ax.set_box_aspect(1)
    ax.locator_params(nbins=5)
    ax.set_xlabel("predicted", fontsize=_LABEL)
    ax.set_ylabel("sampled", fontsize=_LABEL)


def _abscissa(part: Any) -> str | None:
    """The dimension along which the statistic is a curve, None where it is none."""
    first = str(part["index"].iloc[0]).split("=")[0]
    return first if first in _ABSCISSAE else None


def _family(key: tuple[str, str]) -> tuple[str, str]:
    """Statistics of one kind, such as all errors, have the same kind of axis."""
    return key[0].split("_")[-1], key[1]


def _curves(groups: dict[Any, Any]) -> dict[Any, Any]:
    """The tables with columns `along` and `curve`, and with the same curves in every panel: the largest ones."""
    sizes: dict[str, dict[str, float]] = {}  # by the names of the dimensions, relative to the largest of the panel
    for key, part in groups.items():
        labels = part["index"].astype(str).str.split(", ", n=1, expand=True)
        along = labels[0].str.split("=").str[1].astype(float)
        part = groups[key] = part.assign(along=along, curve=labels[1] if labels.shape[1] > 1 else "")
        size = part["sampled"].abs().groupby(part["curve"], sort=False).max()
        for curve, relative in (size / size.max()).fillna(1.0).items():
            own = sizes.setdefault(re.sub("=[^,]*", "", curve), {})
            own[curve] = max(own.get(curve, 0.0), relative)
    shown = {
        curve
        for own in sizes.values()
        for curve in sorted(own, key=own.__getitem__, reverse=True)[:_CURVES]
        if own[curve] >= _NEGLIGIBLE
    }
    return {key: part[part["curve"].isin(shown)] for key, part in groups.items()}


def _spans_a_decade(key: tuple[str, str], part: Any) -> bool:
    sampled = part["sampled"]
    one = part["curve"].nunique() == 1 or key[1] == "variance"
    return bool(one and (sampled > 0).all() and sampled.max() > 8 * sampled.min())


def _curve(ax: Axes, key: tuple[str, str], part: Any, theories: list[str], logarithmic: bool) -> None:
    """A statistic along the number of points or time: sampled with error bars, each theory a line."""
    ends = {}
    for curve, own in part.groupby("curve", sort=False):
        one = own.drop_duplicates("along")
        ax.errorbar(one["along"], one["sampled"], 2 * one["mcse"], **_SAMPLED)
        for k, (theory, colour, _) in enumerate(_styles(theories)):
            line = own[own["theory"] == theory]
            ax.plot(line["along"], line["predicted"], color=colour, linewidth=1.4, linestyle=_LINES[k % len(_LINES)])
        ends[curve] = one["sampled"].iloc[-1]
    along = part["along"]
    if (along > 0).all() and along.max() > 8 * along.min():
        _logarithmic(ax, "x", along.min(), along.max())
    logarithmic = logarithmic and bool((part["sampled"] > 0).all())
    low, high = _limits(part, logarithmic)
    if logarithmic:
        _logarithmic(ax, "y", low, high)
    ax.set_ylim(low, high)
    if len(ends) > 1:
        _label(ax, ends)
    statistic, moment = key
    ax.set_xlabel(_words(str(_abscissa(part))), fontsize=_LABEL)
    ax.set_ylabel(f"{'variance of ' if moment == 'variance' else ''}{_words(statistic)}", fontsize=_LABEL)


def _limits(part: Any, logarithmic: bool) -> tuple[float, float]:
    """The samples with their errors, and those predictions that are no farther from them than the samples are large."""
    sampled, errors = part["sampled"].to_numpy(), np.nan_to_num(2 * part["mcse"].to_numpy())
    predicted = part["predicted"].to_numpy()
    low, high = sampled - errors, sampled + errors
    if logarithmic:
        low, high = np.log10(np.maximum(low, sampled / 2)), np.log10(high)
        predicted = np.log10(predicted[predicted > 0])
        room = max(1.0, np.ptp(np.log10(sampled)))
    else:
        room = np.abs(sampled).max()
    near = predicted[(predicted > low.min() - room) & (predicted < high.max() + room)]
    bottom, top = min([low.min(), *near]), max([high.max(), *near])
    margin = 0.06 * (top - bottom) or 0.06 * abs(top) or 1.0
    ends = (float(bottom - margin), float(top + margin))
    return (10 ** ends[0], 10 ** ends[1]) if logarithmic else ends


def _logarithmic(ax: Axes, which: Literal["x", "y"], low: float, high: float) -> None:
    """Plain numbers on an axis of less than two decades, powers of ten on a longer one."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ax.set(**{f"{which}scale": "log"})
    if high < 100 * low:
        axis = getattr(ax, f"{which}axis")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def _label(ax: Axes, ends: dict[str, float]) -> None:
    """The name of every curve at its right end, one below the other where they end at the same height."""
    names = [curve.split(", ") for curve in ends]
    varying = [d for d in range(len(names[0])) if len({name[d] for name in names}) > 1]
    heights = ax.transAxes.inverted().transform(ax.transData.transform([(1, y) for y in ends.values()]))[:, 1]
    order, step = np.argsort(heights), 0.07 * np.arange(len(ends))
    rising = heights[order] - step
    above, below = np.maximum.accumulate(rising), np.minimum.accumulate(rising[::-1])[::-1]
    for place, y in zip(order, (above + below) / 2 + step, strict=True):
        text = ", ".join(_words(names[place][d]).replace("=", " ") for d in varying)
        ax.text(1.02, y, text, transform=ax.transAxes, fontsize=_LABEL - 1, color="0.35", va="center")


def _strip(ax: Axes, scalars: dict[Any, Any], theories: list[str]) -> None:
    """The scalars, one a line: relative difference of every theory from the sampled value."""
    ax.axvline(0, color="0.6", linewidth=1, zorder=0)
    for line, part in enumerate(scalars.values()):
        present = [style for style in _styles(theories) if style[0] in set(part["theory"])]
        step = 0.66 / max(len(present) - 1, 3)
        for k, (theory, colour, marker) in enumerate(present):
            own = part[part["theory"] == theory]
            scale = own["sampled"].abs().to_numpy()
            ax.errorbar(
                (own["sampled"] - own["predicted"]).to_numpy() / scale * 100,
                np.full(len(own), line + (k - (len(present) - 1) / 2) * step),
                xerr=_two_errors(own) / scale * 100,
                color=colour,
                marker=marker,
                linestyle="none",
                markersize=4.5,
                elinewidth=0.8,
                markeredgewidth=0,
            )
    for between in range(1, len(scalars)):
        ax.axhline(between - 0.5, color="0.9", linewidth=0.8, zorder=0)
    lines = 12 if len(scalars) <= 6 else 24  # characters of a label's line: one line where there is no room for two
    ax.set_yticks(range(len(scalars)), [fill(_name(key).removesuffix(", mean"), lines) for key in scalars])
    ax.set_ylim(len(scalars) - 0.45, -0.55)
    ax.set_box_aspect(1)
    ax.margins(x=0.15)
    ax.set_xlabel("(sampled − predicted) / sampled  [%]", fontsize=_LABEL)
