"""Libraries that only some users need, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any

from expkit.errors import MissingExtra


def require(module: str, extra: str, what: str) -> Any:
    """The imported `module`, which `what` needs. Raises MissingExtra that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        library = module.partition(".")[0]
        raise MissingExtra(f"{what} needs {library}; install it with: pip install 'expkit[{extra}]'") from None
    except ImportError as error:  # it is installed: no memory to load it, or another library of the wrong version
        library, said = module.partition(".")[0], " ".join(str(error).split())
        raise MissingExtra(f"{what} needs {library}, which is installed and cannot be loaded: {said}") from None
