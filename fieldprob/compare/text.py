"""A comparison as text: plain for a terminal of 120 columns, or a rich table."""

from __future__ import annotations

from itertools import zip_longest
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rich.table import Table

    from fieldprob.compare.comparison import Comparison

_WIDTH = 120
_SAMPLED = ("statistic", "moment", "numbers", "sampled", "ESS", "R-hat")
_PREDICTED = ("error", "|z|", "verdict")
_BOUND = {"value": "", "lower": "≥ ", "upper": "≤ "}


def value_with_error(value: float, error: float, scientific: bool = False) -> str:
    """`0.1234 ± 0.0056`: the error to two significant digits, the value to the same place.

    >>> value_with_error(12.34567, 0.0123)
    '12.346 ± 0.012'
    >>> value_with_error(0.000284, 0.0000069, scientific=True)
    '2.840e-04 ± 6.9e-06'
    """
    if not np.isfinite(error) or error <= 0:
        return f"{value:.5g}"
    if scientific or not 1e-4 <= max(abs(value), error) < 1e6:
        digits = max(int(np.floor(np.log10(max(abs(value), error)))) - int(np.floor(np.log10(error))) + 1, 1)
        return f"{value:.{digits}e} ± {error:.1e}"
    places = max(1 - int(np.floor(np.log10(error))), 0)
    return f"{value:.{places}f} ± {error:.{places}f}"


def _percent(fraction: float) -> str:
    if not np.isfinite(fraction):
        return "-"
    if fraction < 1e-8:
        return "0%"
    return f"{100 * fraction:.2g}%" if fraction < 0.995 else f"{100 * fraction:.0f}%"


def _number(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "-"


def _cells(comparison: Comparison) -> tuple[list[list[str]], dict[str, list[list[str]]]]:
    """Cells of the sampled columns, row by row, and of every theory's columns."""
    summary = comparison.summary()
    keys = ["statistic", "moment"]
    rows = list(summary[keys].drop_duplicates().itertuples(index=False, name=None))
    first = summary.drop_duplicates(keys).set_index(keys)
    widest = summary.groupby(keys).agg(numbers=("numbers", "max"), ess=("ess_min", "min"), rhat=("rhat_max", "max"))
    left = []
    for row in rows:
        s, w = first.loc[row], widest.loc[row]
        sampled = ("" if w["numbers"] == 1 else "rms ") + value_with_error(s["sampled"], s["mcse"])
        ess, rhat = _number(w["ess"], ".0f"), _number(w["rhat"], ".3f")
        left.append([*row, f"{w['numbers']:.0f}", sampled, ess, rhat])
    right = {}
    for theory in comparison.theories.index:
        part = summary[summary["theory"] == theory].set_index(keys)
        right[theory] = [_predicted_cells(part.loc[row]) if row in part.index else ["", "", ""] for row in rows]
    return left, right


def _predicted_cells(s: Any) -> list[str]:
    return [_BOUND[s["kind"]] + _percent(s["relative_error"]), _number(s["max_abs_z"], ".1f"), s["verdict"]]


def _title(comparison: Comparison) -> str:
    size = " x ".join(f"{n} {d}s" for d, n in comparison.sample_size.items())
    return f"Sampled ({size}) against predicted"


def _conclusions(comparison: Comparison) -> list[str]:
    lines = []
    row: Any
    for theory, row in comparison.ranking().iterrows():
        t: Any = comparison.theories.loc[theory]
        line = f"{theory}: {t['verdict']}"
        if t["unconverged"]:
            line += f" ({t['unconverged']} of {t['compared']} numbers; sample longer)"
        elif t["differing"]:
            line += f" ({t['differing']} of {t['compared']} numbers)"
        if np.isfinite(row["relative_error"]):
            line += f", relative error {_percent(row['relative_error'])} (noise {_percent(row['noise_floor'])})"
            line += f" over {row['statistics']} shared statistics" if len(comparison.theories) > 1 else ""
        if np.isfinite(t["log_evidence"]):
            line += f", log evidence {t['log_evidence']:.6g}"
        if t["order"]:
            line += f"; {t['order']}"
        lines.append(line)
    return lines


def _notes(comparison: Comparison) -> list[str]:
    return [
        "error: rms difference / rms sampled; |z|: largest, in combined standard errors; ESS, R-hat: worst.",
        f"An exact theory 'differs' with probability ≤ {comparison.false_alarm:g} (Holm over all its numbers). "
        f"Converged: ESS ≥ {comparison.minimum_ess:.0f},",
        f"R-hat ≤ {comparison.maximum_rhat:g} or what the worst of so many converged numbers reaches by chance.",
    ]


def plain(comparison: Comparison) -> str:
    """The table, what it says of each theory, and how to read it; theories go on below where 120 columns are full."""
    left, right = _cells(comparison)
    columns = [_column(name, [row[i] for row in left], i > 1) for i, name in enumerate(_SAMPLED)]
    blocks = {
        theory: [_column(name, [row[i] for row in cells], i < 2) for i, name in enumerate(_PREDICTED)]
        for theory, cells in right.items()
    }
    lines = [_title(comparison)]
    pending = list(blocks)
    while pending:
        shown = [pending.pop(0)]
        while pending and _width(columns, [blocks[t] for t in [*shown, pending[0]]]) <= _WIDTH:
            shown.append(pending.pop(0))
        lines += ["", *_layout(columns, {t: blocks[t] for t in shown})]
    conclusions = [part for line in _conclusions(comparison) for part in wrap(line, _WIDTH, subsequent_indent="    ")]
    lines += ["", *conclusions, "", *_notes(comparison)]
    return "\n".join(line[: _WIDTH - 1] + "…" if len(line) > _WIDTH else line for line in lines)


def _column(name: str, cells: list[str], right: bool) -> list[str]:
    width = max(map(len, [name, *cells]))
    return [cell.rjust(width) if right else cell.ljust(width) for cell in [name, *cells]]


def _join(columns: list[list[str]]) -> list[str]:
    return ["  ".join(cells) for cells in zip(*columns, strict=True)]


def _width(columns: list[list[str]], blocks: list[list[list[str]]]) -> int:
    return sum(len(column[0]) + 2 for part in [columns, *blocks] for column in part) + 2 * len(blocks)


def _layout(columns: list[list[str]], blocks: dict[str, list[list[str]]]) -> list[str]:
    parts = [_join(columns), *map(_join, blocks.values())]
    widths = [len(part[0]) for part in parts]
    heads = [[""], *(_head(theory, width) for theory, width in zip(blocks, widths[1:], strict=True))]
    lines = [*zip_longest(*heads, fillvalue=""), *zip(*parts, strict=True)]
    table = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    table.insert(len(table) - len(parts[0]) + 1, "-" * len(table[0]))
    return [line.rstrip() for line in table]


def _head(theory: str, width: int) -> list[str]:
    """The name of a theory in as many lines as it takes, the parenthesis in one of its own."""
    parts = [theory] if len(theory) <= width else theory.replace(" (", "\n(").split("\n")
    return [line for part in parts for line in wrap(part, width, break_on_hyphens=False)]


_COLOURS = {"agrees": "green", "differs": "red", "not converged": "yellow"}


def rich(comparison: Comparison) -> Table:
    """The same table for `rich`, verdicts in colour."""
    from rich.table import Table

    left, right = _cells(comparison)
    caption = "\n".join([*_conclusions(comparison), *_notes(comparison)])
    table = Table(title=_title(comparison), caption=caption, caption_justify="left", title_justify="left")
    for i, name in enumerate(_SAMPLED):
        table.add_column(name, justify="right" if i > 1 else "left")
    for theory in right:
        head = theory.replace(" (", "\n(")
        table.add_column(f"{head}\nerror, |z|", justify="right", min_width=9, overflow="fold")
    for i, row in enumerate(left):
        blocks = [block[i] for block in right.values()]
        table.add_row(*row, *(f"{e}, {z} [{_COLOURS[v]}]{v}[/]" if v else "" for e, z, v in blocks))
    return table
