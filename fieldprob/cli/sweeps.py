"""`fieldprob sweep`: the points of a sweep, one run directory each, and what is drawn from them.

The directory of a sweep is named after what all points share, so that asking for more values or seeds goes on in it. A
point counts as finished if its result is complete and of the same configuration; all others are run.
"""

import itertools
import json
import shlex
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from rich.table import Table

import fieldprob.report as pages
from fieldprob.cli import commands, environment
from fieldprob.cli.arguments import Request, UsageError
from fieldprob.cli.commands import say
from fieldprob.cli.convert import convert, parameter_types, resolve
from fieldprob.compare.text import value_with_error
from fieldprob.plots_ladder import plot_ladder
from fieldprob.plots_sweep import chosen, combinations, panel_order, plot_sweep, swept_axis
from fieldprob.study import Result, atomic
from fieldprob.studyfile import StudyFile, read
from fieldprob.sweep import ROUNDING, as_table, average_seeds, read_summary, slopes

SWEEP = "sweep.json"
INDEX = "index.html"
LADDER_FIGURE = "ladder.png"
SUMMARY = "summary.csv"

# Errors that belong to one point, such as a width at which a theory has no solution; the others stop the sweep.
_POINT_ERRORS = (ValueError, TypeError, ArithmeticError, RuntimeError)


def run(request: Request, file: StudyFile) -> int:
    """Runs the points that are not there yet, then draws all that the directory holds."""
    function = file.load()
    swept, fixed = _split(request, file, function)
    preset = file.preset(request.options.get("preset"))
    base = resolve(function, preset, fixed)
    seeds = _seeds(request, base, swept)
    values = {**swept, **({"seed": seeds} if seeds else {})}
    if all(len(v) == 1 for v in values.values()):
        raise UsageError("nothing to sweep; give a parameter several values, --width 10,30,100, or --seeds 4")
    points = [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]

    shared = {k: v for k, v in base.items() if k not in swept and k != "seed"}
    settings = commands.describe(request, file, shared)
    settings |= {"explicit_command": settings["command"], "swept": [*swept], "points": len(points)}
    settings["given"] = {name: shared[name] for name in fixed if name in shared}
    directory = Path(
        request.options.get("out") or Path("results") / file.name / _directory_name(request, swept, settings)
    )
    _prepare(directory, settings, "overwrite" in request.options)
    say(f"{file.name}: {len(points)} points, {settings['precision']} bit, into {directory}")
    failed = _run_points(request, file, function, base, points, directory)
    if failed == len(points):
        say("every point failed")
        return 1
    report(directory)
    if failed:
        say(f"{failed} of {len(points)} points failed; the same command tries them again")
    return 1 if failed else 0


def report(directory: Path) -> None:
    """Draws a sweep from its finished points, writes summary.csv, figure.png and index.html, and prints the numbers.

    Where a theory is exact, also the errors of the others, and of two points or more ladder.png.
    """
    try:
        settings = json.loads((directory / SWEEP).read_text(encoding="utf-8"))
        swept = [str(name) for name in settings["swept"]]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{directory / SWEEP} cannot be read; run the sweep again to write it anew") from error
    points = _finished_points(directory, settings)
    if not points:
        raise UsageError(f"{directory} holds no finished point; run the sweep first")
    table = as_table([(parameters, read_summary(path)) for path, parameters in points])
    averaged = average_seeds(table, swept or ["seed"])
    with atomic(directory / SUMMARY) as path:
        table.to_csv(path, index=False)
    axis, others = swept_axis(table, swept)
    figure = plot_sweep(table, swept, title=_title(settings), marks=_marks([path for path, _ in points], axis))
    drawn = {commands.FIGURE: _png(figure, directory / commands.FIGURE)}
    shown = numbers(averaged)
    errors = ladder(averaged, axis, others)
    if errors.row_count and len(set(table[axis])) > 1:
        drawn[LADDER_FIGURE] = _png(plot_ladder(table, swept, title=_title(settings)), directory / LADDER_FIGURE)
    page = pages.sweep_page(
        settings,
        shown,
        [(parameters, f"{path.name}/{commands.REPORT}") for path, parameters in points],
        drawn[commands.FIGURE],
        missing=max(0, settings.get("points", 0) - len(points)),
        ladder=(errors, drawn[LADDER_FIGURE]) if LADDER_FIGURE in drawn else None,
    )
    with atomic(directory / INDEX) as path:
        path.write_text(page, encoding="utf-8")
    commands.print_table(shown)
    if errors.row_count:
        print()
        commands.print_table(errors)
    print(f"\n{directory}: {', '.join([*drawn, SUMMARY, INDEX])}")


def _png(figure: Any, path: Path) -> bytes:
    """Saves a figure, and returns what was written."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=160)
    plt.close(figure)
    return path.read_bytes()


def numbers(averaged: pd.DataFrame) -> Table:
    """The numbers of a sweep as a rich table: a line a point and statistic, a column a theory."""
    averaged = averaged.query("quantity in ('value', 'distance')")
    parameters = list(averaged.columns[: list(averaged.columns).index("statistic")])
    theories = [theory for theory in averaged["theory"].unique() if theory]
    table = _table(*parameters, "statistic", "sampled", *theories)
    for _, group in averaged.groupby([*parameters, "statistic", "quantity"], sort=False):
        first = group.iloc[0]
        name, distance = first["statistic"], first["quantity"] == "distance"  # distances span decades
        found = {row.theory: value_with_error(row.value, row.error, distance) for row in group.itertuples()}  # pyright: ignore
        if distance:
            if not (group.loc[group["theory"] != "", "value"] > ROUNDING).any():
                continue  # an identity
            name, found[""] = f"{name}, distance", f"floor {group.loc[group['theory'] == '', 'value'].iloc[0]:.1e}"
        table.add_row(
            *(f"{first[p]}" for p in parameters), name, found.get("", ""), *(found.get(t, "") for t in theories)
        )
    return table


def ladder(averaged: pd.DataFrame, axis: str, others: list[str]) -> Table:
    """The errors of the theories against the exact one as a rich table: a line a point, a column a theory.

    Three points or more of a numeric axis are followed by the log-log slopes of power laws. A statistic on which no
    theory errs is left out.
    """
    errors = averaged.query("quantity == 'error'")
    theories = [theory for theory in averaged["theory"].unique() if theory in set(errors["theory"])]
    table = _table("statistic", *others, axis, "rms exact", *theories)
    table.caption, table.caption_justify = "rms(theory - exact) / rms(exact), of posterior means", "left"
    fitted = slopes(averaged, axis, others)
    for statistic in sorted(set(errors.loc[errors["value"] > ROUNDING, "statistic"]), key=panel_order):
        ours = averaged.query("quantity in ('size', 'error') and statistic == @statistic")
        for group in combinations(ours, others):
            labels = [statistic, *map(str, group)]
            for value, point in chosen(ours, others, group).groupby(axis, sort=False):
                found = point.set_index("theory")["value"]
                size = point.loc[point["quantity"] == "size", "value"].iloc[0]
                cells = [f"{found[theory]:.2e}" if theory in found else "" for theory in theories]
                table.add_row(*labels, f"{value}", f"{size:.4g}", *cells)
            lines = [fitted.get((*group, statistic, theory)) for theory in theories]
            if any(slope is not None for slope in lines):
                table.add_row(*labels, "slope", "", *("" if slope is None else f"{slope:z.2f}" for slope in lines))
    return table


def _table(*headers: str) -> Table:
    """A long header takes two lines, and is never cut."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for header in headers:
        table.add_column(header.replace(" (", "\n("), overflow="fold")
    return table


def _split(request: Request, file: StudyFile, function: Any) -> tuple[dict[str, list[Any]], dict[str, list[str]]]:
    """The swept parameters with their values, and the words of the fixed ones."""
    types = parameter_types(function)
    swept, fixed = {}, {}
    for name, words in request.parameters.items():
        entries = [entry.strip() for entry in " ".join(words).split(",")]
        if len(entries) == 1:
            fixed[name] = words
            continue
        entries = [entry for entry in entries if entry]
        converted = [convert(name, types[name], shlex.split(entry)) for entry in entries]
        swept[name] = [value for index, value in enumerate(converted) if value not in converted[:index]]
    return swept, fixed


def _seeds(request: Request, base: Mapping[str, Any], swept: dict[str, list[Any]]) -> list[int]:
    """The seeds of every point; none where the study has no seed and none is asked for."""
    explicit = swept.pop("seed", None)
    text = request.options.get("seeds")
    if text is None:
        return explicit or ([base["seed"]] if "seed" in base else [])
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--seeds {text}: give the number of seeds, an integer of at least 1")
    if explicit is not None:
        raise UsageError("--seeds and several values of --seed were given; use one of them")
    if "seed" not in base:
        raise UsageError("--seeds: study(...) has no parameter `seed` to vary")
    return [base["seed"] + index for index in range(int(text))]


def _directory_name(request: Request, swept: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    readable = "_".join(["sweep", *swept, *([request.options["preset"]] if "preset" in request.options else [])])
    identity = commands.digest({"configuration": settings["configuration"], "swept": [*swept]})
    return f"{readable}-{identity[:6]}"


def _prepare(directory: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    commands.prepare(directory, settings, overwrite)
    try:
        stored = json.loads((directory / SWEEP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stored = None
    same = stored and all(stored.get(key) == settings[key] for key in ("configuration", "swept"))
    if stored and not same and not overwrite:
        raise UsageError(
            f"{directory} holds a sweep of another configuration\n"
            "choose another directory with --out, or replace it with --overwrite"
        )
    with atomic(directory / SWEEP) as path:
        path.write_text(json.dumps(settings, indent=2, default=str) + "\n", encoding="utf-8")


def _run_points(
    request: Request,
    file: StudyFile,
    function: Any,
    base: Mapping[str, Any],
    points: list[dict[str, Any]],
    directory: Path,
) -> int:
    """Runs what is missing; returns how many points failed."""
    missing = []
    for index, point in enumerate(points):
        parameters = {**base, **point}
        settings = commands.describe(request, file, parameters)
        settings["point"] = {name: settings["parameters"][name] for name in point}
        name = commands.label(point)
        where = f"[{index + 1}/{len(points)}] {name}"
        stored = commands.finished(directory / name)
        if stored is not None and stored.get("configuration") == settings["configuration"]:
            say(f"{where}: already there")
        else:
            missing.append((where, parameters, directory / name, settings))
    there = len(points) - len(missing)
    if "scheduler" in request.options:
        return _run_on_workers(request, file, missing, there)
    failed = 0
    for index, (where, parameters, place, settings) in enumerate(missing):
        say(where)
        try:
            result = run_point(function, parameters, place, settings, file)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_stopped(request, there + index - failed, len(points))) from None
        except _POINT_ERRORS as error:
            failed += 1
            _complain(request, where, error)
            continue
        if result.interrupted:
            raise KeyboardInterrupt(_stopped(request, there + index - failed, len(points)))
    return failed


def run_point(
    function: Any,
    parameters: Mapping[str, Any],
    place: Path,
    settings: Mapping[str, Any],
    file: StudyFile,
    progress: bool = True,
) -> Result:
    """Runs one point into its directory; a point that was killed is continued."""
    study = commands.build(function, parameters, file)
    commands.prepare(place, settings, overwrite=True)
    return commands.execute(study, place, settings, file, {"progress": progress})


def _run_on_workers(request: Request, file: StudyFile, missing: list[tuple[Any, ...]], there: int) -> int:
    """The same on Dask workers, which share a disk with us; a worker that is lost is replaced by another."""
    from fieldprob.infer.cluster import connect, spread

    failed = done = 0
    with connect(request.options["scheduler"], commands.number_of_workers(request)) as client:
        tasks = [
            (str(file.path.resolve()), parameters, str(place.resolve()), settings)
            for _, parameters, place, settings in missing
        ]
        try:
            for index, future in spread(_point_on_worker, tasks, client, progress=True, unit="point"):
                try:
                    future.result()
                    done += 1
                except _POINT_ERRORS as error:
                    failed += 1
                    _complain(request, missing[index][0], error)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_stopped(request, there + done, there + len(missing))) from None
    return failed


def _point_on_worker(path: str, parameters: dict[str, Any], place: str, settings: dict[str, Any]) -> None:
    environment.configure(None, str(settings["precision"]))
    file = read(Path(path))
    if file.fingerprint != settings["code"]:
        raise RuntimeError(f"{path} has changed since the sweep began; start it again")
    run_point(file.load(), parameters, Path(place), settings, file, progress=False)


def _complain(request: Request, where: str, error: Exception) -> None:
    if "debug" in request.options:
        traceback.print_exception(error)
    say(f"{where} failed: {(str(error).strip() or type(error).__name__).splitlines()[0]}")


def _stopped(request: Request, done: int, total: int) -> str:
    command = shlex.join(["fieldprob", request.command, *request.words])
    return f"interrupted; {done} of {total} points are finished and kept. To continue:\n    {command}"


def _finished_points(directory: Path, settings: Mapping[str, Any]) -> list[tuple[Path, dict[str, Any]]]:
    """Directories and swept values of the points that belong to this sweep, in order of their values."""
    shared = settings["parameters"]
    found = []
    for path in sorted(directory.glob(f"*/{commands.RESULT}")):
        stored = commands.finished(path.parent)
        if stored is None or "point" not in stored:
            continue
        parameters = stored["parameters"]
        same = all(parameters.get(name) == value for name, value in shared.items())
        if same and stored["precision"] == settings["precision"] and stored.get("code") == settings.get("code"):
            found.append((path.parent, stored["point"]))
    return sorted(found, key=lambda entry: [_sortable(value) for value in entry[1].values()])


def _marks(points: Sequence[Path], axis: str) -> dict[str, float]:
    """What the studies of all points mark on the axis; what differs between them is left out."""
    found = [(commands.finished(path) or {}).get("marks", {}).get(axis, {}) for path in points]
    return {name: value for name, value in found[0].items() if all(other.get(name) == value for other in found)}


def _sortable(value: Any) -> tuple[int, float, str]:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if numeric else (1, 0.0, str(value))


def _title(settings: Mapping[str, Any]) -> str:
    given = {**({"preset": settings["preset"]} if settings.get("preset") else {}), **settings.get("given", {})}
    words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in given.items())
    return f"{settings['study']}: {words}" if words else str(settings["study"])
