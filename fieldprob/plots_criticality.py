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

_DIVERGES = "0.85"


def phase_diagram(diagram: PhaseDiagram) -> Figure:
    """Three maps over (weight variance, bias variance): q*, c* and the depth scale of correlations.

    The white line (or point) is the edge of chaos; grey is where the variance grows without bound or, for c* and the
    depth, where signals vanish. The depth is drawn on a logarithmic scale up to its 99th percentile.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    grid = diagram.grid
    w, b = np.asarray(grid.weight_variance)[:, 0], np.asarray(grid.bias_variance)[0]
    q, c, depth = (np.asarray(x, float) for x in (grid.variance, grid.correlation, grid.correlation_depth))
    finite = depth[np.isfinite(depth)]
    top = float(np.quantile(finite, 0.99)) if finite.size else 1.0
    low = min(float(finite.min()), top) if finite.size else 0.1
    depth = np.where(np.isposinf(depth), top, depth)
    panels: tuple[tuple[str, Any, dict], ...] = (
        ("variance at the fixed point, q*", np.where(np.isinf(q), np.nan, q), {"cmap": "viridis"}),
        ("correlation at the fixed point, c*", c, {"cmap": "viridis", "vmin": 0, "vmax": 1}),
        ("depth scale of correlations", depth, {"cmap": "magma", "norm": LogNorm(low, max(top, 1.001 * low))}),
    )
    figure = Figure(figsize=(11.5, 3.6), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    chaotic = np.asarray(grid.correlation_susceptibility) > 1
    for ax, (title, values, style) in zip(axes, panels, strict=True):
        ax.set_facecolor(_DIVERGES)
        image = ax.pcolormesh(w, b, values.T, shading="nearest", rasterized=True, **style)
        extend = "max" if "norm" in style else "neither"
        figure.colorbar(image, ax=ax, shrink=0.9, extend=extend)
        limits = ax.get_xlim(), ax.get_ylim()
        line = ax.plot(diagram.edge_weight_variance, diagram.edge_bias_variance, color="white", linewidth=2)[0]
        line.set(path_effects=[withStroke(linewidth=3.5, foreground="black")], solid_capstyle="round", clip_on=True)
        if np.nanstd(diagram.edge_weight_variance) == 0:  # one point, as for ReLU
            line.set(marker="o", markersize=7, clip_on=False, zorder=3)
        ax.set(xlim=limits[0], ylim=limits[1])
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("weight variance")
        ax.tick_params(labelsize=8)
        _name_phases(ax, w, b, chaotic, np.isfinite(q))
    axes[0].set_ylabel("bias variance")
    figure.suptitle(f"{diagram.activation}: edge of chaos in white", fontsize=10)
    return figure


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
