"""Study files: plain Python modules that hold a NumPyro model, `presets` and a function `study(...)`.

A file is found by name (those in `models/`) or by path, described with `ast`, so that nothing is imported, and loaded
only to be run. This module needs the standard library alone: the command line answers its help from it.
"""

import ast
import difflib
import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Parameter", "StudyFile", "find", "models_directory", "names", "read"]

# Names that the command line keeps for itself; a study parameter may not take one.
RESERVED = (
    "preset", "out", "device", "precision", "overwrite", "resume", "scheduler", "workers", "debug", "help", "seeds",
)  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """A parameter of `study(...)` as its source spells it; `default` is None where there is none."""

    name: str
    annotation: str
    default: str | None
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


@dataclass(frozen=True)
class StudyFile:
    """What a study file says about itself, read without importing it."""

    name: str
    path: Path
    doc: str
    presets: dict[str, dict[str, Any]]
    parameters: tuple[Parameter, ...]
    fingerprint: str

    @property
    def summary(self) -> str:
        """The first line of the module's docstring."""
        return self.doc.strip().splitlines()[0] if self.doc.strip() else ""

    def load(self) -> Callable[..., Any]:
        """Imports the file and returns its function `study`. The file's directory joins the end of `sys.path`."""
        directory = str(self.path.resolve().parent)
        if directory not in sys.path:
            sys.path.append(directory)
        module_name = "fieldprob_study_" + re.sub(r"\W", "_", self.name)
        spec = importlib.util.spec_from_file_location(module_name, self.path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)
        return module.study

    def preset(self, name: str | None) -> dict[str, Any]:
        """The values of a preset; none for None.

        Raises:
            ValueError: there is no such preset.
        """
        if name is None:
            return {}
        if name not in self.presets:
            known = ", ".join(self.presets) or "none"
            raise ValueError(f"--preset: {self.name} has no preset '{name}' (presets: {known})")
        return dict(self.presets[name])


def models_directory() -> Path:
    """Where fieldprob's own studies are: `models/` of the source tree, else the copy inside the package."""
    package = Path(__file__).resolve().parent
    source = package.parent / "models"
    return source if source.is_dir() and (package.parent / "pyproject.toml").is_file() else package / "models"


def names() -> list[str]:
    """The names of the studies that come with fieldprob.

    >>> isinstance(names(), list)
    True
    """
    return sorted(path.stem for path in models_directory().glob("*.py") if not path.stem.startswith("_"))


def find(name: str) -> StudyFile:
    """The study of that name, or in that file (a name that ends in `.py` or holds a path separator).

    Raises:
        ValueError: no such study or file (close matches are named), or the file is no study file.
    """
    if name.endswith(".py") or "/" in name or "\\" in name:
        path = Path(name).expanduser()
        if path.is_file():
            return read(path)
        near = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        what = "is a directory, not a study file" if path.is_dir() else "does not exist"
        raise ValueError(f"the study file {name} {what}" + did_you_mean(path.name, near))
    stem = name.replace("-", "_")
    if stem in names():
        return read(models_directory() / f"{stem}.py")
    if Path(f"{name}.py").is_file():
        raise ValueError(f"no study is called '{name}'; for the file in this directory write {name}.py")
    raise ValueError(f"no study is called '{name}'" + did_you_mean(name, names()) + "\n`fieldprob list` shows them all")


def read(path: Path) -> StudyFile:
    """Describes a study file from its source alone.

    Raises:
        ValueError: the file cannot be parsed, has no plain function `study`, a parameter that the command line cannot
            offer, or presets that are not a literal dictionary of its parameters.
    """
    label = path.name
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ValueError(f"{label}, line {error.lineno}: {error.msg}") from error
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{label} cannot be read as a study file: {error}") from error
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "study"]
    if not functions:
        raise ValueError(f"{label} has no function `study`; a study file defines `def study(width: int = 128, ...)`")
    parameters = _parameters(functions[-1], label)
    presets = _presets(tree, {p.name for p in parameters}, label)
    return StudyFile(
        name=path.stem,
        path=path,
        doc=ast.get_docstring(tree) or "",
        presets=presets,
        parameters=parameters,
        fingerprint=_fingerprint(tree),
    )


def did_you_mean(word: str, known: list[str] | tuple[str, ...]) -> str:
    """The end of an error message that names close matches, or the empty string.

    >>> did_you_mean("widht", ["width", "depth"])
    '; did you mean width?'
    """
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _parameters(function: ast.FunctionDef, label: str) -> tuple[Parameter, ...]:
    arguments = function.args
    if arguments.vararg or arguments.kwarg or arguments.posonlyargs:
        raise ValueError(f"{label}: study(...) must name each parameter; *args, **kwargs and / have no option to match")
    helps = argument_help(ast.get_docstring(function) or "")
    positional: list[ast.expr | None] = [None] * (len(arguments.args) - len(arguments.defaults))
    defaults = [*positional, *arguments.defaults, *arguments.kw_defaults]
    parameters = []
    for argument, default in zip([*arguments.args, *arguments.kwonlyargs], defaults, strict=True):
        name = argument.arg
        if name in RESERVED or name.startswith(("_", "no_")):
            raise ValueError(
                f"{label}: the parameter `{name}` of study(...) clashes with the command line's own options "
                f"({', '.join(RESERVED)}, no_..., _...); rename it"
            )
        if argument.annotation is None:
            raise ValueError(f"{label}: the parameter `{name}` of study(...) has no type; write `{name}: int`, say")
        parameters.append(
            Parameter(
                name=name,
                annotation=ast.unparse(argument.annotation),
                default=None if default is None else ast.unparse(default),
                help=helps.get(name, ""),
            )
        )
    return tuple(parameters)


def _presets(tree: ast.Module, parameters: set[str], label: str) -> dict[str, dict[str, Any]]:
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if not any(isinstance(target, ast.Name) and target.id == "presets" for target in targets):
            continue
        assert isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        try:
            presets = ast.literal_eval(node.value)
        except ValueError:
            presets = None
        if not isinstance(presets, dict) or not all(isinstance(values, dict) for values in presets.values()):
            raise ValueError(f'{label}: presets must be a literal dictionary, {{"small": {{"width": 64}}, ...}}')
        for preset, values in presets.items():
            for name in values:
                if name not in parameters:
                    hint = did_you_mean(str(name), sorted(parameters))
                    raise ValueError(f"{label}: preset '{preset}' sets `{name}`, which study(...) does not take{hint}")
        return presets
    return {}


def argument_help(doc: str) -> dict[str, str]:
    """The `Args:` section of a Google-style docstring, one entry a parameter.

    >>> argument_help("A study.\\n\\nArgs:\\n    width: neurons of\\n        each layer\\n    seed: of everything\\n")
    {'width': 'neurons of each layer', 'seed': 'of everything'}
    """
    section = re.search(
        r"^(?:Args|Arguments|Parameters):[ \t]*\n((?:[ \t]+.*(?:\n|$)|[ \t]*\n)*)", doc, flags=re.MULTILINE
    )
    if section is None:
        return {}
    helps: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(section.group(1)).splitlines():
        entry = re.match(r"(\w+)(?: \([^)]*\))?:\s*(.*)", line)
        if entry:
            name, text = entry.groups()
            helps[name] = text
        elif name and line.strip():
            helps[name] = f"{helps[name]} {line.strip()}".strip()
    return helps


def _fingerprint(tree: ast.Module) -> str:
    # Of the code, not of the text: comments, docstrings and layout may change without making old results stale.
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]
