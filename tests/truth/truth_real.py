"""Real environments by their names, and players of them who note what crosses the boundary, copied at that moment by
its space."""

from __future__ import annotations

import pkgutil
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from truth_told import Episode, Part, check

import expkit

Makers = dict[str, Callable[[], Any]]


class NotMade(Exception):
    """There is no such environment here."""


def flat(space: Any, value: Any, schema: Any, name: str) -> dict[str, Any]:
    """Columns of a value as the space says, by the rest of their names; numbers of another type than the space's are
    taken as the space's, of which `wrap` warns."""
    spaces = expkit.spaces.spaces.spaces
    if isinstance(space, spaces.Dict):
        parts = [(key, inner, value[key]) for key, inner in space.spaces.items()]
    elif isinstance(space, spaces.Tuple):
        parts = [(str(place), inner, value[place]) for place, inner in enumerate(space.spaces)]
    elif isinstance(value, str):
        codes = np.zeros(schema[name].shape, np.float64)
        codes[: len(value)] = list(map(ord, value))
        return {"": codes, "/length": np.array(len(value), np.float64)}
    else:
        return {"": np.array(value).astype(space.dtype).astype(np.float64)}
    out = {}
    for key, inner, part in parts:
        out |= {f"/{key}{rest}": one for rest, one in flat(inner, part, schema, f"{name}/{key}").items()}
    return out


class Noting:
    """Copies what is seen and done of one wrapped environment."""

    def __init__(self, env: Any, see: Any, act: Any):
        self.schema, self._act, self.masked = env.recorder.schema, act, "action_mask" in env.recorder.schema
        self._inside = hasattr(see, "spaces") and "action_mask" in getattr(see, "spaces", {})
        rest = {} if not self._inside else {key: one for key, one in see.spaces.items() if key != "action_mask"}
        self._alone = self._inside and list(rest) == ["observation"]
        spaces = expkit.spaces.spaces.spaces
        self._see = see if not self._inside else rest["observation"] if self._alone else spaces.Dict(rest)

    def seen(self, value: Any) -> dict[str, Any]:
        return flat(self._see, value["observation"] if self._alone else value, self.schema, "observation")

    def acted(self, value: Any) -> dict[str, Any]:
        return flat(self._act, value, self.schema, "action")

    def mask(self, value: Any, info: Any) -> Any:
        """bool of what is legal, None where nothing is told."""
        if not self.masked:
            return None
        told = value["action_mask"] if self._inside else info.get("action_mask")
        return None if told is None else np.array(told).reshape(-1) != 0


def choose(space: Any, mask: Any, draw: np.random.Generator) -> Any:
    """An action, a legal one."""
    if mask is not None and mask.any():
        return int(draw.choice(np.flatnonzero(mask))) + int(getattr(space, "start", 0))
    return space.sample()


def play_alone(env: Any, steps: int, seed: int) -> list[Episode]:
    draw, note, episodes = np.random.default_rng(seed), Noting(env, env.observation_space, env.action_space), []
    env.action_space.seed(seed)
    part, over, seen, info = Part(), True, None, {}
    for turn in range(steps):
        if over or turn == steps // 2:
            seen, info = env.reset(seed=seed + turn)
            part = Part(last=note.seen(seen))
            episodes.append({0: part})
        mask = note.mask(seen, info)
        action = choose(env.action_space, mask, draw)
        part.seen.append(part.last)
        part.actions.append(note.acted(action))
        if mask is not None:
            part.masks.append(mask)
        seen, reward, terminated, truncated, info = env.step(action)
        part.rewards.append(float(reward))
        part.last, part.ends = note.seen(seen), (bool(terminated), bool(truncated))
        over = terminated or truncated
    return episodes


def play_turns(env: Any, steps: int, seed: int) -> list[Episode]:
    """Two games, cut where they are long. What `last` says was paid since an agent's action belongs to that action."""
    draw, episodes = np.random.default_rng(seed), []
    for game in range(2):
        env.reset(seed=seed + game)
        agents = list(env.possible_agents)
        note = Noting(env, env.observation_space(agents[0]), env.action_space(agents[0]))
        parts = {player: Part(last_counts=False) for player in range(len(agents))}

        def pay(part: Part, reward: Any) -> None:
            if part.actions:
                part.rewards[-1] = float(reward)
            else:
                part.early = float(reward)

        for turn, agent in enumerate(env.agent_iter()):
            part = parts[agents.index(agent)]
            seen, reward, terminated, truncated, info = env.last()
            pay(part, reward)
            action = None
            if terminated or truncated:
                part.last, part.ends, part.last_counts = note.seen(seen), (bool(terminated), bool(truncated)), True
            elif turn >= steps:
                break
            else:
                mask = note.mask(seen, info)
                action = choose(env.action_space(agent), mask, draw)
                part.seen.append(note.seen(seen))
                part.actions.append(note.acted(action))
                part.rewards.append(0.0)
                if mask is not None:
                    part.masks.append(mask)
            env.step(action)
        for agent in env.agents:  # of a game that was cut
            if not (env.terminations[agent] or env.truncations[agent]):
                pay(parts[agents.index(agent)], env.unwrapped._cumulative_rewards[agent])
        episodes.append(parts)
    return episodes


def play_at_once(env: Any, steps: int, seed: int) -> list[Episode]:
    draw, episodes = np.random.default_rng(seed), []
    for game in range(2):
        seen, infos = env.reset(seed=seed + game)
        agents = list(env.possible_agents)
        note = Noting(env, env.observation_space(agents[0]), env.action_space(agents[0]))
        parts = {player: Part() for player in range(len(agents))}
        for agent, one in seen.items():
            parts[agents.index(agent)].last = note.seen(one)
        for _ in range(steps):
            actions = {}
            for agent in env.agents:
                part, mask = parts[agents.index(agent)], note.mask(seen[agent], infos.get(agent, {}))
                actions[agent] = choose(env.action_space(agent), mask, draw)
                part.seen.append(part.last)
                part.actions.append(note.acted(actions[agent]))
                if mask is not None:
                    part.masks.append(mask)
            seen, rewards, over, cut, infos = env.step(actions)
            for agent in actions:
                part = parts[agents.index(agent)]
                part.rewards.append(float(rewards[agent]))
                part.last, part.ends = note.seen(seen[agent]), (bool(over[agent]), bool(cut[agent]))
            if not env.agents:
                break
        episodes.append(parts)
    return episodes


def compare(make: Callable[[], Any], steps: int = 24, seed: int = 5, compacted: bool = True) -> int:
    """Rows of one real environment that were compared with what was seen; AssertionError at the first difference.
    Raises NotMade for what does not even begin here."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            env = make()
            single = not callable(env.observation_space)
            result = env.reset(seed=seed)
        except Exception as error:
            raise NotMade(f"{type(error).__name__}: {error}") from error
        info = result[1] if single else next(iter((getattr(env, "infos", None) or {}).values()), {})
        mask = "action_mask" if isinstance(info, dict) and "action_mask" in info else None
        play = play_alone if single else play_turns if hasattr(env, "agent_iter") else play_at_once
        try:
            env = expkit.wrap(env, Path(name) / "run", min_free=0, memory="256MiB", action_mask=mask, reward_dtype="f8")
            truth = play(env, steps, seed)
        finally:
            env.close()
        rows = check(Path(name) / "run", truth, compacted)
        assert rows
        return rows


def _registered(*entry_points: str) -> Makers:
    import gymnasium

    return {
        one.id: partial(gymnasium.make, one.id)
        for one in list(gymnasium.registry.values())
        if str(one.entry_point).startswith(entry_points)
    }


def gymnasium_own() -> Makers:
    return _registered("gymnasium.envs.classic_control", "gymnasium.envs.toy_text", "gymnasium.envs.box2d")


def minigrid() -> Makers:
    import gymnasium
    import minigrid

    gymnasium.register_envs(minigrid)
    return _registered("minigrid.")


def atari() -> Makers:
    import ale_py
    import gymnasium

    gymnasium.register_envs(ale_py)
    return _registered("ale_py.")


def mujoco() -> Makers:
    import_module("mujoco")
    found = _registered("gymnasium.envs.mujoco")
    return {name: make for name, make in found.items() if name[-2:] in ("v4", "v5")}  # others need an older MuJoCo


def highway() -> Makers:
    import gymnasium
    import highway_env

    gymnasium.register_envs(highway_env)
    return _registered("highway_env.")


def _modules(package: str) -> Makers:
    """Of PettingZoo and its like: `env` and `parallel_env` of every module with a version. Agents whose spaces differ
    are padded by SuperSuit, as the refusal says."""
    found: Makers = {}
    for one in pkgutil.iter_modules(import_module(package).__path__):
        if one.name.rpartition("_v")[2].isdigit():
            for kind in ("env", "parallel_env"):
                found[f"{package}.{one.name}.{kind}"] = partial(_padded, f"{package}.{one.name}", kind)
    return found


def _padded(module: str, kind: str) -> Any:
    made = getattr(import_module(module), kind, None)
    if made is None:
        raise NotMade(f"{module} has no {kind}")
    env = made()
    first, *others = env.possible_agents
    for space, pad in (("observation_space", "pad_observations_v0"), ("action_space", "pad_action_space_v0")):
        if any(getattr(env, space)(other) != getattr(env, space)(first) for other in others):
            env = getattr(import_module("supersuit"), pad)(env)
    return env


def zoo_classic() -> Makers:
    return _modules("pettingzoo.classic")


def zoo_butterfly() -> Makers:
    return _modules("pettingzoo.butterfly")


def zoo_sisl() -> Makers:
    return _modules("pettingzoo.sisl")


def mpe() -> Makers:
    return _modules("mpe2")


def openspiel() -> Makers:
    import pyspiel

    def make(name: str) -> Any:
        from shimmy.openspiel_compatibility import OpenSpielCompatibilityV0

        return OpenSpielCompatibilityV0(game_name=name)

    return {f"openspiel.{one.short_name}": partial(make, one.short_name)
            for one in pyspiel.registered_games() if one.default_loadable}  # fmt: skip


def pgx() -> Makers:
    from truth_pgx import NAMES, Pgx

    return {f"pgx.{name}": partial(Pgx, name) for name in NAMES}


FAMILIES: dict[str, Callable[[], Makers]] = {
    one.__name__: one
    for one in (
        gymnasium_own,
        minigrid,
        atari,
        mujoco,
        highway,
        zoo_classic,
        zoo_butterfly,
        zoo_sisl,
        mpe,
        openspiel,
        pgx,
    )
}
