"""The report of a run or of a sweep: one HTML page that holds all it shows, figure included, and needs no network."""

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from rich.table import Table
from rich.text import Text

from fieldprob.compare import drawn
from fieldprob.compare.sampled import CHAIN_DIMS, INDEPENDENT_DIMS, mean_and_error

__all__ = ["diagnostics", "numbers", "run_page", "sweep_page"]

_INDEPENDENT = {"dataset": "data sets", "particle": "particles"}

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #5c6670; --line: #d9dde1; --back: #ffffff; --panel: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ea; --soft: #9aa4ae; --line: #3a4149; --back: #16191d; --panel: #20252a; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 75rem;
  margin: 2.5rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p.lead { color: var(--soft); margin: .3rem 0 0; white-space: pre-line; }
img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 4px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; } td.number { text-align: right; }
pre { background: var(--panel); padding: .8rem 1rem; border-radius: 4px; overflow-x: auto; font-size: .82rem;
  line-height: 1.35; }
.warning { border-left: 4px solid #d08700; background: var(--panel); padding: .6rem 1rem; margin: 1.2rem 0; }
.wide { overflow-x: auto; } a { color: inherit; }
.red { color: #d0443a; } .green { color: #2c9a55; } .yellow { color: #b87a00; }
"""


def run_page(result: Any, figure: bytes | None = None, further: Mapping[str, bytes] | None = None) -> str:
    """The report of one run.

    Args:
        result: a `fieldprob.Result`.
        figure: the comparison figure, PNG.
        further: figures of the study, PNG, each under its name.

    Returns:
        A complete HTML document.
    """
    settings = result.settings
    name = str(settings.get("study", "study"))
    parts = [_heading(name, str(settings.get("doc", "")))]
    if result.interrupted:
        parts.append(_warning(f"Interrupted: sampling was stopped after {sampled(result.samples)}."))
    if figure is not None:
        parts.append(_section("Sampled against predicted", _image(figure, "Sampled against predicted")))
    for title, image in (further or {}).items():
        title = title.replace("_", " ").capitalize()
        parts.append(_section(title, _image(image, title)))
    if result.comparison is not None:
        parts.append(_section("Comparison", _rich_table(result.comparison.rich())))
    elif (table := numbers(result.samples)).row_count:
        parts.append(_section("Numbers", _rich_table(table)))
    parts.append(_section("Diagnostics", _pairs(diagnostics(result.samples))))
    if result.predictions:
        parts.append(_section("Theories", _theories(result.predictions)))
    parts.extend(_settings_sections(settings))
    return _page(f"{name} · fieldprob", parts)


def sampled(samples: Any) -> str:
    """How much of it there is, in words: draws of each chain, data sets or particles."""
    sizes = drawn(samples).sizes
    for dim, name in _INDEPENDENT.items():
        if dim in sizes:
            return f"{sizes[dim]} {name}"
    return f"{sizes.get('draw', 0)} draws per chain"


def sweep_page(
    settings: Mapping[str, Any],
    numbers: Table,
    points: Sequence[tuple[Mapping[str, Any], str]],
    figure: bytes | None = None,
    missing: int = 0,
    ladder: tuple[Table, bytes] | None = None,
) -> str:
    """The report of a sweep.

    Args:
        settings: as they are stored with each run, those that all points share.
        numbers: the numbers of all points, as a rich table.
        points: parameters of each finished point, and the relative address of its own report.
        figure: the figure of the sweep, PNG.
        missing: how many points are not finished.
        ladder: errors of the theories against an exact one, their table and their figure, PNG.

    Returns:
        A complete HTML document.
    """
    name = str(settings.get("study", "study"))
    parts = [_heading(f"{name}: sweep", str(settings.get("doc", "")))]
    if missing:
        parts.append(
            _warning(f"{missing} more points were asked for and are not finished; the command below continues.")
        )
    if figure is not None:
        parts.append(_section("Theory and samples", _image(figure, "Theory as lines, samples as points")))
    rows = [[_cell(", ".join(f"{k} = {v}" for k, v in point.items())), _link(address)] for point, address in points]
    if ladder is not None:
        errors, image = ladder
        parts.append(_section("Theories against the exact one", _image(image, "Errors of the theories")))
        parts.append(_rich_table(errors))
    parts.append(_section("Numbers", _rich_table(numbers)))
    parts.append(_section("Points", _table(["point", "report"], rows)))
    parts.extend(_settings_sections(settings))
    return _page(f"{name}, sweep · fieldprob", parts)


def numbers(samples: xr.DataTree) -> Table:
    """The scalar statistics of a run that nothing was predicted of: mean and standard error; at the first and the last
    time where they are followed in time.

    >>> draws = xr.Dataset({"opening": ("particle", np.array([1.0, 3.0]))})
    >>> table = numbers(xr.DataTree.from_dict({"posterior": draws}))
    >>> [list(column.cells) for column in table.columns]
    [['opening'], ['2 ± 1']]
    """
    table = Table(title=f"Sampled ({sampled(samples)})", title_justify="left", title_style="")
    table.add_column("statistic")
    table.add_column("mean ± standard error", justify="right")
    for name, draws in drawn(samples).to_dataset().data_vars.items():
        if set(draws.dims) - set(CHAIN_DIMS) - set(INDEPENDENT_DIMS) - {"time"}:
            continue
        mean, error = mean_and_error(draws)
        values = zip(np.ravel(mean)[[0, -1]], np.ravel(error)[[0, -1]], strict=True)
        texts = [f"{value:.4g} ± {spread:.1g}" for value, spread in values]
        table.add_row(str(name), " → ".join(texts) if "time" in draws.dims else texts[0])
    return table


def diagnostics(samples: xr.DataTree) -> dict[str, str]:
    """What the sampler says about itself, as text: chains, draws, divergences, acceptance, steps, its settings.

    Args:
        samples: DataTree of `fieldprob.sample`.
    """
    found: dict[str, str] = {}
    sizes = drawn(samples).sizes
    independent = {name: str(sizes[dim]) for dim, name in _INDEPENDENT.items() if dim in sizes}
    found |= independent or {"chains × draws": f"{sizes.get('chain', 1)} × {sizes.get('draw', 0)}"}
    stats = samples["sample_stats"].data_vars if "sample_stats" in samples.children else {}
    if "diverging" in stats:
        found["divergent transitions"] = str(int(np.sum(stats["diverging"])))
    for key, label in (
        ("acceptance_rate", "mean acceptance"),
        ("n_steps", "mean leapfrog steps"),
        ("step_size", "step size"),
    ):
        if key in stats:
            found[label] = f"{float(np.mean(stats[key])):.3g}"
    try:
        settings = json.loads(samples.attrs.get("settings", "{}"))
    except (TypeError, ValueError):
        settings = {}
    found.update({str(key): str(value) for key, value in settings.items() if key not in ("chains", "draws")})
    return found


def _settings_sections(settings: Mapping[str, Any]) -> Iterable[str]:
    if settings.get("parameters"):
        title = "Parameters" + (f" (preset {settings['preset']})" if settings.get("preset") else "")
        yield _section(title, _pairs({**settings["parameters"], **settings.get("chosen", {})}))
    if settings.get("command"):
        versions = dict(settings.get("versions", {}))
        lines = [settings["command"]]
        if settings.get("explicit_command") and settings["explicit_command"] != settings["command"]:
            lines += ["", "# this run, with every parameter written out", settings["explicit_command"]]
        yield _section("To repeat it", f"<pre>{html.escape(chr(10).join(map(str, lines)))}</pre>" + _pairs(versions))


def _page(title: str, parts: Iterable[str]) -> str:
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def _heading(title: str, text: str) -> str:
    return f'<h1>{html.escape(title)}</h1><p class="lead">{html.escape(text)}</p>'


def _section(title: str, content: str) -> str:
    return f"<h2>{html.escape(title)}</h2>\n{content}"


def _warning(text: str) -> str:
    return f'<p class="warning">{html.escape(text)}</p>'


def _image(png: bytes, alternative: str) -> str:
    return f'<img alt="{html.escape(alternative)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _rich_table(table: Table) -> str:
    """The table that the terminal shows, as HTML, so that the two never disagree."""
    head = [_markup(column.header) for column in table.columns]
    rows = []
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        numeric = [column.justify == "right" for column in table.columns]
        rows.append([_td(_markup(cell), number) for cell, number in zip(cells, numeric, strict=True)])
    top = "<tr>" + "".join(f"<th>{label}</th>" for label in head) + "</tr>"
    body = "".join("<tr>" + "".join(row) + "</tr>" for row in rows)
    caption = f'<p class="lead">{_markup(table.caption)}</p>' if table.caption else ""
    return f'<div class="wide"><table>{top}{body}</table></div>{caption}'


def _markup(cell: Any) -> str:
    text = Text.from_markup(cell) if isinstance(cell, str) else cell
    plain = html.escape(text.plain).replace("\n", "<br>")
    style = next((str(span.style) for span in text.spans if str(span.style) in ("red", "green", "yellow")), "")
    return f'<span class="{style}">{plain}</span>' if style else plain


def _pairs(values: Mapping[str, Any]) -> str:
    return _table([], [[f"<th>{html.escape(str(key))}</th>", _cell(_text(value))] for key, value in values.items()])


def _theories(predictions: Sequence[Any]) -> str:
    rows = [[_cell(p.theory), _cell(p.order), _cell(p.source)] for p in predictions]
    return _table(["theory", "valid", "source"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "<tr>" + "".join(f"<th>{html.escape(label)}</th>" for label in head) + "</tr>" if head else ""
    return f"<table>{top}" + "".join("<tr>" + "".join(row) + "</tr>" for row in rows) + "</table>"


def _td(content: str, number: bool = False) -> str:
    return f'<td class="number">{content}</td>' if number else f"<td>{content}</td>"


def _cell(value: Any) -> str:
    return _td(html.escape(str(value)))


def _link(address: str) -> str:
    return _td(f'<a href="{html.escape(address, quote=True)}">{html.escape(address)}</a>')


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
