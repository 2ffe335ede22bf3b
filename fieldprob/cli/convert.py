"""Words to values: the parameters of `study(...)` are read by tyro, each by its type."""

import contextlib
import dataclasses
import inspect
import io
import re
import shlex
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fieldprob.cli.arguments import UsageError


def parameter_types(study: Callable[..., Any]) -> dict[str, Any]:
    """Type of each parameter, annotations written as strings resolved."""
    hints = typing.get_type_hints(study, include_extras=True)
    return {name: hints[name] for name in inspect.signature(study).parameters}


def resolve(study: Callable[..., Any], preset: Mapping[str, Any], words: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """All parameters of the study: given words first, then the preset's values, then the defaults of the signature.

    Raises:
        UsageError: a word is not of the parameter's type, or a required parameter is missing.
    """
    kinds = parameter_types(study)
    values: dict[str, Any] = {}
    for name, parameter in inspect.signature(study).parameters.items():
        if name in words:
            values[name] = convert(name, kinds[name], words[name])
        elif name in preset:
            values[name] = preset[name]
        elif parameter.default is not inspect.Parameter.empty:
            values[name] = parameter.default
        else:
            raise UsageError(f"--{name.replace('_', '-')} is required")
    return values


def convert(name: str, kind: Any, words: Sequence[str]) -> Any:
    """The value of one parameter.

    Raises:
        UsageError: the words do not fit the type; the message names both.
    """
    import tyro

    flag = "--" + name.replace("_", "-")
    if kind is bool and len(words) == 1:
        words = [{"true": "True", "1": "True", "yes": "True", "false": "False", "0": "False", "no": "False"}.get(
            words[0].lower(), words[0])]  # fmt: skip
    holder = dataclasses.make_dataclass("parameter", [("value", kind)])
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return tyro.cli(holder, args=["--value", *words], config=(tyro.conf.FlagConversionOff,)).value
    except SystemExit:
        written = shlex.join(words) or "nothing"
        comma = any("," in word for word in words)
        several = (
            "; separate the entries of one value by spaces" if "tuple" in str(kind) else "; fieldprob sweep takes lists"
        )
        remedy = several if comma else ""
        raise UsageError(f"{flag} {written}: {_reason(said.getvalue(), kind)}{remedy}") from None
    except Exception as error:  # tyro raises several kinds for types that it cannot offer
        raise UsageError(f"{flag} has a type that the command line cannot read, {type_name(kind)}: {error}") from error


def type_name(kind: Any) -> str:
    """As it is written in source.

    >>> type_name(int), type_name(tuple[int, ...])
    ('int', 'tuple[int, ...]')
    """
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind).replace("typing.", "")


def _reason(said: str, kind: Any) -> str:
    text = " ".join(said.replace("│", " ").split())
    choices = re.search(r"Expected one of \((.*?),?\)", text)
    if choices:
        return "choose from " + choices.group(1).replace("'", "")
    return f"expected {in_words(kind)}"


_WORDS = {int: "an integer", float: "a number", str: "a word", bool: "true or false", type(None): "None"}


def in_words(kind: Any) -> str:
    """What to write for a value of a type.

    >>> in_words(float | typing.Literal["width"]), in_words(tuple[int, ...]), in_words(tuple[int, float])
    ('a number, or width', 'entries that are each an integer', 'an integer, then a number')
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return " or ".join(map(str, parts))
    if origin in (typing.Union, types.UnionType):
        return ", or ".join(map(in_words, parts))
    if origin in (tuple, list):
        repeated = origin is list or parts[-1] is ...
        return f"entries that are each {in_words(parts[0])}" if repeated else ", then ".join(map(in_words, parts))
    return _WORDS.get(kind, type_name(kind))
