"""Words of the command line: which belong to the command, which to the study, and which names the study.

Options may stand in any order, before or after the name. Values of study parameters stay words here; `convert` gives
them their types, once JAX may be imported.
"""

import ast
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fieldprob.studyfile import Parameter, StudyFile, did_you_mean, find, names


class UsageError(ValueError):
    """A command that cannot be obeyed; the message says why and what to write instead."""


@dataclass(frozen=True)
class Option:
    name: str
    metavar: str  # empty for a switch
    help: str
    choices: tuple[str, ...] = ()


_OPTIONS = (
    Option("preset", "NAME", "start from the values of this preset; parameters given as well win"),
    Option("out", "DIR", "where to write (default: a directory under results/ named after the study and its settings)"),
    Option("device", "cpu|gpu", "where to compute (default: a GPU if JAX finds one)", ("cpu", "gpu")),
    Option("precision", "32|64", "bits of a floating-point number (default: 64)", ("32", "64")),
    Option("overwrite", "", "replace a finished result of another configuration"),
    Option("debug", "", "show the traceback of an error"),
    Option("help", "", "show this help"),
)
_SCHEDULER = Option(
    "scheduler", "ADDRESS|local", "share the work among Dask workers: those of a scheduler, or processes started here"
)
_WORKERS = Option("workers", "N", "number of processes of --scheduler local (default: 2)")
_RESUME = Option("resume", "", "continue a run that was killed or interrupted; its draws are those of an unbroken run")
_SEEDS = Option("seeds", "N", "repeat every point with N seeds: seed, seed + 1, ... (default: 1)")

OPTIONS = {
    "run": (_RESUME, _SCHEDULER, _WORKERS, *_OPTIONS),
    "sweep": (_SEEDS, _SCHEDULER, _WORKERS, *_OPTIONS),
    "report": _OPTIONS[-2:],
    "list": _OPTIONS[-2:],
    "info": (_OPTIONS[2], *_OPTIONS[-2:]),
}

DESCRIPTIONS = {
    "list": "Show the studies that come with fieldprob, and their presets.",
    "run": "Sample a study, hold its theories against the samples, and write both with a report into one directory.",
    "sweep": "Run a study over values of its parameters and draw theory against samples. "
    "Values are separated by commas; points that are already there are not run again.",
    "report": "Print the table of a finished run or sweep again, and remake its figure and report.",
    "info": "Show versions, devices and precision.",
}

USAGE = {
    "list": "fieldprob list",
    "run": "fieldprob run NAME|FILE [options] [--parameter value ...]",
    "sweep": "fieldprob sweep NAME|FILE --parameter value,value,... [--seeds N] [options]",
    "report": "fieldprob report DIR",
    "info": "fieldprob info",
}

EXAMPLES = {
    "run": (
        "fieldprob run bnn --preset small",
        "fieldprob run path/to/mine.py --width 300 --seed 1",
        "fieldprob run path/to/mine.py --width 300 --seed 1 --resume",
    ),
    "sweep": ("fieldprob sweep bnn --width 10,30,100,300 --seeds 4",),
}


@dataclass
class Request:
    """One command line, taken apart."""

    command: str
    words: tuple[str, ...]
    target: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, list[str]] = field(default_factory=dict)

    @property
    def help(self) -> bool:
        return "help" in self.options


def parse(command: str, words: Sequence[str]) -> Request:
    """Takes a command line apart.

    Raises:
        UsageError: an option of the command lacks its value, has a wrong one or is given twice; a word is left over.
    """
    request = Request(command, tuple(words))
    known = {option.name: option for option in OPTIONS[command]}
    positional, groups = _own_options(request, list(words), known)
    if command in ("run", "sweep"):
        request.target = _take_target(positional, groups)
    elif positional:
        request.target = positional.pop(0)
    if positional:
        raise UsageError(f"unexpected argument '{positional[0]}'; the form is: {USAGE[command]}")
    for name, values in groups:
        if command not in ("run", "sweep"):
            raise UsageError(f"fieldprob {command} has no option --{name}" + did_you_mean(name, [*known]))
        if name in request.parameters:
            raise UsageError(f"--{name} is given twice")
        request.parameters[name] = values
    return request


def check_parameters(request: Request, study: StudyFile) -> None:
    """Renames the given options to the parameters of the study.

    Raises:
        UsageError: the study has no such parameter.
    """
    known = {p.name: p for p in study.parameters}
    own = {option.name for option in OPTIONS[request.command]}
    renamed: dict[str, list[str]] = {}
    for written, values in request.parameters.items():
        name = written.replace("-", "_")
        if name not in known and name.removeprefix("no_") in known and not values:
            name, values = name.removeprefix("no_"), ["False"]
        if name not in known and written == _SEEDS.name:
            raise UsageError("--seeds belongs to `fieldprob sweep`; `fieldprob run` takes one --seed")
        if name not in known:
            flags = [name.replace("_", "-") for name in (*known, *own)]
            hint = did_you_mean(written, flags).replace("mean ", "mean --").replace(" or ", " or --")
            raise UsageError(f"{study.name} has no parameter --{written}{hint}\n{_see_help(request)}")
        if name in renamed:
            raise UsageError(f"--{written} is given twice")
        if not values and known[name].annotation == "bool":
            values = ["True"]
        renamed[name] = values
    request.parameters = renamed


def _see_help(request: Request) -> str:
    return f"`fieldprob {request.command} {request.target} --help` lists its parameters"


def _is_option(word: str) -> bool:
    # -3, -.5 and -inf are values
    return word.startswith("-") and len(word) > 1 and not re.match(r"-(\.?\d|inf|nan)", word)


def _own_options(
    request: Request, words: list[str], known: dict[str, Option]
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Moves the command's options into the request; returns free words, and the words after each other option."""
    positional: list[str] = []
    groups: list[tuple[str, list[str]]] = []
    current = positional
    while words:
        word = words.pop(0)
        if not _is_option(word):
            current.append(word)
            continue
        if word == "-h":
            word = "--help"
        if not word.startswith("--"):
            raise UsageError(f"unknown option {word}; options are written in full, --width 300")
        name, equals, value = word[2:].partition("=")
        option = known.get(name)
        if option is None:
            groups.append((name, [value] if equals else []))
            current = groups[-1][1]
            continue
        if name in request.options and option.metavar:
            raise UsageError(f"--{name} is given twice")
        if not option.metavar:
            if equals:
                raise UsageError(f"--{name} takes no value")
            request.options[name] = ""
        else:
            if not equals:
                if not words or _is_option(words[0]):
                    raise UsageError(f"--{name} needs a value: --{name} {option.metavar}")
                value = words.pop(0)
            if option.choices and value not in option.choices:
                raise UsageError(f"--{name} {value}: choose from {', '.join(option.choices)}")
            request.options[name] = value
        current = positional
    return positional, groups


def _take_target(positional: list[str], groups: list[tuple[str, list[str]]]) -> str | None:
    """Removes and returns the word that names the study: the first one, else the last one that is a study or a file."""
    if positional:
        return positional.pop(0)
    builtin = set(names())
    for _, values in reversed(groups):
        for index in range(len(values) - 1, -1, -1):
            word = values[index]
            if word.replace("-", "_") in builtin or (
                word.endswith(".py") and (Path(word).is_file() or len(values) > 1)
            ):
                return values.pop(index)
    return None


def target_of(request: Request) -> StudyFile:
    """The study that the request names.

    Raises:
        UsageError, ValueError: none is named, or it does not exist.
    """
    if not request.target:
        known = ", ".join(names()) or "none installed"
        raise UsageError(f"which study? {USAGE[request.command]}\nstudies: {known}")
    return find(request.target)


def command_help(command: str, study: StudyFile | None = None, target: str = "NAME|FILE") -> str:
    """The help of a command, with the parameters and presets of a study where one is named."""
    parts = ["usage: " + USAGE[command].replace("NAME|FILE", target), DESCRIPTIONS[command]]
    if study is not None:
        parts = parts[:1] + [study.doc.strip() or DESCRIPTIONS[command]]
        parts.append(_section(f"parameters of {study.name}:", [_parameter_entry(p) for p in study.parameters]))
        if study.presets:
            presets = [(name, describe_preset(values)) for name, values in study.presets.items()]
            parts.append(_section("presets (--preset NAME):", presets))
    options = [(f"--{o.name} {o.metavar}".strip(), o.help) for o in OPTIONS[command]]
    parts.append(_section("options:", options))
    if study is None and command in ("run", "sweep"):
        parts.append("A study adds its own parameters: " + USAGE["run"].split(" [")[0] + " --help")
        parts.append("studies: " + (", ".join(names()) or "none installed"))
    if command in EXAMPLES and study is None:
        parts.append("\n".join(["examples:", *(f"  {example}" for example in EXAMPLES[command])]))
    return "\n\n".join(parts)


def main_help() -> str:
    """The help of `fieldprob` itself."""
    commands = _section("commands:", [(name, text.split(". ")[0].rstrip(".")) for name, text in DESCRIPTIONS.items()])
    intro = "Sample a neural network's posterior and hold the field theories of it against the samples."
    start = "Start with: fieldprob run bnn --preset small\nOptions of a command: fieldprob COMMAND --help"
    return "\n\n".join(["usage: fieldprob COMMAND ...", intro, commands, start])


def describe_preset(values: dict[str, object]) -> str:
    """A preset on one line, `width=64, classes=0 1`.

    >>> describe_preset({"width": 64, "classes": (0, 1)})
    'width=64, classes=0 1'
    """
    return ", ".join(f"{name.replace('_', '-')}={_written(value)}" for name, value in values.items()) or "the defaults"


def _written(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _parameter_entry(parameter: Parameter) -> tuple[str, str]:
    default = "required" if parameter.default is None else f"default: {parameter.default}"
    return f"{parameter.flag} {placeholder(parameter.annotation)}", f"{parameter.help} ({default})".strip()


def placeholder(annotation: str) -> str:
    """What stands for the value of a parameter in its help, of the source of its type.

    >>> placeholder("tuple[int, ...]"), placeholder("Literal['standard', 'mean-field'] | float")
    ('INT [INT ...]', '{standard,mean-field}|FLOAT')
    >>> placeholder("float | Literal['width'] | None")
    'FLOAT|width|NONE'
    """

    def written(node: ast.expr) -> str:
        match node:
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return f"{written(left)}|{written(right)}"
            case ast.Subscript(value=value, slice=inner):
                parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
                if ast.unparse(value).endswith("Literal"):
                    choices = [str(ast.literal_eval(part)) for part in parts]
                    return choices[0] if len(choices) == 1 else "{" + ",".join(choices) + "}"
                words = [written(part) for part in parts if ast.unparse(part) != "..."]
                repeated = len(words) < len(parts) or ast.unparse(value).lower().endswith("list")
                return f"{words[0]} [{words[0]} ...]" if repeated else " ".join(words)
            case _:
                return ast.unparse(node).upper()

    return written(ast.parse(annotation, mode="eval").body)


def _section(title: str, entries: Sequence[tuple[str, str]]) -> str:
    column = min(28, max((len(left) for left, _ in entries), default=0)) + 4
    lines = [title]
    for left, right in entries:
        wrapped = textwrap.wrap(right, width=max(40, 110 - column)) or [""]
        if len(left) + 2 > column - 2:
            lines.append(f"  {left}")
            left = ""
        lines.append(f"  {left:<{column - 2}}{wrapped[0]}".rstrip())
        lines.extend(" " * column + text for text in wrapped[1:])
    return "\n".join(lines)
