"""What users bring by name: `module:callable`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from expkit.errors import UsageError


def load_callable(spec: str, what: str = "policy") -> Callable[..., Any]:
    """The callable that `module:name` names; `what` it is to be is for the messages. Raises UsageError."""
    module_name, _, name = spec.partition(":")
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
