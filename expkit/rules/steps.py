"""Rules of a row and the next one of its episode."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from expkit.row.schema import Schema
from expkit.rules.rows import Rows
from expkit.rules.rule import Violation, rule

NEXT = "next_"


def _behind(pairs: np.ndarray) -> np.ndarray:
    """bool (n,) of bool (n - 1,) over pairs: the second row of each."""
    return np.concatenate([[False], pairs])


def _next_observations(schema: Schema) -> dict[str, str]:
    """Fields that hold the next observation, and those that hold the observation itself."""
    pairs = {field.name: field.name.removeprefix(NEXT) for field in schema.fields if field.name.startswith(NEXT)}
    return {
        name: twin
        for name, twin in pairs.items()
        if twin in schema and (schema[twin].dtype, schema[twin].shape) == (schema[name].dtype, schema[name].shape)
    }


def _reads_next(schema: Schema) -> list[str]:
    return [name for pair in _next_observations(schema).items() for name in pair]


@rule("episode/contiguous", over="steps", reads=("step",), requires=("simultaneous",))
def contiguous_steps(rows: Rows) -> Iterator[Violation]:
    """Where all players move in every step, no step of a player is missing.

    Rows that a recording dropped, rejected or lost are in its ledger, and their gaps are no violation. Others were
    never written, or taken out by hand: returns and advantages over such a gap are wrong.
    """
    step = rows.stored["step"].astype(np.int64)
    bad = _behind(rows.follows & (step[1:] > step[:-1] + 1))
    if rows.complete and bad.any():
        at = int(bad.argmax())
        yield Violation(f"steps {step[at - 1] + 1} to {step[at] - 1} are missing", bad)


@rule("episode/next-observation", over="steps", reads=_reads_next)
def next_observation(rows: Rows) -> Iterator[Violation]:
    """A stored next observation is the observation of the following row.

    A field `next_NAME` beside a field `NAME` holds what the step led to, so it has to be what the next row begins with,
    the last row of an episode included. Where it is not, the row was put together from two episodes, most often by an
    environment that resets by itself, or one array was overwritten before it was recorded.
    """
    adjacent = rows.follows if rows.complete else rows.follows & (np.diff(rows.stored["step"].astype(np.int64)) == 1)
    for name, twin in _next_observations(rows.schema).items():
        if name not in rows or twin not in rows:
            continue
        told, seen = (rows.stored[column].reshape(len(rows), -1) for column in (name, twin))
        same = ((told[:-1] == seen[1:]) | ((told[:-1] != told[:-1]) & (seen[1:] != seen[1:]))).all(axis=1)
        bad = adjacent & ~same & rows.acts[:-1] & rows.given(name)[:-1] & rows.given(twin)[1:]
        if bad.any():
            yield Violation(f"it is not the {twin} of the following row", np.append(bad, False), name)


@rule("episode/silent", over="steps", reads=("terminated", "truncated"))
def silent_after_the_end(rows: Rows) -> Iterator[Violation]:
    """Once a step has ended the episode for a player, no further action of its follows.

    `terminated` and `truncated` stand on the row of the last action; behind it comes the last row alone. Actions of a
    player who is out are rows that taught nothing: they were never played.
    """
    over = rows.stored["terminated"].astype(bool) | rows.stored["truncated"].astype(bool)
    bad = _behind(rows.follows & over[:-1] & rows.acts[:-1] & rows.acts[1:])
    if bad.any():
        step = int(rows.stored["step"][int(bad.argmax()) - 1])
        yield Violation(f"an action after step {step}, which ended the episode for this player", bad)


@rule("policy/version", over="steps", reads=("policy", "policy_version"))
def rising_version(rows: Rows) -> Iterator[Violation]:
    """The version of a policy does not go back within an episode.

    Versions count the updates of one policy, so a later step comes from the same version or a newer one. One that goes
    back means that rows stand in the wrong order, that a worker plays on with old weights, or that two policies share a
    name: give each its own by `set_policy`. From one episode to the next, see policy/order.
    """
    policy, version = rows.stored["policy"], rows.stored["policy_version"].astype(np.int64)
    bad = _behind(rows.follows & (policy[1:] == policy[:-1]) & (version[1:] < version[:-1]))
    if bad.any():
        at = int(bad.argmax())
        yield Violation(f"version {version[at]} of the policy after {version[at - 1]}", bad, "policy_version")


@rule("value/frozen", over="rows", severity="warn", reads=("episode",), steps=32)
def frozen_observation(rows: Rows, steps: float) -> Iterator[Violation]:
    """The observation does not stay the same for `steps` rows one after another.

    An environment that hangs, or that hands out one array again and again, gives observations that do not change. Where
    a player may really wait that long, raise the threshold. Looked for within each block of rows.
    """
    if len(rows) < steps:
        return
    # A stretch of rows that are the same begins and ends where `unchanged` does.
    edges = np.flatnonzero(np.diff(np.concatenate([[0], rows.unchanged.view(np.int8), [0]])))
    first, count = edges[::2], edges[1::2] - edges[::2] + 1
    long = count >= max(steps, 2)
    if long.any():
        bad = np.zeros(len(rows), bool)
        bad[first[long]] = True
        yield Violation(f"the observation is the same in {int(count[long][0]):,} rows one after another", bad)
