"""Figures. A plot takes numbers already computed, returns a matplotlib Figure and changes no global setting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fieldprob.compare import Comparison

# Okabe and Ito's colours, told apart by colour-blind readers, and a marker each so that print works too
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_COLUMNS = 3
_LINES = ("-", "--", "-.", ":")
_ABSCISSAE = ("points", "time")  # dimensions along which a statistic is a curve
_CURVES = 5  # of one statistic in one panel


def comparison(comparison: Comparison) -> Figure:
    """Sampled against predicted: a panel per statistic and moment, one colour and marker per theory.

    Error bars are two combined standard errors of the sample and the prediction; the grey line is where both agree. The
    scalars share one panel that shows sampled minus predicted relative to the sampled value.
    """
    from matplotlib.figure import Figure

    numbers: Any = comparison.to_dataframe()
    theories = list(comparison.theories.index)
    groups = dict(tuple(numbers.groupby(["statistic", "moment"], sort=False)))
    scalars = [key for key, part in groups.items() if part["index"].nunique() == 1]
    panels: list[Any] = [key for key in groups if key not in scalars]
    if scalars:
        panels.append(None)
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.3 * columns + 0.2, 3.1 * rows + 0.5), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    for ax, key in zip(axes, panels, strict=False):
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(which="both", labelsize=8)
        if key is None:
            _strip(ax, {k: groups[k] for k in scalars}, theories)
        else:
            draw = _panel if _abscissa(groups[key]) is None else _curve
            draw(ax, groups[key], theories)
            ax.set_title(_name(key), fontsize=9)
    curves = all(key is not None and _abscissa(groups[key]) for key in panels)
    handles = [
        axes[0].errorbar(
            [], [], [], color=c, marker="" if curves else m, linestyle=_LINES[k % len(_LINES)] if curves else "none",
            markersize=5, label=_legend(comparison, t),
        )
        for k, (t, c, m) in enumerate(_styles(theories))
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(theories), 3), frameon=False, fontsize=9)
    return figure


def _styles(theories: list[str]) -> list[tuple[str, str, str]]:
    return [(t, _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]) for i, t in enumerate(theories)]


def _legend(comparison: Comparison, theory: str) -> str:
    return f"{theory} ({comparison.verdicts[theory]})"


def _name(key: tuple[str, str]) -> str:
    statistic, moment = key
    return f"{statistic}, {moment}"


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
    ax.set_xlabel("predicted", fontsize=8)
    ax.set_ylabel("sampled", fontsize=8)


def _abscissa(part: Any) -> str | None:
    """The dimension along which the statistic is a curve, None where it is none."""
    first = str(part["index"].iloc[0]).split("=")[0]
    return first if first in _ABSCISSAE else None


def _curve(ax: Axes, part: Any, theories: list[str]) -> None:
    """A statistic along the number of points or time: sampled with error bars, each theory a line."""
    labels = part["index"].astype(str).str.split(", ", n=1, expand=True)
    part = part.assign(
        along=labels[0].str.split("=").str[1].astype(float), curve=labels[1] if labels.shape[1] > 1 else ""
    )
    size = part["sampled"].abs().groupby(part["curve"], sort=False).max()
    largest = set(size.nlargest(_CURVES).index)
    curves = [curve for curve in size.index if curve in largest]
    for curve in curves:
        own = part[part["curve"] == curve]
        one = own.drop_duplicates("along")
        ax.errorbar(
            one["along"], one["sampled"], 2 * one["mcse"], color="0.35", marker="o", linestyle="none", markersize=3.5,
            elinewidth=0.8, zorder=3,
        )  # fmt: skip
        for k, (theory, colour, _) in enumerate(_styles(theories)):
            line = own[own["theory"] == theory]
            ax.plot(line["along"], line["predicted"], color=colour, linewidth=1.4, linestyle=_LINES[k % len(_LINES)])
        if len(curves) > 1 and len(one):
            end = one.iloc[-1]
            ax.annotate(
                f" {curve.split('=')[-1]}", (end["along"], end["sampled"]), fontsize=6.5, color="0.35", va="center"
            )
    if (part["along"] > 0).all() and part["along"].max() > 8 * part["along"].min():
        ax.set_xscale("log")
    shown = part[["sampled", "predicted"]].to_numpy()
    if len(curves) == 1 and (shown > 0).all() and shown.max() > 8 * shown.min():
        ax.set_yscale("log")
    ax.set_box_aspect(1)
    ax.set_xlabel(str(_abscissa(part)), fontsize=8)
    others = curves[0].split("=")[0]
    ax.set_ylabel(f"sampled, mean ± 2 errors{f' ({others} labelled)' if others else ''}", fontsize=8)


def _strip(ax: Axes, scalars: dict[Any, Any], theories: list[str]) -> None:
    """The scalars, one a line: relative difference of every theory from the sampled value."""
    ax.axvline(0, color="0.6", linewidth=1, zorder=0)
    offsets = (np.arange(len(theories)) - (len(theories) - 1) / 2) * 0.22
    for line, part in enumerate(scalars.values()):
        for (theory, colour, marker), offset in zip(_styles(theories), offsets, strict=True):
            own = part[part["theory"] == theory]
            scale = own["sampled"].abs().to_numpy()
            x = (own["sampled"] - own["predicted"]).to_numpy() / scale * 100
            y = np.full(len(own), line + offset)
            ax.errorbar(
                x,
                y,
                xerr=_two_errors(own) / scale * 100,
                color=colour,
                marker=marker,
                linestyle="none",
                markersize=4.5,
                elinewidth=0.8,
                markeredgewidth=0,
            )
    ax.set_yticks(range(len(scalars)), [_name(key) for key in scalars], fontsize=8)
    ax.set_ylim(len(scalars) - 0.5, -0.5)
    ax.set_box_aspect(1)
    ax.margins(x=0.15)
    ax.set_xlabel("(sampled − predicted) / sampled  [%]", fontsize=8)
    ax.set_title("scalars", fontsize=9)
