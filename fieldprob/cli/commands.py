"""`run`, `sweep` and `report`, once JAX may be imported: what they compute, write and print."""

import dataclasses
import datetime
import enum
import hashlib
import json
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import xarray as xr
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

import fieldprob.report as pages
from fieldprob.cli import environment
from fieldprob.cli.arguments import Request, UsageError
from fieldprob.cli.convert import resolve
from fieldprob.compare import compare
from fieldprob.infer.cluster import LOCAL, connect
from fieldprob.study import RESULT, Result, Study, atomic, load, read_settings
from fieldprob.studyfile import StudyFile

FIGURE = "figure.png"
REPORT = "report.html"
SETTINGS = "settings.json"
BLOCKS = "blocks"  # of a run that is not finished, with the settings it was started with


def run(request: Request, file: StudyFile) -> int:
    """`fieldprob run`: one study, one directory."""
    function = file.load()
    preset = request.options.get("preset")
    parameters = resolve(function, file.preset(preset), request.parameters)
    study = build(function, parameters, file)
    settings = describe(request, file, parameters)
    directory = Path(request.options.get("out") or Path("results") / file.name / _directory_name(request, settings))
    if (directory / "sweep.json").exists():
        raise UsageError(f"{directory} holds a sweep, which a run would overwrite; choose another directory with --out")
    prepare(directory, settings, overwrite="overwrite" in request.options)
    if _is_done(directory, settings, request):
        say(f"{directory} is finished already; without --resume it is run again")
        show(load(directory), directory)
        return 0
    say(f"{file.name}: {', '.join(f'{k}={_words(v)}' for k, v in {**parameters, **study.chosen}.items())}")
    say(f"on {environment.device()}, {settings['precision']} bit, into {directory}")
    try:
        with _workers(request, function) as sampling:
            result = execute(study, directory, settings, file, sampling)
    except KeyboardInterrupt as stop:
        message = "interrupted before the first block of draws was finished; nothing is saved"
        stored = finished(directory)
        if stored is not None and stored.get("started") == settings["started"]:
            message = f"interrupted after the result was saved; `fieldprob report {directory}` shows it"
        if unfinished(directory) is not None:
            message = "interrupted during warm-up; the same command with --resume continues it"
        raise KeyboardInterrupt(str(stop) or message) from None
    show(result, directory)
    if result.interrupted:
        rest = "" if study.sampler is not None else "; the same command with --resume makes the others"
        raise KeyboardInterrupt(
            f"interrupted; {pages.sampled(result.samples)} were finished and are in {directory}{rest}"
        )
    return 0


def report(directory: Path) -> None:
    """`fieldprob report`: the table, figure and page of what a directory holds."""
    from fieldprob.cli import sweeps

    if (directory / sweeps.SWEEP).is_file():
        sweeps.report(directory)
        return
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a directory; give the one that `fieldprob run` or `sweep` wrote")
    if not (directory / RESULT).is_file():
        inside = sorted(str(path.parent) for path in directory.glob(f"*/{RESULT}"))
        hint = f"; it holds {inside[0]}" + (f" and {len(inside) - 1} more" if inside[1:] else "") if inside else ""
        raise UsageError(f"{directory} holds no result ({RESULT}){hint}")
    result = load(directory)
    write_pages(result, directory)
    show(result, directory)


def sweep(request: Request, file: StudyFile) -> int:
    """`fieldprob sweep`: see `fieldprob.cli.sweeps`."""
    from fieldprob.cli import sweeps

    return sweeps.run(request, file)


def describe(request: Request, file: StudyFile, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored to repeat a run, and `configuration`: a hash of all that its numbers depend on."""
    plain = {name: _plain(value) for name, value in parameters.items()}
    precision = int(request.options.get("precision", "64"))
    essence = {"study": file.name, "code": file.fingerprint, "parameters": plain, "precision": precision}
    flags = [f"--{name.replace('_', '-')} {shlex.join(_as_words(value))}".strip() for name, value in plain.items()]
    target = request.target or file.name
    versions = environment.versions()
    if target.endswith(".py") and (commit := environment.git_commit(file.path.resolve().parent)):
        versions[file.path.name] = f"git {commit}"
    return {
        "study": file.name,
        "doc": file.doc,
        "preset": request.options.get("preset"),
        "parameters": plain,
        "precision": precision,
        "workers": "scheduler" in request.options,
        "device": environment.device(),
        "command": shlex.join(["fieldprob", request.command, *request.words]),
        "explicit_command": " ".join(["fieldprob", "run", shlex.quote(target), *flags, "--precision", str(precision)]),
        "versions": versions,
        "code": file.fingerprint,
        "configuration": digest(essence),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def digest(essence: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(essence, sort_keys=True, default=str).encode()).hexdigest()[:12]


def prepare(directory: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Makes the directory and makes sure, before anything is computed, that it can be written and may be.

    Raises:
        UsageError: it cannot, or it holds a finished result of another configuration and `overwrite` is False.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / ".writable.partial"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"cannot write into {directory} ({error.strerror}); choose another directory with --out"
        ) from error
    if overwrite:
        return
    stored = finished(directory)
    if stored is not None and stored.get("configuration") != settings["configuration"]:
        raise UsageError(
            f"{directory} holds a finished result of another configuration ({_difference(stored, settings)})\n"
            "choose another directory with --out, or replace it with --overwrite"
        )


def finished(directory: Path) -> dict[str, Any] | None:
    """The settings of the complete result in a directory; None if there is none, or a truncated or interrupted one."""
    try:
        stored = read_settings(directory)
    except (FileNotFoundError, ValueError):
        return None
    return None if stored["interrupted"] else stored


def unfinished(directory: Path) -> dict[str, Any] | None:
    """The settings of the run in a directory that was stopped with some blocks done; None if there is none."""
    try:
        stored = json.loads((directory / BLOCKS / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stored if any((directory / BLOCKS).rglob("block_*.nc")) else None


def _is_done(directory: Path, settings: Mapping[str, Any], request: Request) -> bool:
    """Whether --resume finds nothing left to do. Makes room for a run from the start where one is asked for.

    Raises:
        UsageError: there is an unfinished run, and neither --resume nor --overwrite; or --resume, and it is another.
    """
    stored, overwrite, resume = (unfinished(directory), "overwrite" in request.options, "resume" in request.options)
    if overwrite and resume:
        raise UsageError("--resume continues a run and --overwrite starts over; give one of them")
    if stored is None:
        found = finished(directory) if resume else None
        return found is not None and found.get("configuration") == settings["configuration"]
    if overwrite:
        shutil.rmtree(directory / BLOCKS)
    elif stored["configuration"] != settings["configuration"]:
        raise UsageError(
            f"{directory} holds an unfinished run of another configuration ({_difference(stored, settings)})\n"
            "choose another directory with --out, or start over with --overwrite"
        )
    elif resume and stored.get("workers") != settings["workers"]:
        how = "with --scheduler" if stored.get("workers") else "without --scheduler"
        raise UsageError(f"the unfinished run in {directory} was started {how}; continue it so, or --overwrite it")
    elif not resume:
        raise UsageError(
            f"{directory} holds an unfinished run of this configuration\n"
            "continue it with --resume, or start over with --overwrite"
        )
    return False


def build(function: Callable[..., Any], parameters: Mapping[str, Any], file: StudyFile) -> Study:
    """The study with these parameters.

    Raises:
        TypeError: study(...) returned something else.
    """
    study = function(**parameters)
    if not isinstance(study, Study):
        raise TypeError(f"{file.path.name}: study(...) returned a {type(study).__name__}; it must return a fp.Study")
    return study


def number_of_workers(request: Request) -> int | None:
    """--workers.

    Raises:
        UsageError: not a positive integer, or without --scheduler local.
    """
    text = request.options.get("workers")
    if text is None:
        return None
    if request.options.get("scheduler") != LOCAL:
        raise UsageError("--workers is for --scheduler local; other schedulers have the workers that joined them")
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--workers {text}: give an integer of at least 1")
    return int(text)


@contextmanager
def _workers(request: Request, function: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """Arguments of `fieldprob.sample` that spread chains over the workers that were asked for."""
    import cloudpickle

    workers = number_of_workers(request)
    if "scheduler" not in request.options:
        yield {}
        return
    # workers cannot import the module of a study file: its functions travel with the task
    cloudpickle.register_pickle_by_value(sys.modules[function.__module__])
    with connect(request.options["scheduler"], workers) as client:
        yield {"scheduler": client}


def execute(
    study: Study,
    directory: Path,
    settings: Mapping[str, Any],
    file: StudyFile,
    sampling: Mapping[str, Any] | None = None,
) -> Result:
    """Runs a study and writes its directory. The samples are safe on disk whatever fails after them.

    While it samples, blocks are kept in the directory. Those of an unfinished run of the same configuration are gone on
    with, those of another are removed, and they all are once the result is written.

    Args:
        sampling: further arguments of `fieldprob.sample`.
    """
    start = time.perf_counter()
    settings = {**settings, "chosen": {name: _plain(value) for name, value in study.chosen.items()}}
    settings["figures"] = list(study.figures)
    settings["marks"] = {name: dict(values) for name, values in study.marks.items()}
    predictions = study.predict()
    if predictions and (sampling or {}).get("progress", True):
        say(f"predicted: {', '.join(prediction.theory for prediction in predictions)}")
    samples = _sample(study, directory / BLOCKS, settings, sampling or {})
    settings = {**settings, "seconds": round(time.perf_counter() - start, 1)}
    previous = finished(directory) if samples.attrs.get("interrupted") else None
    if previous is not None and previous["configuration"] == settings["configuration"]:
        raise KeyboardInterrupt(
            f"interrupted; the finished result that was in {directory} is kept, and --resume goes on with this run"
        )
    result = Result(samples, predictions, None, settings)
    try:
        if predictions:
            result = Result(samples, predictions, compare(samples, predictions), settings)
    finally:
        result.save(directory)
        if not result.interrupted:
            shutil.rmtree(directory / BLOCKS, ignore_errors=True)
    with atomic(directory / SETTINGS) as path:
        path.write_text(json.dumps(settings, indent=2, default=str) + "\n", encoding="utf-8")
    if file.path.resolve().parent != directory.resolve():
        with atomic(directory / file.path.name) as path:
            shutil.copyfile(file.path, path)
    for name, draw in study.figures.items():
        _write_figure(draw(result), directory / f"{name}.png")
    write_pages(result, directory)
    return result


def _sample(study: Study, blocks: Path, settings: Mapping[str, Any], further: Mapping[str, Any]) -> xr.DataTree:
    """Samples a study, into blocks where its sampler is `fieldprob.sample`, and returns the draws in memory."""
    if study.sampler is not None:
        if refused := further.keys() - {"progress"}:
            raise UsageError(f"{', '.join(refused)}: the sampler of this study does not take it; leave it out")
        return study.sample(progress=further.get("progress", True))
    stored = unfinished(blocks.parent)
    if blocks.exists() and (stored is None or stored["configuration"] != settings["configuration"]):
        shutil.rmtree(blocks)
    blocks.mkdir(exist_ok=True)
    try:
        with atomic(blocks / SETTINGS) as path:
            path.write_text(json.dumps(settings, indent=2, default=str) + "\n", encoding="utf-8")
        sampling = {"directory": blocks, **study.sampling, **further, "resume": True}
        samples = dataclasses.replace(study, sampling=sampling).sample(progress=True)
        samples.load()
        samples.close()
    finally:
        if unfinished(blocks.parent) is None:
            shutil.rmtree(blocks, ignore_errors=True)
    return samples


def write_pages(result: Result, directory: Path) -> None:
    """Writes `figure.png` and `report.html` of a result; the page shows the figures of the study that are there."""
    figure = None
    if result.comparison is not None and result.predictions:
        _write_figure(result.comparison.plot(), directory / FIGURE)
        figure = (directory / FIGURE).read_bytes()
    further = {name: directory / f"{name}.png" for name in result.settings.get("figures", ())}
    drawn = {name: path.read_bytes() for name, path in further.items() if path.is_file()}
    with atomic(directory / REPORT) as path:
        path.write_text(pages.run_page(result, figure, drawn), encoding="utf-8")


def _write_figure(figure: Any, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", bbox_inches="tight")
    plt.close(figure)


def show(result: Result, directory: Path) -> None:
    """Prints the table of a result and where it is."""
    if result.interrupted:
        print(f"interrupted: {pages.sampled(result.samples)}")
    if result.comparison is not None:
        table = result.comparison.rich()
        print_table(table, otherwise=repr(result.comparison))
    elif (table := pages.numbers(result.samples)).row_count:
        print_table(table)
    further = [f"{name}.png" for name in result.settings.get("figures", ())]
    written = [name for name in (RESULT, FIGURE, *further, REPORT) if (directory / name).is_file()]
    print(f"\n{directory}: {', '.join(written)}")


def print_table(table: Table, otherwise: str | None = None) -> None:
    """Prints a rich table in its full width, or the text `otherwise` where the terminal is too narrow or a file."""
    console = Console()
    width = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    if otherwise is not None and (not console.is_terminal or width > console.width):
        print(otherwise)
        return
    if not console.is_terminal:
        console = Console(width=width)
    console.print(table)


def say(text: str) -> None:
    """Progress goes to standard error, so that standard output holds the table alone."""
    print(text, file=sys.stderr, flush=True)


def label(parameters: Mapping[str, Any]) -> str:
    """A readable directory name.

    >>> label({"width": 100, "classes": [0, 1]})
    'width=100_classes=0-1'
    """
    text = "_".join(f"{name}={_words(value).replace(' ', '-')}" for name, value in parameters.items())
    return re.sub(r"[^\w.=,+-]", "-", text)[:80]


def _directory_name(request: Request, settings: Mapping[str, Any]) -> str:
    # the hash keeps configurations apart that the readable part does not (an edited file, another precision)
    given = {name: settings["parameters"][name] for name in request.parameters}
    readable = "_".join(filter(None, [request.options.get("preset") or "", label(given)])) or "default"
    return f"{readable}-{settings['configuration'][:6]}"


def _difference(stored: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    if stored.get("study") != settings["study"]:
        return f"study {stored.get('study')}"
    old, new = stored.get("parameters", {}), settings["parameters"]
    changed = [f"{name}={_words(old.get(name))}" for name in new if old.get(name) != new[name]]
    if stored.get("precision") != settings["precision"]:
        changed.append(f"precision={stored.get('precision')}")
    return ", ".join(changed[:4]) or "the code of the study file has changed"


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value.name if isinstance(value, enum.Enum) else str(value)


def _as_words(value: Any) -> list[str]:
    return [str(entry) for entry in value] if isinstance(value, list) else [str(value)]


def _words(value: Any) -> str:
    return " ".join(_as_words(_plain(value)))
