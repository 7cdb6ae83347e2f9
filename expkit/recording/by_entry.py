"""What a call gives once, or once for each environment or episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from expkit.errors import SchemaError


def by_entry(what: str, value: Any, count: int, of: str = "environment") -> list[Any]:
    """An entry for each of `count`: of a sequence its own, of anything else the same. Raises SchemaError."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise SchemaError(f"{what}: {len(value)} entries for {count} {of}{'s' if count != 1 else ''}")
    return list(value)


def seeds_by_env(seed: Any, others: Mapping[str, Any] | None, envs: int) -> Sequence[dict[str, int]]:
    """The seeds of each environment's next episode, by what they are used for; empty where there are none.

    seed     as `env.reset` takes it: an integer, from which Gymnasium counts on, or one for each environment
    others   by use; an integer is shared by all environments
    """
    out: list[dict[str, int]] = [{} for _ in range(envs)]
    if seed is not None:
        listed = isinstance(seed, (list, tuple, np.ndarray))
        for env, one in enumerate(by_entry("seed", seed, envs)):
            if one is not None:
                out[env]["env"] = int(one) + (0 if listed else env)
    for use, value in (others or {}).items():
        for env, one in enumerate(by_entry(f"seeds[{use!r}]", value, envs)):
            if one is not None:
                out[env][use] = int(one)
    return out
