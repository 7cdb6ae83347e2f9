"""Stored rows to fill shard files with, and the golden files: `python tests/formats/shard_rows.py` writes those that
are missing. What each of them holds, golden/expected.json says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from expkit.errors import ShardError
from expkit.formats.shard import BlockEncoder, ShardReader, ShardWriter, copy_block
from expkit.row.episodes import EpisodeEnd, EpisodeStart
from expkit.row.schema import Field, Schema

GOLDEN = Path(__file__).parent / "golden"

BOARD = Schema(
    [
        Field("observation/board", "i4", (6, 6), "observation", meaning="armies", channels=tuple("abcdef")),
        Field("observation/noise", "f4", (9,), "observation"),
        Field("observation/pixels", "u1", (40,), "observation"),
        Field("observation/pair", "f8", (2,), "observation"),
        Field("action_mask", "bool", (21,), "observation", expand=(2, 1)),
        Field("action", "i2", (), "action"),
        Field("value", "f4", (), "action", nullable=True),
        Field("half", "f2", (), "step"),
        Field("big", "u8", (), "step"),
    ]
)


def rows_of(
    schema: Schema, rng: np.random.Generator, rows: int, games: int = 4, first: int = 0
) -> dict[str, np.ndarray]:
    """Rows of `games` games side by side in order of arrival; fields change slowly or, named `noise`, wholly."""
    out = {column.name: np.zeros(column.shape(rows), column.dtype) for column in schema.columns}
    game = np.arange(rows) % games
    out["episode"][:] = (1 << 48) + first + game
    out["step"][:] = np.arange(rows) // games
    out["policy_version"][:] = 3
    out["time_ns"][:] = 1_700_000_000_000_000_000 + out["step"].astype(np.int64) * 71_003
    out["is_first"][:] = out["step"] == 0
    for column in schema.columns[7:]:
        values = out[column.name]
        bits = values.view(np.uint8).reshape(rows, -1)
        if "noise" in column.name:
            values[...] = rng.standard_normal(values.shape).astype(column.dtype)
        elif column.dtype == bool:
            values[...] = rng.random(values.shape) < 0.5
        elif not column.items:
            values[...] = rng.integers(0, 100, values.shape).astype(column.dtype)
        else:
            for row in range(games, rows):
                bits[row] = bits[row - games]
                bits[row, rng.integers(bits.shape[1])] = rng.integers(256)
    return out


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    """Equal dtype, shape and bytes, so that NaN equals itself and -0.0 is not 0.0."""
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def everything(reader: ShardReader) -> dict[tuple[int, str], bytes | None]:
    """By block and column the bytes of the column, or None where it is lost."""
    out: dict[tuple[int, str], bytes | None] = {}
    for block in reader.blocks:
        try:
            out |= {(block.offset, name): values.tobytes() for name, values in reader.read_block(block.index).items()}
            continue
        except ShardError:
            pass
        for name in reader.names:
            try:
                out[block.offset, name] = reader.read_block(block.index, [name])[name].tobytes()
            except ShardError:
                out[block.offset, name] = None
    return out


def write_shard(
    path: Path, schema: Schema, blocks: int = 3, rows: int = 60, close: bool = True, narrow_rows: int = 0
) -> Path:
    """A small file with every kind of record: two players, drops, episodes, notes."""
    rng = np.random.default_rng(5)
    encoder = BlockEncoder(schema, frame_rows=16, narrow_rows=narrow_rows)
    writer = ShardWriter(
        path, schema, {"writer": "expkit 0.1.0", "host": "golden", "run": "g", "created": "2026-01-01"}
    )
    episodes = [(1 << 48) + game for game in range(4)]
    writer.append_episodes([EpisodeStart(e, 1, [0, 1], "board", seeds={"env": e & 7}) for e in episodes])
    writer.append_meta({"policies": [{"name": "random"}]})
    for block in range(blocks):
        dropped = {"overflow-oldest": 2, "überlauf": 1} if block == 1 else {}
        writer.append_block(encoder.encode(block % 2, rows_of(schema, rng, rows), rows, dropped))
    writer.append_drops(1, {"overflow-newest": 7})
    writer.append_episodes(ends=[EpisodeEnd(e, 9, "terminated", 15, {"0": 1.0, "1": None}) for e in episodes])
    if close:
        writer.close()
    else:
        writer.abandon()
    return path


def write_lost(path: Path) -> Path:
    """A closed file of CARTPOLE: a block without `observation`, one without `reward` and `policy_version`, one whole,
    and the first again, which loses `time_ns` on the way."""
    rng = np.random.default_rng(6)
    encoder = BlockEncoder(CARTPOLE, frame_rows=16)
    header = {"expkit": "0.1.0", "host": "golden", "run": "g", "removed": [[1, 0, 0, 4]]}
    with ShardWriter(path, CARTPOLE, header) as writer:
        for lost in (["observation"], ["reward", "policy_version"], []):
            rows = rows_of(CARTPOLE, rng, 20, games=2)
            writer.append_block(encoder.encode(0, rows, 20, {"overflow-oldest": 3} if lost else {}, lost=lost))
        writer.append_meta({"annotate": {"episode": 1 << 48, "metadata": {"kept": True}}})
        with ShardReader(path) as reader:
            writer.append_block(copy_block(reader, 0, lost=["time_ns"]))
    return path


TINY = Schema([Field("board", "u1", (32,), "observation"), Field("action", "i2", (), "action")])
CARTPOLE = Schema([Field("observation", "f4", (4,), "observation"), Field("action", "i8", (), "action")])
GOLDEN_FILES = {
    "board.exp": lambda path: write_shard(path, BOARD),
    "tiny.exp": lambda path: write_shard(path, TINY, blocks=2, rows=24),
    "cartpole-killed.exp": lambda path: write_shard(path, CARTPOLE, rows=40, close=False, narrow_rows=13),
    "lost.exp": write_lost,
}


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, write in GOLDEN_FILES.items():
        if not (GOLDEN / name).exists():
            write(GOLDEN / name)
