"""The rows of an environment: its spaces as fields, and what it returns as their values."""

from __future__ import annotations

import copy
import importlib.metadata
import platform
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from expkit.errors import SchemaError, UsageError
from expkit.row.schema import Field, Schema
from expkit.spaces.layouts import FixedLayout
from expkit.spaces.masks import MASK, as_mask, is_legal, mask_key_in
from expkit.spaces.spaces import CAPACITY, layout_of, spaces
from expkit.spaces.told import Rewards, as_bits


class EnvLayout:
    """How observations, masks and actions of an environment lie in the columns of rows.

    mask_key   what the observation, or else the info, calls the mask; without, `action_mask` of the observation
    reward_shape, reward_dtype   of one reward, and what it is stored as
    """

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        *,
        mask_key: str | None,
        capacity: int = CAPACITY,
        reward_shape: tuple[int, ...] = (),
        reward_dtype: str = "f4",
    ):
        self.observation_space, self.action_space = observation_space, action_space
        self.mask_key = mask_key or MASK
        self._mask_seen = _mask_space(observation_space, self.mask_key)
        self._alone: str | None = None
        seen = observation_space
        if self._mask_seen is not None:
            rest = {key: space for key, space in observation_space.spaces.items() if key != self.mask_key}
            # PettingZoo's own form, {"observation": …, "action_mask": …}, is an observation and its mask.
            self._alone = next(iter(rest)) if list(rest) == ["observation"] else None
            seen = rest["observation"] if self._alone else spaces.Dict(rest)
        self.observation = layout_of(seen, "observation", "observation", capacity)
        self.action = layout_of(action_space, "action", "action", capacity)
        self.start = int(getattr(action_space, "start", 0)) if isinstance(action_space, spaces.Discrete) else 0
        self.mask_told = mask_key is not None and self._mask_seen is None
        fields = list(self.observation.fields)
        self.actions = 0
        if self._mask_seen is not None:
            self.actions = int(np.prod(self._mask_seen.shape))
        elif self.mask_told:
            if not isinstance(action_space, spaces.Discrete):
                raise SchemaError(
                    f"{self.mask_key}: a mask from the info is for Discrete actions, these are {action_space}"
                )
            self.actions = int(action_space.n)
        if self.actions:
            fields.append(Field(MASK, "bool", (self.actions,), "observation", nullable=self.mask_told,
                                meaning="actions that are legal now"))  # fmt: skip
        self.rewards = Rewards(reward_shape, reward_dtype)
        reward = Field("reward", reward_dtype, reward_shape, meaning="reward caused by this row's action")
        self.schema = Schema([*fields, *self.action.fields, reward])
        self._checked = False
        # One column and no mask, as most environments have it, costs a copy and little else.
        plain_seen = not self.actions
        self._only_seen = self.observation if plain_seen and isinstance(self.observation, FixedLayout) else None

    def seen(self, observation: Any, info: Any = None, who: str = "") -> dict[str, Any]:
        """Columns of one observation, with its mask, copied. Raises SchemaError."""
        if not self._checked:
            self._check(observation, info, who)
        if self._only_seen is not None:
            return self._only_seen.row(observation)
        if self._mask_seen is not None:
            if not isinstance(observation, Mapping) or self.mask_key not in observation:
                raise SchemaError(f"observation: {_what(observation)}; the space has {self.mask_key} in it")
            row = self.observation.row(self._without_mask(observation))
            row[MASK] = as_mask(self.mask_key, observation[self.mask_key], self.actions, shape=self._mask_seen.shape)
            return row
        row = self.observation.row(observation)
        if self.mask_told:
            row[MASK] = self.mask_of(info)
        return row

    def mask_of(self, info: Any) -> np.ndarray | None:
        """A copy of the mask that the info of one player has, None where it has none. Raises SchemaError."""
        given = info.get(self.mask_key) if self.mask_told and isinstance(info, Mapping) else None
        return None if given is None else as_mask(self.mask_key, given, self.actions, self.start)

    def copy_of_mask(self, info: Any) -> Any:
        """What the info has as its mask, copied as it is; to be judged when it is needed."""
        return copy.deepcopy(info.get(self.mask_key)) if isinstance(info, Mapping) else None

    def seen_batch(self, observation: Any, rows: int, info: Any = None) -> dict[str, Any]:
        """Columns of a vector environment's batch of observations. Raises SchemaError."""
        seen = observation if self._mask_seen is None else self._without_mask(observation)
        columns: dict[str, Any] = dict(self.observation.columns(seen, rows))
        if self._mask_seen is not None:
            columns[MASK] = as_bits(self.mask_key, observation[self.mask_key]).reshape(rows, -1)
        elif self.mask_told:
            columns[MASK] = self._masks(info or {}, rows)
        return columns

    def acted(self, action: Any) -> dict[str, Any]:
        """Columns of one action, copied."""
        return self.action.row(action)

    def check_vector(self, observation: Any, space: Any, info: Any) -> None:
        """Once: warn where a batch of observations is not in the space, or has masks that are not recorded."""
        if not self._checked:
            self._check(observation, info, "", space)

    def is_legal(self, seen: Mapping[str, Any], action: Any) -> bool:
        """Whether the mask that was seen allows the action; true without a mask."""
        return is_legal(seen.get(MASK), action, self.start)

    def _without_mask(self, observation: Mapping[str, Any]) -> Any:
        if self._alone is not None:
            return observation[self._alone]
        return {key: value for key, value in observation.items() if key != self.mask_key}

    def _masks(self, info: Any, rows: int) -> list[np.ndarray | None]:
        """Of a vector environment's info, one for each: None where an environment gave none, where Gymnasium has
        zeros, for what is legal there is not known."""
        if isinstance(info, Sequence):  # one info for each, as the wrapper DictInfoToList has it
            return [self.mask_of(one) for one in info]
        given, told = info.get(self.mask_key), info.get(f"_{self.mask_key}")
        if given is None:
            return [None] * rows
        return [
            as_mask(self.mask_key, given[env], self.actions, self.start)
            if (told is None or told[env]) and given[env] is not None
            else None
            for env in range(rows)
        ]

    def _check(self, observation: Any, info: Any, who: str, space: Any = None) -> None:
        self._checked = True
        space = self.observation_space if space is None else space
        of = f" of {who}" if who else ""
        try:
            fits = space.contains(observation)
        except Exception:  # of a space or an environment that does not keep to the rules
            fits = False
        if not fits:
            warnings.warn(
                f"the first observation{of}, {_what(observation)}, is not in the observation space {space}; "
                "it is recorded as far as it fits the space's type and shape",
                stacklevel=4,
            )
        key = mask_key_in(info)
        if key is not None and not self.actions:
            warnings.warn(
                f"the info{of} has {key}, which is not recorded; give action_mask={key!r} to record it", stacklevel=4
            )


def env_layout(
    env: Any, *, mask_key: str | None = None, capacity: int = CAPACITY, reward_dtype: str = "f4"
) -> EnvLayout:
    """The layout of a Gymnasium or PettingZoo environment of any kind. Raises UsageError for what is none, SchemaError
    for agents whose spaces differ."""
    if hasattr(env, "single_observation_space"):
        pair = env.single_observation_space, env.single_action_space
    elif is_multi_agent(env):
        pair = agents_spaces(env)
    elif hasattr(env, "observation_space") and hasattr(env, "action_space"):
        pair = env.observation_space, env.action_space
    else:
        raise UsageError(
            f"{type(env).__name__} is no environment of Gymnasium or PettingZoo: it has no observation_space"
        )
    several = _reward_shape(env)
    return EnvLayout(*pair, mask_key=mask_key, capacity=capacity, reward_shape=several, reward_dtype=reward_dtype)


def _reward_shape(env: Any) -> tuple[int, ...]:
    """Shape of one reward, as environments of several objectives say it by `reward_space`."""
    space = getattr(env, "reward_space", None) or getattr(getattr(env, "unwrapped", None), "reward_space", None)
    shape = getattr(space, "shape", None)
    return tuple(shape) if isinstance(space, spaces.Box) and shape and shape != (1,) else ()


def is_multi_agent(env: Any) -> bool:
    """Whether the environment has PettingZoo's form: spaces by agent."""
    return callable(getattr(env, "observation_space", None)) and callable(getattr(env, "action_space", None))


def is_turn_based(env: Any) -> bool:
    """Whether the environment of several agents is an AEC one."""
    return callable(getattr(env, "agent_iter", None)) and callable(getattr(env, "last", None))


def agents_of(env: Any) -> list[Any]:
    """All agents that there may be, in order; empty where the environment does not say."""
    try:
        return list(env.possible_agents)
    except AttributeError:
        return []


def agents_spaces(env: Any) -> tuple[Any, Any]:
    """The one observation space and the one action space of all agents. Raises SchemaError."""
    agents = agents_of(env) or list(getattr(env, "agents", None) or [])
    if not agents:
        raise SchemaError(f"{env} has no possible_agents to take spaces from; reset it first, and give players=")
    pairs = []
    for agent in agents:
        try:
            pairs.append((env.observation_space(agent), env.action_space(agent)))
        except (AttributeError, KeyError, NotImplementedError) as error:
            raise SchemaError(f"{env}: agent {agent} has no spaces ({type(error).__name__}: {error})") from None
    for agent, pair in zip(agents, pairs, strict=True):
        for what, mine, first in zip(("observation", "action"), pair, pairs[0], strict=True):
            if mine != first:
                raise SchemaError(
                    f"agents {agents[0]} and {agent} have {what} spaces that differ, {first} and {mine}; rows of a run "
                    "have one schema: make them equal, as supersuit's pad_observations_v0 and pad_action_space_v0 do"
                )
    return pairs[0]


def env_metadata(env: Any, layout: EnvLayout) -> dict[str, Any]:
    """What is known of an environment, for a run's metadata: JSON values."""
    spec = getattr(env, "spec", None)
    about: dict[str, Any] = {"name": _name_of(env), "wrappers": wrappers_of(env)}
    if spec is not None and hasattr(spec, "id"):
        about["spec"] = {"id": spec.id, "entry_point": str(spec.entry_point), "kwargs": plain(dict(spec.kwargs))}
        if getattr(spec, "max_episode_steps", None) is not None:
            about["spec"]["max_episode_steps"] = spec.max_episode_steps
    about["observation_space"], about["action_space"] = str(layout.observation_space), str(layout.action_space)
    about["versions"] = versions_of(env)
    return about


def wrappers_of(env: Any) -> list[str]:
    """Class names from the outermost wrapper to the environment itself."""
    out: list[str] = []
    for _ in range(64):
        out.append(f"{type(env).__module__}.{type(env).__qualname__}")
        inner = next((vars(env)[name] for name in ("env", "aec_env", "par_env") if name in _vars(env)), None)
        if inner is None:
            break
        env = inner
    return out


def versions_of(env: Any) -> dict[str, str]:
    """Versions of Python, NumPy and the libraries that the environment comes from."""
    out = {"python": platform.python_version(), "numpy": np.__version__}
    roots = {name.partition(".")[0] for name in wrappers_of(env)} | {"gymnasium"}
    for root in sorted(roots):
        try:
            out[root] = importlib.metadata.version(root)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out


def space_seed(space: Any) -> int | None:
    """What a space was seeded with, None where it was not, or by no number that a file can hold."""
    made = getattr(space, "_np_random", None)  # not np_random, which would make one
    entropy = getattr(getattr(getattr(made, "bit_generator", None), "seed_seq", None), "entropy", None)
    return entropy if isinstance(entropy, int) and entropy < 1 << 63 else None


def _mask_space(space: Any, key: str) -> Any:
    """The space of the mask in a Dict of observations, None where there is none."""
    if not isinstance(space, spaces.Dict) or key not in space.spaces or len(space.spaces) < 2:
        return None
    mask = space.spaces[key]
    fixed = isinstance(mask, spaces.Box | spaces.MultiBinary | spaces.MultiDiscrete)
    return mask if fixed and mask.shape and np.dtype(mask.dtype).kind in "biu" else None


def _name_of(env: Any) -> str:
    metadata = getattr(env, "metadata", None)
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    spec = getattr(env, "spec", None)
    return str(getattr(spec, "id", None) or name or type(getattr(env, "unwrapped", env)).__name__)


def _vars(thing: Any) -> Mapping[str, Any]:
    return getattr(thing, "__dict__", {})


def _what(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a mapping of {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype} {value.shape}"
    return f"a {type(value).__name__}"


def plain(value: Any) -> Any:
    """As JSON can hold it; what it cannot is told in words."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, str | int | float | bool) or value is None else repr(value)
