"""What is fuzzed of texts that say what rows mean: rewards, representations, pipelines. See fuzz_targets.

None of these inputs names a `module:callable`: to import it is what it asks for.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

import numpy as np
from fuzz_errors import in_one_line
from fuzz_shards import mutate_bytes

from expkit import Field, Schema
from expkit.errors import ConfigError, SchemaError, UsageError
from expkit.games.generals import GeneralsConfig
from expkit.games.generals.schema import generals_schema
from expkit.pipeline import ColumnBatch, as_chain
from expkit.rewards import RewardColumns
from expkit.serialize.representations import checked_convert, parse_representation
from expkit.settings.config import links_of

Mutation = Callable[[bytes, Random], bytes]
_PLACE = re.compile(r"[\w.]:[\w.]")
_ROWS = 12
_BOARDS = generals_schema(GeneralsConfig(players=2, height=5, width=6, state=True))
_TABLE = Schema(
    [
        Field("observation", "f4", (3,), "observation", low=-1, high=1),
        Field("mask", "bool", (7,), "observation"),
        Field("action", "i8", belongs="action", low=0, high=6),
        Field("value", "f4", belongs="action", nullable=True),
    ]
)


def rows_of(schema: Schema, seed: int) -> dict[str, np.ndarray]:
    """Stored columns of two episodes of one player, values drawn from all that their types hold."""
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    for column in schema.columns:
        shape = column.shape(_ROWS)
        if column.dtype == bool:
            out[column.name] = rng.random(shape) < 0.5
        else:
            out[column.name] = rng.integers(0, 100, shape).astype(column.dtype)
    out["episode"][:], out["step"][:] = np.arange(_ROWS) // 6, np.arange(_ROWS) % 6
    out["is_first"][:], out["is_last"][:] = out["step"] == 0, out["step"] == 5
    return out


def run_reward(data: bytes) -> None:
    """A reward gives one finite number a row of boards, or is refused in one line."""
    text = data.decode("utf-8", "replace")
    if _PLACE.search(text):
        return
    with in_one_line(UsageError, ConfigError):
        columns = RewardColumns.parse(text, "more=" + text)
        rows = rows_of(_BOARDS, zlib.crc32(data))
        told = {name: _BOARDS.unpack(name, values) for name, values in rows.items()}
        batch: dict[str, Any] = {**told, **{f"next_{name}": values for name, values in told.items()}}
        batch |= {"player": np.zeros(_ROWS, np.uint16), "has_next": ~rows["is_last"], "outcome": np.full(_ROWS, np.nan)}
        assert all(name in batch for name in columns.needs)
        for values in columns.compute(batch).values():
            assert values.shape == (_ROWS,)
            assert np.isfinite(values).all()


def run_representation(data: bytes) -> None:
    """A representation gives what its schema says, or is refused in one line."""
    text = data.decode("utf-8", "replace")
    if _PLACE.search(text):
        return
    with in_one_line(UsageError, ConfigError, SchemaError):
        checked_convert(parse_representation(text), _BOARDS)(rows_of(_BOARDS, zlib.crc32(data)), _ROWS, 1)


def run_pipeline(data: bytes) -> None:
    """A pipeline gives rows of its schema, or is refused in one line."""
    text = data.decode("utf-8", "replace")
    if _PLACE.search(text):
        return
    with in_one_line(UsageError, ConfigError, SchemaError):
        chain = as_chain(links_of(text, "fuzzed"), _TABLE)
        rows = rows_of(_TABLE, zlib.crc32(data))
        columns = {name: _TABLE.unpack(name, values) for name, values in rows.items()}
        columns["player"] = np.zeros(_ROWS, np.uint16)
        done = chain.apply(ColumnBatch(_TABLE, columns, np.arange(_ROWS) // 6))
        assert done.batch.schema == chain.schema
        assert len({len(values) for values in done.batch.columns.values()}) == 1


def reward_seeds() -> Iterator[bytes]:
    yield b"sparse + 0.5 * potential(of=land, gamma=0.997) - 0.001"
    yield b"clip(weighted(army_gained=0.002, end_alone=False), low=-1, high=1) * 3"
    yield b"game"


def representation_seeds() -> Iterator[bytes]:
    yield b"planes(army_scale=255, selected=[visible, fog, 'own_armies'])"
    yield b"planes-float16( army_scale = 100 )"
    yield b"planes-uint8(selected=[mountains])"
    yield b"flat"


def pipeline_seeds() -> Iterator[bytes]:
    yield b"[validate, {kind: sanitize, nan: reject}, {kind: filter, where: reward > 0.5 and step < 4}]"
    yield b"{kind: n_step, n: 3, gamma: 0.9}"
    yield b"[{kind: gae, gamma: 0.99, lam: 0.95, value: value}, {kind: redact, columns: [mask]}, frame_stack]"
    yield b"[{kind: sample_weights, by: episode}, {kind: discounted_return, gamma: 1}]"


def mutate_tokens(words: str) -> Mutation:
    """Tokens put in, taken out, repeated and changed; `words` have blanks between them."""
    tokens = [word.encode() for word in words.split(" ")]
    return lambda data, rng: change_tokens(data, rng, tokens)


def change_tokens(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    tokens = re.findall(rb"\s+|[A-Za-z_0-9./]+|.", data, re.DOTALL) or [b""]
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(tokens))
        choose = rng.random()
        if choose < 0.3:
            tokens[place] = rng.choice(words)
        elif choose < 0.6:
            tokens.insert(place, b" " + rng.choice(words) + b" ")
        elif choose < 0.75 and len(tokens) > 1:
            del tokens[place]
        elif choose < 0.9:
            end = rng.randrange(place, len(tokens)) + 1
            tokens[place:place] = tokens[place:end][:40]
        else:
            tokens[place] = mutate_bytes(tokens[place], rng)
    return b"".join(tokens[:2000])


_PUNCTUATION = (
    "( ) [ ] { } , = + - * / ** . ; ' \" ` # ü \\ 0 1 -1 0.5 1e3 1e999 99999999999999999999 nan inf True None "
)
mutate_reward = mutate_tokens(
    _PUNCTUATION
    + "sparse weighted potential clip game target gamma of army land cities low high value weight end_alone"
)
mutate_representation = mutate_tokens(
    _PUNCTUATION + "raw planes planes-float16 planes-uint8 flat selected army_scale fog visible mountains own_armies"
)
mutate_pipeline = mutate_tokens(
    _PUNCTUATION
    + ": - kind validate sanitize filter redact n_step discounted_return gae frame_stack sample_weights where "
    "columns n gamma lam value by column alpha nan range dtype reject repair quarantine keep episode priority "
    "observation mask action reward step is_last null ~ *a &a"
)
