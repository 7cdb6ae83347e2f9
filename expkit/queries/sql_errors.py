"""What DuckDB says of a statement, in one line: what, where, and the name that may have been meant."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from typing import Any

from expkit.errors import ExpkitError, MemoryBudget, UsageError, did_you_mean
from expkit.predicates.tree import brief

TABLES = ("steps", "rows", "episodes")
_SHOWN = 80
_CONFINED = "SQL reads the tables of the runs only: no files, no extensions, no settings"


def explain(error: Exception, statement: str, names: Sequence[str], before: int = 0) -> ExpkitError:
    """The error to raise for one of DuckDB, which came of `statement`, with so many characters before it, over tables
    whose columns are `names`."""
    told = _details(str(error))
    message = " ".join(str(told.get("exception_message", error)).split("\n")[0].split())
    kind = type(error).__name__
    if kind == "OutOfMemoryException":
        return MemoryBudget(f"SQL: {message}; give it more, as --memory 4GiB")
    if kind == "PermissionException" or "configuration has been locked" in message:
        return UsageError(f"SQL: {message[:1].lower()}{message[1:]}; {_CONFINED}")
    subtype, name = told.get("error_subtype"), str(told.get("name", ""))
    if subtype == "COLUMN_NOT_FOUND":
        message = f"no column {brief(name)}{_near_column(name, names)}"
    elif subtype == "MISSING_ENTRY" and told.get("type") == "Table":
        message = f"no table {brief(name)}; " + did_you_mean(name, TABLES, f"there are {_listed(TABLES)}")
    elif subtype == "MISSING_ENTRY":
        likely = str(told.get("candidates", "")).split(",")[0]
        message = f"no {str(told.get('type', 'function')).lower()} {brief(name)}"
        message += f"; did you mean {likely}?" if likely else ""
    elif message.startswith("Could not convert string") and re.search(r"\bpolicy\b", statement):
        message += "; policy is a number, policy_name its name"
    return UsageError(f"SQL: {message}{_place(told, statement, before)}")


def _details(text: str) -> dict[str, Any]:
    """What DuckDB tells under `errors_as_json`."""
    start = text.find("{")
    try:
        told = json.loads(text[start:]) if start >= 0 else {}
    except json.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}


def _near_column(name: str, names: Sequence[str]) -> str:
    if name in names:
        return f" in what is selected from; the tables are {_listed(TABLES)}"
    inside = [known for known in names if known.startswith(f"{name}/")]
    if inside:
        return f'; a name with a slash goes in double quotes, as "{inside[0]}"'
    near = difflib.get_close_matches(name, names, 2)
    if near:
        return f"; did you mean {' or '.join(map(_quoted, near))}?"
    return f"; there are {_listed([_quoted(known) for known in names])}"


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else f'"{name}"'


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _place(told: dict[str, Any], statement: str, before: int) -> str:
    """` (character 8: select rewrd …)`."""
    position = str(told.get("position", ""))
    if not position.isdecimal():
        return f" ({brief(statement, _SHOWN)})"
    at = len(statement.encode()[: max(int(position) - before, 0)].decode("utf-8", "ignore"))
    begin = max(0, min(at - _SHOWN // 2, len(statement) - _SHOWN))
    shown = brief(statement[begin : begin + _SHOWN], _SHOWN)
    return f" (character {at + 1}: {'…' * bool(begin)}{shown}{'…' * (begin + _SHOWN < len(statement))})"
