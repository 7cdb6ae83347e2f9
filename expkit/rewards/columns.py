"""Several rewards of the same transitions, each with the column that it is stored in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from expkit.errors import NotTrusted, SchemaError, UsageError
from expkit.rewards.protocol import Batch, RewardFunction, checked_values, needs_of
from expkit.row.schema import Field, Schema

REWARD, PREFIX = "reward", "reward/"
GAME = "game"
# Where a run's metadata tell what each of its columns of rewards is; `reward` is the game's own where it is not told,
# and MIXED where it differs between runs that were merged.
REWARDS, MIXED = "rewards", "mixed"
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")


def told_rewards(metadata: Mapping[str, Any]) -> dict[str, str]:
    """By column, what a run's metadata say its rewards are."""
    told = metadata.get(REWARDS)
    return {str(name): str(text) for name, text in told.items()} if isinstance(told, Mapping) else {}


def is_the_games(metadata: Mapping[str, Any]) -> bool:
    """Whether a run's column `reward` is as its game gave it, as the run's metadata tell."""
    return told_rewards(metadata).get(REWARD, GAME) == GAME


@dataclass(frozen=True, slots=True)
class RewardColumns:
    """Rewards by the column they go to: `reward`, or `reward/NAME`, f4, of the action.

    texts      how each was asked for
    functions  by column, in the same order
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    functions: Mapping[str, RewardFunction] = field(default_factory=dict)

    @classmethod
    def parse(cls, reward: str | None = None, columns: str | Sequence[str] = ()) -> RewardColumns:
        """`reward` for the column of that name, None leaving it as it is; `columns` like `NAME=REWARD`, or one text of
        them with semicolons between. Raises UsageError, ConfigError."""
        texts = {} if reward is None else {REWARD: reward.strip()}
        for given in columns.split(";") if isinstance(columns, str) else columns:
            if not given.strip():
                continue
            name, equals, text = (part.strip() for part in given.partition("="))
            if not equals or not _COLUMN.fullmatch(name):
                raise UsageError(f"reward column {given.strip()!r} is not understood; write it like dense=weighted")
            if PREFIX + name in texts:
                raise UsageError(f"reward column {name} is given twice")
            texts[PREFIX + name] = text
        return cls._of(texts)

    @classmethod
    def told(cls, metadata: Mapping[str, Any], on_left_out: Callable[[str], object] | None = None) -> RewardColumns:
        """Those that a run's metadata say it was written with, but for what is mixed, and for those of which
        `on_left_out` is told that their code is not trusted. Raises UsageError for one that is not installed here,
        NotTrusted, ConfigError."""
        texts = {name: text for name, text in told_rewards(metadata).items() if text != MIXED}
        for name, text in list(texts.items()):
            try:
                cls._of({name: text})
            except NotTrusted as error:
                if on_left_out is None:
                    raise
                on_left_out(f"{name}: {error}")
                del texts[name]
        return cls._of(texts)

    @classmethod
    def _of(cls, texts: Mapping[str, str]) -> RewardColumns:
        if not texts:
            return cls()
        from expkit.rewards.expression import parse_reward  # 10 ms that a recording without rewards is spared

        return cls(texts, {name: parse_reward(text) for name, text in texts.items()})

    def __bool__(self) -> bool:
        return bool(self.functions)

    @property
    def needs(self) -> tuple[str, ...]:
        """What all of them look at, `next_` names included, besides what is always there."""
        return tuple(dict.fromkeys(name for reward in self.functions.values() for name in needs_of(reward)))

    @property
    def metadata(self) -> dict[str, Any]:
        """What the metadata of a run with these rewards tell of them."""
        return {REWARDS: dict(self.texts)} if self.texts else {}

    def schema(self, from_schema: Schema) -> Schema:
        """With a field for each column, that says what it is. Raises SchemaError where one is of another kind."""
        fields = {field.name: field for field in from_schema.fields}
        for name, text in self.texts.items():
            there = fields.get(name, Field(name, "f4", belongs="action"))
            if there.dtype != "f4" or there.shape or there.nullable:
                raise SchemaError(f"{name} is there as another field than one f4; give the reward another name")
            fields[name] = msgspec.structs.replace(there, meaning=f"reward {text}")
        return Schema(fields.values())

    def compute(self, batch: Batch) -> dict[str, np.ndarray]:
        """f4 (n,) by column. Raises UsageError for a reward that returns anything but n finite numbers."""
        count = len(batch["step"])
        out = {}
        for name, reward in self.functions.items():
            with np.errstate(over="ignore"):
                values = checked_values(reward(batch), count, f"reward {self.texts[name]}").astype(np.float32)
            if not np.isfinite(values).all():
                raise UsageError(f"reward {self.texts[name]} returned a number that float32 cannot hold")
            out[name] = values
        return out
