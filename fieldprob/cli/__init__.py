"""The command line: `fieldprob list | run | sweep | report | info`.

Help and lists are answered from the source of the study files, without importing JAX; precision and platform are set
before a study is loaded. Errors that a user can cause take one or two lines; `--debug` shows where they come from.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from fieldprob.cli.arguments import (
    DESCRIPTIONS,
    Request,
    UsageError,
    check_parameters,
    command_help,
    describe_preset,
    main_help,
    parse,
    target_of,
)
from fieldprob.studyfile import did_you_mean, models_directory, names, read

__all__ = ["main"]

FAILED = 1
USAGE = 2
INTERRUPTED = 130


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 1 (failed), 2 (wrong usage or input) or 130 (interrupted)."""
    words = list(sys.argv[1:] if words is None else words)
    debug = "--debug" in words
    try:
        return _dispatch(words)
    except KeyboardInterrupt as stop:
        _complain(str(stop) or "interrupted; nothing was finished, nothing is saved")
        return INTERRUPTED
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (ValueError, TypeError, OSError, ImportError) as error:
        if debug:
            traceback.print_exc()
        else:
            _complain(_message(error, words))
        return FAILED if isinstance(error, OSError) and not isinstance(error, FileNotFoundError) else USAGE


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(main_help())
        return 0
    if words[0] == "--version":
        print(f"fieldprob {_version()}")
        return 0
    command = words[0]
    if command not in DESCRIPTIONS:
        hint = did_you_mean(command, [*DESCRIPTIONS]) or f"; commands: {', '.join(DESCRIPTIONS)}"
        raise UsageError(f"fieldprob has no command '{command}'{hint}")
    request = parse(command, words[1:])
    if command == "list":
        return _list(request)
    if command == "info":
        return _info(request)
    if command == "report":
        return _report(request)
    return _run_or_sweep(request)


def _list(request: Request) -> int:
    if request.help:
        print(command_help("list"))
        return 0
    if request.target:
        raise UsageError(
            f"unexpected argument '{request.target}'; fieldprob run {request.target} --help describes a study"
        )
    for name in names():
        try:
            study = read(models_directory() / f"{name}.py")
        except ValueError as error:
            print(f"{name}\n    cannot be read: {error}")
            continue
        print(f"{name}\n    {study.summary}")
        for preset, values in study.presets.items():
            print(f"    --preset {preset}: {describe_preset(values)}")
    if not names():
        print("no studies are installed; `fieldprob run FILE` runs a file of your own")
    return 0


def _info(request: Request) -> int:
    if request.help:
        print(command_help("info"))
        return 0
    from fieldprob.cli import environment

    environment.configure(request.options.get("device"), None)
    for key, value in environment.describe().items():
        print(f"{key:<12} {value}")
    return 0


def _report(request: Request) -> int:
    if request.help:
        print(command_help("report"))
        return 0
    if not request.target:
        raise UsageError("which directory? fieldprob report DIR, the directory that a run or a sweep wrote")
    from fieldprob.cli import commands

    commands.report(Path(request.target))
    return 0


def _run_or_sweep(request: Request) -> int:
    if request.help and not request.target:
        print(command_help(request.command))
        return 0
    study = target_of(request)
    if request.help:
        print(command_help(request.command, study, request.target or study.name))
        return 0
    check_parameters(request, study)
    study.preset(request.options.get("preset"))

    from fieldprob.cli import environment

    environment.configure(request.options.get("device"), request.options.get("precision", "64"))
    from fieldprob.cli import commands

    return commands.run(request, study) if request.command == "run" else commands.sweep(request, study)


def _message(error: BaseException, words: Sequence[str]) -> str:
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    if isinstance(error, OSError) and error.filename and str(error.filename) not in text:
        text = f"{error.filename}: {text}"
    lines = text.strip().splitlines()[:2]
    if not isinstance(error, UsageError):
        # a mistake inside a user's own file is easier to find with its line
        own = {Path(word).name for word in words if word.endswith(".py")}
        places = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name in own]
        if places:
            lines[0] += f"  ({Path(places[-1].filename).name}, line {places[-1].lineno}; --debug shows more)"
    return "\n".join(lines)


def _complain(text: str) -> None:
    print(f"fieldprob: {text}", file=sys.stderr)


def _version() -> str:
    import fieldprob

    return fieldprob.__version__
