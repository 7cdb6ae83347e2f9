"""YAML read by the rules of version 1.2 (core schema), which people expect: `1e-3` is a float, `010` is ten, `yes`,
`no`, `on` and dates are strings. PyYAML by itself follows 1.1, where each of these is something else.

A key that stands twice is an error, aliases are refused (settings need none, and they are how small files grow
large), and files above 1 MiB are not read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from expkit.errors import ConfigError
from expkit.system.files import open_to_read

MAX_BYTES = 1 << 20
MAX_VALUES = 50_000
_OF_A_SHELL = re.compile(r"/dev/(fd/\d+|stdin)|/proc/self/fd/\d+")
_TAG = "tag:yaml.org,2002:"
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_NULL = re.compile(r"~|null|Null|NULL|")
_INT = re.compile(r"[-+]?[0-9]{1,400}|0o[0-7]{1,400}|0x[0-9a-fA-F]{1,400}")  # Python refuses to show 4,300 digits
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class _Loader(yaml.SafeLoader):
    """SafeLoader with the implicit types of YAML 1.2 and nothing else."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.MarkedYAMLError(problem="the tag !!map is for mappings", problem_mark=node.start_mark)
    out: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool | None):
            raise yaml.MarkedYAMLError(problem="a key has to be a single word", problem_mark=key_node.start_mark)
        if key in out:
            raise yaml.MarkedYAMLError(problem=f"key '{key}' stands twice", problem_mark=key_node.start_mark)
        out[key] = loader.construct_object(value_node, deep=True)
    return out


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern in (("bool", _BOOL), ("null", _NULL), ("int", _INT), ("float", _FLOAT)):
    _Loader.yaml_implicit_resolvers.setdefault(None, []).append(
        (_TAG + _name, re.compile(rf"(?:{_pattern.pattern})\Z"))
    )
_Loader.add_constructor(_TAG + "bool", lambda loader, node: _word(loader, node).lower() == "true")
_Loader.add_constructor(_TAG + "int", lambda loader, node: _integer(_word(loader, node)))
_Loader.add_constructor(_TAG + "float", lambda loader, node: _number(_word(loader, node)))
_Loader.add_constructor(_TAG + "map", _construct_mapping)


def _word(loader: Any, node: Any) -> str:
    return str(loader.construct_scalar(node))


def _integer(text: str) -> int:
    if _INT.fullmatch(text) is None:  # the tag !!int gives anything to read
        raise ValueError(f"no whole number of at most 400 digits: {text[:20]}")
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text, 10)


def _number(text: str) -> float:
    lowered = text.lower()
    return float(lowered.replace(".inf", "inf").replace(".nan", "nan"))


def scalar(text: str) -> Any:
    """What a plain scalar stands for: `10` an int, `1e-3` a float, `true` a bool, `~` None, else the text."""
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _NULL.fullmatch(text):
        return None
    if _INT.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        return _number(text)
    return text


def _refuse_many(text: str | bytes) -> None:
    """Raises ValueError, before anything is built, for more values than settings have."""
    for count, _ in enumerate(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))):
        if count > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values")


def load(text: str | bytes, name: str) -> Any:
    """The tree in `text`; `name` is what errors call it. Raises ConfigError with line and column."""
    try:
        _refuse_many(text)
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise ConfigError(f"{name}: not valid YAML{where}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError) as error:
        # The last but one are what PyYAML lets out for tags on values they are not for, such as !!timestamp x.
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{name}: not valid YAML: {said}") from None


def load_file(path: Path) -> Any:
    """The tree of a file. Raises ConfigError when it is too large or not YAML, OSError when it cannot be read."""
    return load(read_bounded(path), str(path))


def read_bounded(path: Path) -> bytes:
    """The bytes of a settings file. Raises ConfigError when there are more than MAX_BYTES, OSError."""
    # What a shell puts in the place of `<(command)` is a pipe, and is read like a file.
    with open(path if _OF_A_SHELL.fullmatch(str(path)) else open_to_read(path), "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES >> 20} MiB, which no settings file is; check the path")
    return data
