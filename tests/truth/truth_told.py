"""What crossed the boundary between a player and an environment, copied deeply at that moment, and the comparison of a
run with it, row by row, by every way of reading."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import expkit
from expkit.rewrite.compact import compact
from expkit.validation.validate import validate_run


def copied(value: Any) -> Any:
    """A deep copy as plain arrays, by names of fields: `{"": array}` for one that is no group."""
    if isinstance(value, dict):
        return {f"/{key}{name}": one for key, inner in value.items() for name, one in copied(inner).items()}
    if isinstance(value, tuple) and any(isinstance(one, dict | tuple | np.ndarray) for one in value):
        return {f"/{at}{name}": one for at, inner in enumerate(value) for name, one in copied(inner).items()}
    return {"": np.array(np.asarray(value), np.float64, subok=False)}


@dataclass
class Part:
    """One player of one episode. `rewards` by action; `early` came before the first one, `late` after the end."""

    seen: list[Any] = field(default_factory=list)
    masks: list[Any] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    early: float = 0.0
    late: float = 0.0
    ends: tuple[bool, bool] = (False, False)
    last: Any = None
    last_counts: bool = True

    @property
    def paid(self) -> float:
        return self.early + sum(self.rewards) + self.late


Episode = dict[int, Part]


def check(path: Path, truth: list[Episode], after_compact: bool = True) -> int:
    """How many rows were compared; AssertionError at the first that differs."""
    kept = [
        {player: part for player, part in episode.items() if part.actions or any(part.ends) or part.early}
        for episode in truth
        if any(part.actions for part in episode.values())
    ]
    rows = _check(path, kept)
    if after_compact and kept:
        compact(path)
        rows += _check(path, kept)
    return rows


def _check(path: Path, truth: list[Episode]) -> int:
    run = expkit.open_run(path)
    findings = [one for one in validate_run(run) if one.severity == "error"]
    assert not findings, findings[:3]
    episodes = run.episodes()
    assert len(episodes) == len(truth)
    count = 0
    for episode, told in zip(episodes, truth, strict=True):
        assert sorted(episode.rows) == sorted(told), (episode.rows, told)
        stored = 0.0
        for player, part in told.items():
            acted = len(part.actions)
            rows = run.rows(episode.number, player)
            assert rows["is_last"].tolist() == [False] * acted + [True]
            for name, column in rows.items():
                if name.partition("/")[0] != "observation":
                    continue
                seen = [one[name.removeprefix("observation")] for one in part.seen]
                np.testing.assert_array_equal(column[:acted], np.array(seen).reshape(column[:acted].shape), name)
                if part.last is not None and part.last_counts:
                    np.testing.assert_array_equal(column[acted], part.last[name.removeprefix("observation")], name)
                if acted:
                    _check_readers(run, episode.number, player, name, column)
            for name, column in rows.items():
                if name.partition("/")[0] == "action":
                    given = [one[name.removeprefix("action")] for one in part.actions]
                    np.testing.assert_array_equal(column[:acted], np.array(given).reshape(column[:acted].shape), name)
            if part.masks:
                np.testing.assert_array_equal(rows["action_mask"][:acted], part.masks)
            np.testing.assert_array_equal(rows["reward"][:acted], part.rewards)
            flags = [(False, False)] * acted
            if acted:
                flags[-1] = part.ends
            assert list(zip(rows["terminated"].tolist(), rows["truncated"].tolist(), strict=True))[:acted] == flags
            early = episode.metadata.get("reward_before_action", {}).get(str(player), 0.0)
            late = episode.metadata.get("reward_after_end", {}).get(str(player), 0.0)
            assert (early, late) == (part.early, part.late)
            stored += float(rows["reward"][:acted].sum()) + early + late
            count += acted + 1
        paid = sum(part.paid for part in told.values())
        assert abs(stored - paid) <= 1e-9 * abs(paid)  # added up in another order
        if len(told) > 1 and all(part.ends[0] for part in told.values()):
            if stored == 0 and "illegal_actions" not in episode.metadata:
                assert episode.outcome == {player: part.paid for player, part in told.items()}
            elif stored:
                assert set(episode.outcome.values()) == {None}
    return count


def _check_readers(run: Any, number: int, player: int, name: str, column: np.ndarray) -> None:
    """`episode`, `scan`, `sample` and windows give the same as `rows`; next observations are those of the next row."""
    np.testing.assert_array_equal(run.episode(number, player)[name], column)
    steps = {step: at for at, step in enumerate(run.rows(number, player)["step"].tolist())}

    def same(batch: dict[str, np.ndarray]) -> None:
        mine = (batch["episode"] == number) & (batch["player"] == player)
        at = np.array([steps[step] for step in batch["step"][mine].tolist()], np.int64)
        np.testing.assert_array_equal(batch[name][mine], column[at])
        if f"next_{name}" in batch:
            np.testing.assert_array_equal(batch[f"next_{name}"][mine], column[at + 1])

    for batch in run.scan([name], batch_size=7, next_observation=True):
        same(batch)
    same(run.sample(32, np.random.default_rng(number), [name], next_observation=True))
    for batch in run.windows(2, columns=[name]):
        flat = {
            key: one.reshape(-1, *one.shape[2:]) for key, one in batch.items() if one.shape[:2] == batch[name].shape[:2]
        }
        flat |= {key: np.repeat(batch[key], 2) for key in ("episode", "player") if key not in flat}
        same(flat)
