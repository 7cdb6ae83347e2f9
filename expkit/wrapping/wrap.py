"""`expkit.wrap`: an environment of Gymnasium or PettingZoo that is recorded while it is used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from expkit.errors import UsageError
from expkit.games.protocol import SIMULTANEOUS
from expkit.recorder import Recorder
from expkit.recording.autoreset import autoreset_mode
from expkit.spaces.environment import agents_of, env_layout, env_metadata, is_multi_agent, is_turn_based
from expkit.system.extras import require


def wrap(
    env: Any,
    run: str | os.PathLike[str],
    *,
    action_mask: str | None = None,
    capacity: int = 64,
    players: Sequence[str] | int | None = None,
    autoreset: Any = None,
    reward_dtype: str = "f4",
    **options: Any,
) -> Any:
    """The environment, recorded into a run while it is used as before; `close` closes the run, and `recorder` is its
    Recorder: `env.recorder.set_policy(0, "ppo", version=3)`, `env.recorder.flush()`.

    env          of Gymnasium, single or vector, or of PettingZoo, AEC or Parallel, whose agents are the players
    action_mask  what the observation or the info calls the mask of legal actions, where it is not `action_mask` of
                 the observation; `legal_moves` may be a list of them
    capacity     entries there is room for in a Sequence, nodes and edges in a Graph, a quarter of the characters of a
                 text that does not say its length; more are refused
    players      names, or how many, of an environment that does not say which agents there may be
    autoreset    of a vector environment whose metadata do not say it: next_step, same_step or disabled
    reward_dtype what rewards are stored as, f4 or f8; a value that it cannot hold is warned of once. An environment of
                 several objectives says so by its `reward_space`
    options      of the Recorder: mode, metadata, memory, flush_interval, …

    Nothing is made and nothing replaced before the environment is accepted. Raises UsageError for what is no such
    environment, SchemaError for spaces without a form, MissingExtra, and what
    Recorder raises.
    """
    require_known(env)
    layout = env_layout(env, mask_key=action_mask, capacity=capacity, reward_dtype=reward_dtype)
    metadata = {"environment": env_metadata(env, layout), **options.pop("metadata", {})}
    source = options.pop("source", None)
    if is_multi_agent(env):
        from expkit.wrapping.pettingzoo import RecordedAEC, RecordedParallel

        names: Sequence[str] | int | None = [str(agent) for agent in agents_of(env)] or players
        if names is None:
            raise UsageError(f"{env} does not say which agents there may be; give players=")
        turns = is_turn_based(env)
        metadata[SIMULTANEOUS] = False  # of a Parallel one, too: whoever uses it may leave agents out of a step
        source = source or f"pettingzoo:{metadata['environment']['name']}"
        recorder = Recorder(run, layout.schema, players=names, source=source, metadata=metadata, **options)
        return _wrapped(recorder, RecordedAEC if turns else RecordedParallel, env, recorder, layout)
    metadata[SIMULTANEOUS] = True
    source = source or f"gymnasium:{metadata['environment']['name']}"
    options |= {"players": players or 1, "source": source, "metadata": metadata}
    if hasattr(env, "single_observation_space"):
        from expkit.wrapping.vector import RecordedVectorEnv

        told = (getattr(env, "metadata", None) or {}).get("autoreset_mode")
        mode = autoreset_mode(autoreset if told is None else told, env.num_envs)
        if autoreset is not None and autoreset_mode(autoreset, env.num_envs) != mode:
            raise UsageError(f"autoreset {autoreset!r}: the environment's metadata say {mode!r}; leave it out")
        recorder = Recorder(run, layout.schema, num_envs=env.num_envs, autoreset=mode, **options)
        return _wrapped(recorder, RecordedVectorEnv, env, recorder, layout, mode)
    from expkit.wrapping.gymnasium import RecordedEnv

    recorder = Recorder(run, layout.schema, **options)
    return _wrapped(recorder, RecordedEnv, env, recorder, layout)


def require_known(env: Any) -> None:
    """Raises UsageError for what is no environment of Gymnasium or PettingZoo, with the way out where it is known."""
    if is_multi_agent(env):
        pettingzoo = require("pettingzoo", "zoo", "recording a PettingZoo environment")
        if isinstance(env, pettingzoo.AECEnv | pettingzoo.ParallelEnv):
            return
        way = "make it a subclass of pettingzoo.AECEnv or pettingzoo.ParallelEnv"
    elif not (hasattr(env, "observation_space") and hasattr(env, "action_space")):
        way = "it has no observation_space"
    else:
        gymnasium = require("gymnasium", "gym", "recording a Gymnasium environment")
        vector = isinstance(env, gymnasium.vector.VectorEnv)
        if isinstance(env, gymnasium.Env) and not vector:
            return
        if vector and hasattr(env, "single_observation_space"):
            return
        way = "make it a subclass of gymnasium.Env"
        if vector or any(one.__module__.partition(".")[0] == "supersuit" for one in type(env).__mro__):
            way = "a vector that does not say its single_observation_space; wrap the PettingZoo environment within"
        elif hasattr(env, "num_envs") and hasattr(env, "step_wait"):
            way = "a VecEnv of Stable-Baselines3; wrap each environment before it, mode='a', or a gymnasium.make_vec"
        elif any(one.__module__.partition(".")[0] == "gym" for one in type(env).__mro__):
            way = "one of the old gym; shimmy makes it one of Gymnasium, gymnasium.make('GymV26Environment-v0', env=…)"
    raise UsageError(f"{type(env).__name__} is no environment of Gymnasium or PettingZoo: {way}")


def _wrapped(recorder: Recorder, make: Any, *given: Any) -> Any:
    """What `make` gives; the recorder is closed where it fails."""
    try:
        return make(*given)
    except BaseException:
        recorder.close()
        raise
