"""What an environment does when an episode is over, in Gymnasium's terms."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal, get_args

from expkit.errors import UsageError

Autoreset = Literal["next_step", "same_step", "disabled"]
_MODES: tuple[str, ...] = get_args(Autoreset)


def autoreset_mode(given: Any, num_envs: int | None) -> Autoreset:
    """The mode, from its name (`next_step`, Gymnasium's `NextStep`) or from Gymnasium's AutoresetMode. A single
    environment that is not told of does not reset itself. Raises UsageError: a vector environment's mode is never
    guessed, for each leaves other rows to drop."""
    if given is None:
        if num_envs is None:
            return "disabled"
        raise UsageError(
            "a vector environment needs autoreset='next_step', 'same_step' or 'disabled'; "
            "see env.metadata['autoreset_mode']"
        )
    name = given.name if isinstance(given, Enum) else given
    plain = str(name).replace("_", "").lower()
    for mode in _MODES:
        if mode.replace("_", "") == plain:
            return mode  # type: ignore[return-value]
    raise UsageError(f"autoreset {given!r} is not one of {', '.join(map(repr, _MODES))}")
