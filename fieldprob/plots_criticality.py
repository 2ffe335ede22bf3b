"""The phase diagram of deep networks: fixed point, correlations and depth scale, with the edge of chaos.

It takes numbers already computed (`fieldprob.kernels.phase_diagram`) and returns a matplotlib Figure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fieldprob.kernels import PhaseDiagram

_UNDEFINED = "0.85"
_WIDE = 100  # ratio of the largest to the smallest values beyond which colours are logarithmic


def phase_diagram(diagram: PhaseDiagram) -> Figure:
    """Three maps over (weight variance, bias variance): q*, c* and the depth scale of correlations.

    The white line (or point) is the edge of chaos; grey is where the variance grows without bound or, for c* and the
    depth, where signals vanish. The depth is drawn on a logarithmic scale between its 1st and 99th percentile, and so
    is q* where these are more than two decades apart.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.patheffects import withStroke

    grid = diagram.grid
    w, b = np.asarray(grid.weight_variance)[:, 0], np.asarray(grid.bias_variance)[0]
    q, c, depth = (np.asarray(x, float) for x in (grid.variance, grid.correlation, grid.correlation_depth))
    low, high = _percentiles(q)
    panels = (
        ("variance at the fixed point, $q^*$", np.where(np.isinf(q), np.nan, q), "viridis", high > _WIDE * low),
        ("correlation at the fixed point, $c^*$", c, "viridis", False),
        ("depth scale of correlations, in layers", depth, "magma", True),
    )
    figure = Figure(figsize=(11.5, 4.0))
    figure.set_layout_engine("constrained", w_pad=0.1)
    axes = figure.subplots(1, 3)
    chaotic = np.asarray(grid.correlation_susceptibility) > 1
    for ax, (title, values, colours, logarithmic) in zip(axes, panels, strict=True):
        ax.set_facecolor(_UNDEFINED)
        style: dict[str, Any] = {"vmin": 0, "vmax": 1 if values is c else None}
        if logarithmic:
            low, high = _percentiles(values)
            values, style = np.clip(values, low, high), {"norm": LogNorm(low, high)}
        image = ax.pcolormesh(w, b, values.T, shading="nearest", rasterized=True, cmap=colours, **style)
        figure.colorbar(image, ax=ax, shrink=0.9, extend="both" if logarithmic else "neither")
        limits = ax.get_xlim(), ax.get_ylim()
        line = ax.plot(diagram.edge_weight_variance, diagram.edge_bias_variance, color="white", linewidth=2)[0]
        line.set(path_effects=[withStroke(linewidth=3.5, foreground="black")], solid_capstyle="round", clip_on=True)
        if np.nanstd(diagram.edge_weight_variance) == 0:  # one point, as for ReLU
            line.set(marker="o", markersize=7, clip_on=False, zorder=3, linestyle="none")
        ax.set(xlim=limits[0], ylim=limits[1])
        ax.set_title(title, fontsize=10)
        ax.set_xlabel(r"weight variance $\sigma_w^2$")
        ax.set_ylabel(r"bias variance $\sigma_b^2$")
        ax.tick_params(labelsize=9)
        _name_phases(ax, w, b, chaotic, np.isfinite(q))
    line.set_label("edge of chaos")
    undefined = Patch(color=_UNDEFINED, label="undefined: $q^*$ is unbounded or, for $c^*$ and the depth, zero")
    figure.legend(handles=[line, undefined], loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(diagram.activation, fontsize=11)
    return figure


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    """The 1st and the 99th percentile of the values that have a logarithm."""
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = np.quantile(positive, (0.01, 0.99)) if positive.size else (0.1, 1.0)
    return float(low), max(float(high), 1.001 * float(low))


def _name_phases(ax: Axes, w: np.ndarray, b: np.ndarray, chaotic: np.ndarray, bounded: np.ndarray) -> None:
    """The word goes to the centre of the phase, if it has room for it."""
    phases = (("ordered", bounded & ~chaotic), ("chaotic", bounded & chaotic), ("unbounded", ~bounded))
    for name, region in phases:
        if region.mean() > 0.08:
            i, j = np.nonzero(region)
            box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
            ax.text(
                float(np.median(w[i])), float(np.median(b[j])), name, ha="center", va="center", fontsize=8, bbox=box
            )
