"""Libraries that only some users need, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any

from expkit.errors import MissingExtra


def require(module: str, extra: str, what: str) -> Any:
    """The imported `module`, which `what` needs. Raises MissingExtra that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        library = module.partition(".")[0]
        raise MissingExtra(f"{what} needs {library}; install it with: pip install 'expkit[{extra}]'") from None
