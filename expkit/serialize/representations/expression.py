"""A representation as text: its name, and settings where it takes some.

planes-uint8
planes(army_scale=255, selected=[visible, fog])
my_module:boards(crop=7)
"""

from __future__ import annotations

import ast
import re

from expkit.errors import UsageError
from expkit.serialize.representations.protocol import Representation
from expkit.serialize.representations.registry import find_representation
from expkit.system.plugins import setting_of

LONGEST = 1000
_FORM = re.compile(r"([^\s()]+)\s*(\(.*\))?", re.DOTALL)


def parse_representation(text: str) -> Representation:
    """The representation that the text describes. Raises UsageError for text that is none and for an unknown name,
    ConfigError for settings that the representation does not take. Nothing is evaluated as Python."""
    match = _FORM.fullmatch(text.strip())
    if match is None or len(text) > LONGEST:
        raise _not_understood(text)
    if match[2] is None:
        return find_representation(match[1])
    try:
        call = ast.parse(f"f{match[2]}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
            raise _not_understood(text, f"settings of {match[1]} need their names")
        if any(keyword.arg is None for keyword in call.keywords):
            raise _not_understood(text)
        settings = {str(keyword.arg): setting_of(keyword.value) for keyword in call.keywords}
    except (SyntaxError, RecursionError, MemoryError):
        raise _not_understood(text) from None
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        raise _not_understood(text, str(error)) from None
    return find_representation(match[1], **settings)


def _not_understood(text: str, what: str = "") -> UsageError:
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    about = f": {what}" if what else ""
    return UsageError(f"representation {shown!r} is not understood{about}; write it like planes(army_scale=255)")
