"""Slow, obvious twins of the processors: one row at a time, from the definitions."""

from __future__ import annotations

import numpy as np

from expkit.pipeline import ColumnBatch


def neighbours(rows: ColumnBatch, shortened: set[tuple[int, int]]) -> list[int | None]:
    """For each row the place of the next one, None where none follows or one is missing between them; `shortened` are
    the (episode, player) of which rows are missing."""
    keys = list(zip(rows["episode"].tolist(), rows["player"].tolist(), strict=True))
    steps, out = rows["step"].tolist(), []
    for i, key in enumerate(keys):
        follows = i + 1 < len(keys) and keys[i + 1] == key
        if follows and key in shortened and steps[i + 1] != steps[i] + 1:
            follows = False
        out.append(i + 1 if follows else None)
    return out


def number_stretches(following: list[int | None]) -> list[int]:
    out, number = [], 0
    for after in following:
        out.append(number)
        number += after is None
    return out


def next_value(rows: ColumnBatch, following: list[int | None], i: int, name: str) -> float | None:
    """The value of the state that the action of row i led to; None when nobody knows."""
    if rows["terminated"][i]:
        return 0.0
    after = following[i]
    return float(rows[name][after]) if after is not None and rows.given(name)[after] else None


def has_action(rows: ColumnBatch, i: int | None) -> bool:
    return i is not None and not rows["is_last"][i]


def is_over(rows: ColumnBatch, i: int) -> bool:
    return bool(rows["terminated"][i] or rows["truncated"][i])


def gae(rows: ColumnBatch, following: list[int | None], name: str, gamma: float, lam: float) -> list[float | None]:
    def delta(i: int) -> float | None:
        after = next_value(rows, following, i, name)
        if not has_action(rows, i) or not rows.given(name)[i] or after is None:
            return None
        return float(rows["reward"][i]) + gamma * after - float(rows[name][i])

    out: list[float | None] = []
    for i in range(len(rows)):
        if delta(i) is None:
            out.append(None)
            continue
        total, weight, at = 0.0, 1.0, i
        while True:
            more = delta(at)
            if more is None:
                break
            total, weight = total + weight * more, weight * gamma * lam
            if is_over(rows, at) or not has_action(rows, following[at]):
                break
            at = following[at]
        out.append(total)
    return out


def discounted_return(
    rows: ColumnBatch, following: list[int | None], gamma: float, name: str | None
) -> list[float | None]:
    out: list[float | None] = []
    for i in range(len(rows)):
        total, weight, at = 0.0, 1.0, i
        if not has_action(rows, i):
            out.append(None)
            continue
        while True:
            total += weight * float(rows["reward"][at])
            if is_over(rows, at) or not has_action(rows, following[at]):
                break
            at, weight = following[at], weight * gamma
        if name is None:
            out.append(total if is_over(rows, at) else None)
        else:
            after = next_value(rows, following, at, name)
            out.append(None if after is None else total + weight * gamma * after)
    return out


def n_step(rows: ColumnBatch, following: list[int | None], n: int, gamma: float) -> list[tuple | None]:
    """(return, discount, length, place of the next state or None) of each row."""
    out: list[tuple | None] = []
    for i in range(len(rows)):
        total, length, at, ended = 0.0, 0, i, False
        while at is not None and length < n and has_action(rows, at):
            if following[at] is None and not rows["terminated"][at]:
                break
            total += gamma**length * float(rows["reward"][at])
            length += 1
            ended, over = bool(rows["terminated"][at]), is_over(rows, at)
            at = following[at]
            if over:
                break
        out.append((total, 0.0 if ended else gamma**length, length, at) if length else None)
    return out


def frame_stack(rows: ColumnBatch, following: list[int | None], name: str, frames: int, padding: str) -> np.ndarray:
    before: list[int | None] = [None] * len(rows)
    for i, after in enumerate(following):
        if after is not None:
            before[after] = i
    out = []
    for i in range(len(rows)):
        stack, at = [], i
        for _ in range(frames):
            stack.insert(0, rows[name][at] if at is not None else np.zeros_like(rows[name][i]))
            if before[at] is not None if at is not None else False:
                at = before[at]
            elif padding == "zero":
                at = None
        out.append(np.stack(stack))
    shape = (len(rows), frames, *rows[name].shape[1:])
    return np.stack(out) if out else np.empty(shape, rows[name].dtype)


def episode_weights(rows: ColumnBatch) -> list[float | None]:
    keys = list(zip(rows["episode"].tolist(), rows["player"].tolist(), strict=True))
    acting = [key for key, last in zip(keys, rows["is_last"].tolist(), strict=True) if not last]
    return [None if last else 1 / acting.count(key) for key, last in zip(keys, rows["is_last"].tolist(), strict=True)]


def faults(rows: ColumnBatch, i: int, name: str) -> list[str]:
    """What is wrong with the value of a field in row i, in the order in which faults are told."""
    known, found = rows.schema[name], set()
    if not rows.given(name)[i]:
        return []
    for value in np.ravel(rows[name][i]).tolist():
        if value != value:
            found.add("nan")
        elif value in (float("inf"), float("-inf")):
            found.add("infinite")
        elif known.dtype != "bool" and (
            (known.low is not None and value < known.low) or (known.high is not None and value > known.high)
        ):
            found.add("range")
    return [cause for cause in ("nan", "infinite", "range") if cause in found]
