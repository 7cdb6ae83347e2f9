"""What an environment shows, asked without moving its random streams.

A recorder needs to know what nobody looked at, as the last observation of an episode that is cut off. An environment
that draws when it is asked would play on differently for it, so its generators are put back.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np


def observe_undisturbed(env: Any, agent: Any) -> Any:
    """What `env.observe(agent)` returns, a copy; generators of NumPy and Python that the environment or its wrappers
    hold, and the global ones, are as before."""
    before = [(one, _state(one)) for one in _generators(env)]
    everywhere = np.random.get_state(), random.getstate()
    try:
        return copy.deepcopy(env.observe(agent))
    finally:
        for one, state in before:
            _restore(one, state)
        np.random.set_state(everywhere[0])
        random.setstate(everywhere[1])


def _generators(env: Any) -> list[Any]:
    found: dict[int, Any] = {}
    seen: set[int] = set()
    waiting = [env]
    while waiting and len(seen) < 64:
        thing = waiting.pop()
        if thing is None or id(thing) in seen:
            continue
        seen.add(id(thing))
        held = getattr(thing, "__dict__", {})
        for name, value in held.items():
            if isinstance(value, np.random.Generator | np.random.RandomState | random.Random):
                found[id(value)] = value
            elif name in ("env", "aec_env", "par_env", "game", "world", "scenario"):
                waiting.append(value)
    return list(found.values())


def _state(one: Any) -> Any:
    if isinstance(one, np.random.Generator):
        return one.bit_generator.state
    return one.get_state() if isinstance(one, np.random.RandomState) else one.getstate()


def _restore(one: Any, state: Any) -> None:
    if isinstance(one, np.random.Generator):
        one.bit_generator.state = state
    elif isinstance(one, np.random.RandomState):
        one.set_state(state)
    else:
        one.setstate(state)
