"""Which questions are SQL, and which are conditions on rows."""

from __future__ import annotations

import re

from expkit.errors import UsageError

_SELECTS = "select|with|from|values|table|describe|desc|summarize|show|explain|pivot|unpivot"
_CHANGES = (
    "insert|update|delete|merge|create|alter|drop|truncate|copy|attach|detach|install|load|set|reset|pragma|call|use|"
    "export|import|begin|commit|rollback|checkpoint|vacuum|analyze|prepare|execute|deallocate"
)
_BLANK = r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)"
# Fields may be called `values` or `set`: behind them stands a comparison, or nothing.
_NO_COMPARISON = rf"(?!{_BLANK}*(?:(?:in|is|not|between|and|or)\b|\[|\Z))"
_STATEMENT = re.compile(rf"(?:{_BLANK}|\()*(?:{_SELECTS})\b{_NO_COMPARISON}(?={_BLANK}*[\w\"'(*-])", re.I | re.S)
_CHANGE = re.compile(rf"{_BLANK}*({_CHANGES})\b{_NO_COMPARISON}(?={_BLANK}+[\w\"'(])", re.I | re.S)


def is_statement(text: str) -> bool:
    """Whether a question is a statement of SQL rather than a condition. Raises UsageError for one that would change
    something, which no question may."""
    changing = _CHANGE.match(text)
    if changing:
        raise UsageError(
            f"QUERY: {changing[1].upper()} changes something; a query begins with SELECT, WITH, FROM or the like"
        )
    return _STATEMENT.match(text) is not None
