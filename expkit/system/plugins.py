"""What users bring by name: `module:callable`, and the settings that a name is given in text: `name(scale=2)`."""

from __future__ import annotations

import ast
import importlib
import math
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from expkit.errors import UsageError
from expkit.system import trust


def load_callable(spec: str, what: str = "policy") -> Callable[..., Any]:
    """The callable that `module:name` names; `what` it is to be is for the messages. Raises UsageError, NotTrusted
    where only a run names it."""
    module_name, _, name = spec.partition(":")
    if not all(part.isidentifier() for part in f"{module_name}.{name}".split(".")):
        raise UsageError(f"{what} {spec!r} is not understood; write it as module:callable")
    trust.check(spec, what)
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise UsageError(f"{what} {spec!r}: no module {error.name!r}; is its folder on PYTHONPATH?") from None
    except AttributeError:
        raise UsageError(f"{what} {spec!r}: module {module_name!r} has no {name!r}") from None
    if not callable(found):
        raise UsageError(f"{what} {spec!r} is a {type(found).__name__}, not a callable")
    made: Callable[..., Any] = found
    return made


def known_names(group: str, built_in: Iterable[str]) -> list[str]:
    """The built-in names, then those of installed packages under that group of entry points."""
    names = list(built_in)
    return [*names, *sorted({point.name for point in entry_points(group=group)} - set(names))]


def load_installed(group: str, name: str) -> Any:
    """What an installed package offers under that name, None where none does."""
    found = list(entry_points(group=group, name=name))
    return found[0].load() if found else None


# What expkit itself calls: an error that comes from there is one of expkit's.
_OWN_LIBRARIES = ("numpy", "numba", "llvmlite", "msgspec", "zstandard", "yaml")


def where_raised(error: BaseException) -> str:
    """`file:line, in function` of the user's code that raised it: the innermost of it, of a library that the user
    brought where that is all there is; empty for an error of expkit's own."""
    package = Path(__file__).resolve().parent.parent
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")}
    theirs, own = "", ""
    for frame in traceback.extract_tb(error.__traceback__):
        file = Path(frame.filename).resolve()
        if frame.filename.startswith("<") or any(file.is_relative_to(one) for one in (package, *_beside(package))):
            continue
        place = f"{_short(file)}:{frame.lineno}, in {frame.name}"
        inside = next((file.relative_to(one) for one in sorted(installed) if file.is_relative_to(one)), None)
        if inside is None:
            own = place
        elif not theirs and "site-packages" in file.parts and not set(file.parts) & set(_OWN_LIBRARIES):
            theirs = place
    return own or theirs


def _beside(package: Path) -> list[Path]:
    """Where the parts of expkit are that may stand beside it: links of a clone."""
    return [(package / name).resolve() for name in ("commands", "formats")]


def _short(file: Path) -> str:
    here = Path.cwd()
    return str(file.relative_to(here)) if file.is_relative_to(here) else str(file)


def number_of(node: ast.expr) -> float | int | None:
    """The number that an expression is, with its sign, else None; infinite for an integer beyond what a float holds."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = number_of(node.operand)
        return None if value is None else -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return node.value if node.value <= sys.float_info.max else math.inf
    return None


def setting_of(node: ast.expr, word: Callable[[str], str] = str) -> Any:
    """What a setting is given: a number, a truth value, a word with or without quotes, a list of such. `word` is asked
    what a bare one stands for. Nothing is evaluated. Raises ValueError for anything else."""
    number = number_of(node)
    if number is not None:
        return number
    if isinstance(node, ast.Name):
        return word(node.id)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | str):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [setting_of(element, word) for element in node.elts]
    raise ValueError("a setting is a number, a word, True or False, or a list of them")
