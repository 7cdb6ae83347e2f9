"""Foreign formats by name: the built-in ones, `module:attribute`, and those of installed packages.

Others plug in under the entry-point group `expkit.formats`: an object as `expkit.formats.protocol.Format` says, or a
class of such. A built-in format imports its library when it writes or reads, not when it is looked up.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from expkit.errors import ConfigError, UsageError, did_you_mean
from expkit.formats.protocol import Format
from expkit.system.plugins import known_names, load_callable, load_installed

GROUP = "expkit.formats"

_BUILT_IN = {
    "parquet": "ParquetFormat",
    "arrow": "ArrowFormat",
    "npz": "NpzFormat",
    "hdf5": "Hdf5Format",
    "minari": "MinariFormat",
    "csv": "CsvFormat",
    "ndjson": "NdjsonFormat",
    "huggingface": "HuggingFaceFormat",
}
_MODULES = {"arrow": "arrow_ipc"}


def format_names() -> list[str]:
    """Names that `find_format` knows: the built-in ones, then those of installed packages."""
    return known_names(GROUP, _BUILT_IN)


def find_format(name: str) -> Format:
    """The format of that name, or at `module:attribute`. Raises UsageError for a name that is nothing, ConfigError for
    something that is no format."""
    if name in _BUILT_IN:
        module = importlib.import_module(f"expkit.formats.{_MODULES.get(name, name)}")
        made: Format = getattr(module, _BUILT_IN[name])()
        return made
    if ":" in name:
        return _checked(name, load_callable(name, "format"))
    found = load_installed(GROUP, name)
    if found is None:
        known = format_names()
        hint = did_you_mean(name, known, f"there are {', '.join(known)}, and module:attribute", 0.5)
        raise UsageError(f"no format is called {name!r}; {hint}")
    return _checked(name, found)


def format_of(path: Path) -> Format:
    """The format that the suffix of `path` names. Raises UsageError."""
    for name in format_names():
        one = find_format(name)
        if any(path.name.lower().endswith(suffix) for suffix in one.suffixes):
            return one
    known = ", ".join(suffix for name in _BUILT_IN for suffix in find_format(name).suffixes[:1])
    said = f"the suffix of {path} names no format" if path.suffix else f"{path} has no suffix that names a format"
    raise UsageError(f"{said} ({known}); choose one with --format: {', '.join(format_names())}")


def _checked(name: str, found: Any) -> Format:
    made = found() if isinstance(found, type) else found
    if not isinstance(made, Format):
        raise ConfigError(f"format {name} lacks one of name, suffixes, about, carries, compressions, export, import_")
    return made
