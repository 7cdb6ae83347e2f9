"""What is fuzzed: each target takes the bytes of one hostile file and raises when expkit does what it must not.

A target is `run(data)`, which raises only for a bug; `seeds()` gives inputs to begin with; `mutate(data, rng)`
changes one such that checksums hold. Shared by Hypothesis, the coverage-guided fuzzer and the replay of corpus/.
"""

from __future__ import annotations

import itertools
import json
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from fuzz_errors import in_one_line
from fuzz_meaning import (
    mutate_pipeline,
    mutate_representation,
    mutate_reward,
    mutate_tokens,
    pipeline_seeds,
    representation_seeds,
    reward_seeds,
    run_pipeline,
    run_representation,
    run_reward,
)
from fuzz_shards import mutate, mutate_bytes, mutate_json, reseal
from shard_rows import BOARD, GOLDEN, TINY, rows_of
from written_runs import VECTOR_SCHEMA

import expkit.formats.shard.blocks as limits
from expkit import Recorder, open_run
from expkit.comparison.compare import compare_runs
from expkit.errors import CheckFailed, ConfigError, NewerFormat, NotThere, ShardError, UsageError
from expkit.formats.shard import RowHasher, ShardReader, check_shard, copy_block, seal_shard
from expkit.predicates import EpisodeTable, parse
from expkit.reading.summary import balance, distributions, listed_rows, removed_by_player, summarize
from expkit.recovery.recover import recover
from expkit.rewrite.prune import Retention, plan_prune, prune
from expkit.runs.counters import HEADER, MAGIC, PAGE, Ledger, read_ledger
from expkit.runs.layout import read_run_info
from expkit.runs.manifest import read_manifest
from expkit.runs.resume import close_dead_writer, next_episode
from expkit.settings.config import load_file, resolve
from expkit.system.files import Disk, using
from expkit.validation.glance import header_at_a_glance
from expkit.validation.validate import Level, validate_run

CORPUS = Path(__file__).parent / "corpus"
# A block may take 2 GiB by the format: so that a bound on memory can be seen, as much as these 16 MiB here.
BLOCK_LIMIT = 16 << 20


class Unsynced(Disk):
    """The real disk without the waiting: nobody pulls a plug here."""

    def sync(self, handle: int, *, data_only: bool = False) -> None:
        return

    def sync_folder(self, folder: Any) -> None:
        return


@contextmanager
def folder() -> Iterator[Path]:
    """A folder in memory where the system has one, small limits, no syncs."""
    memory = "/dev/shm"
    place = Path(tempfile.mkdtemp(prefix="expkit-fuzz-", dir=memory if Path(memory).is_dir() else None))
    before, limits.MAX_BLOCK_BYTES = limits.MAX_BLOCK_BYTES, BLOCK_LIMIT
    try:
        with using(Unsynced()):
            yield place
    finally:
        limits.MAX_BLOCK_BYTES = before
        shutil.rmtree(place)


@dataclass(frozen=True, slots=True)
class Target:
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    mutate: Callable[[bytes, Random], bytes]
    reseal: Callable[[bytes], bytes]


# ---- one shard file ------------------------------------------------------------------------------------------------


def golden() -> list[bytes]:
    return [path.read_bytes() for path in sorted(GOLDEN.glob("*.exp"))]


def run_shard(data: bytes) -> None:
    """Whatever is done with a file: ShardError or nothing, and a check that finds nothing wrong is never wrong."""
    with folder() as place:
        path = place / "a.exp"
        path.write_bytes(data)
        header_at_a_glance(path)
        for schema in (None, TINY):
            findings = list(check_shard(path, schema=schema))
            errors = [finding for finding in findings if finding.severity == "error"]
            assert all("\n" not in str(finding) for finding in findings)
            try:
                with ShardReader(path, schema=schema) as reader:
                    read_all(reader, bool(errors))
            except ShardError:
                assert errors
        seal(path, data)


def read_all(reader: ShardReader, damaged: bool) -> None:
    hasher = RowHasher(reader.schema)
    for block in reader.blocks:
        ways: list[Callable[[], Any]] = [
            lambda index=block.index: reader.read_block(index),
            lambda index=block.index: reader.read_block(index, rows=slice(1, None, 3)),
            lambda block=block: reader.read_rows(block.index, np.array([block.rows - 1, 0, block.rows // 2])),
            lambda index=block.index: reader.read_rows(index, np.array([], np.int64)),
            lambda index=block.index: reader.statistics(index),
            lambda index=block.index: copy_block(reader, index, hasher=hasher),
            lambda index=block.index: copy_block(reader, index, lost=["time_ns"], hasher=hasher),
        ]
        for way in ways:
            try:
                way()
            except ShardError as error:
                if not (damaged or "values were lost" in str(error)):
                    raise AssertionError("a check has found nothing wrong") from error
        for name in reader.names:
            with suppress(ShardError):
                reader.read_block(block.index, [name])
    _ = reader.episode_starts, reader.episode_ends, reader.metas, reader.drops, reader.rows_by_player
    with suppress(ShardError):
        _ = reader.digests
    reader.refresh()


def seal(path: Path, data: bytes) -> None:
    """A seal ends in a closed file, or in ShardError and an untouched one."""
    try:
        sealed = seal_shard(path)
    except ShardError:
        assert path.read_bytes() == data
        return
    if sealed.empty:
        return
    with ShardReader(path) as reader:
        assert reader.closed
        assert reader.rows == sealed.rows
    assert not seal_shard(path).changed


# ---- a shard within a run ------------------------------------------------------------------------------------------

_PLACES = ("w0/000000.exp", "w0/000001.active", "g1/000000.exp", "w0/000000.active", "g2/000000.exp")
_made: dict[str, Path] = {}


def base_run() -> Path:
    """A run of two shards, the first of which was pruned."""
    if "run" not in _made:
        place = Path(tempfile.mkdtemp(prefix="expkit-fuzz-base-"))
        _made["run"] = record_small(place / "run")
        prune(place / "run", Retention(keep_episodes=3))
    return _made["run"]


def record_small(path: Path) -> Path:
    with Recorder(path, VECTOR_SCHEMA, min_free=0, shard_rows=10) as recorder:
        for episode in range(5):
            for step in range(4):
                observation = np.array([episode, step, 0.5], np.float32)
                recorder.add(episode=episode, step=step, action=step % 3, reward=1.0, observation=observation)
            recorder.end(episode=episode, player=0, observation=np.zeros(3, np.float32))
            recorder.annotate(episode, quality="good")
            recorder.flush()
    return path


def remove_made() -> None:
    for path in _made.values():
        shutil.rmtree(path.parent)
    _made.clear()


def run_seeds() -> Iterator[bytes]:
    """A byte that says under which name, and the file."""
    shards = sorted((base_run() / "shards").rglob("*.exp"))
    for place, shard in itertools.product(range(len(_PLACES)), shards):
        yield bytes([place]) + shard.read_bytes()
        if not place:
            yield bytes([1]) + shard.read_bytes()[:-100]


def run_in_run(data: bytes) -> None:
    """Validation never raises; everything else ends, or says in one line that the run is damaged."""
    with folder() as place:
        path = place / "run"
        shutil.copytree(base_run(), path)
        target = path / "shards" / _PLACES[data[0] % len(_PLACES) if data else 0]
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data[1:])
        use_run(path)


def use_run(path: Path, levels: Sequence[Level] = ("quick", "full")) -> None:
    """`full` reads the rows, too."""
    # A shard of a later format that might supersede others is refused as the run is opened.
    with in_one_line(NewerFormat), open_run(path) as run:
        for level in levels:
            assert all("\n" not in str(finding) for finding in validate_run(run, level, threads=1))
        uses: list[Callable[[], Any]] = [
            lambda: summarize(run),
            lambda: (listed_rows(run), removed_by_player(run, listed=True), balance(run)),
            lambda: [len(batch["step"]) for batch in run.scan(rows="all")],
            lambda: [len(batch["step"]) for batch in run.scan(rows="all", damaged="skip")],
            lambda: [len(batch["step"]) for batch in run.shuffled(7, threads=1)],
            lambda: [run.rows(e.number, player) for e in run.episodes() for player in e.rows],
            lambda: [(e.length, e.outcome, e.metadata) for e in run.episodes()],
            lambda: distributions(run),
            lambda: run.sample(8, rng=np.random.default_rng(1)),
            lambda: plan_prune(run, Retention(max_age=1.0)),
            lambda: EpisodeTable(run.episodes()),
            lambda: compare_with_base(path),
        ]
        for use in uses if "full" in levels else uses[:2]:
            with in_one_line(CheckFailed, NotThere):
                use()
    for change in (next_episode, close_dead_writer):
        with in_one_line(CheckFailed, NotThere):
            change(path, 0)
    for maintain in (partial(prune, retention=Retention(keep_episodes=1)), partial(recover, threads=1)):
        with in_one_line(CheckFailed, NotThere):
            maintain(path)


def compare_with_base(path: Path) -> None:
    with open_run(path) as a, open_run(base_run()) as b:
        compare_runs(a, b)


# ---- the other files of a run --------------------------------------------------------------------------------------


def in_copy(name: str, data: bytes, read: Callable[[Path], Any]) -> None:
    with folder() as place:
        path = place / "run"
        shutil.copytree(base_run(), path)
        (path / name).write_bytes(data)
        with suppress(CheckFailed):
            read(path)
        use_run(path, ("quick",))


def run_manifest(data: bytes) -> None:
    in_copy("manifest.json", data, read_manifest)


def seal_manifest(data: bytes) -> bytes:
    try:
        tree = json.loads(data)
        body = tree["shards"]
        return json.dumps(tree | {"crc32": zlib.crc32(json.dumps(body, sort_keys=True).encode())}).encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        return data


def mutate_manifest(data: bytes, rng: Random) -> bytes:
    return seal_manifest(mutate_json(data, rng) if rng.random() < 0.95 else mutate_bytes(data, rng))


def run_counters(data: bytes) -> None:
    def read(path: Path) -> None:
        read_ledger(path)
        Ledger(path, 0, 1).close()
        assert read_ledger(path)

    in_copy("counters", data, read)


def seal_counters(data: bytes) -> bytes:
    out = bytearray(data)
    if len(out) >= HEADER.size + 4:
        out[:8] = MAGIC
        struct.pack_into("<I", out, HEADER.size, zlib.crc32(out[: HEADER.size]))
    body = PAGE + 64
    if len(out) > body:
        players = min(HEADER.unpack_from(out)[1], 30)
        struct.pack_into("<q", out, PAGE + 32, zlib.crc32(out[body : body + players * 128]))
    return bytes(out)


def mutate_counters(data: bytes, rng: Random) -> bytes:
    out = bytearray(data)
    if rng.random() < 0.2:
        return seal_counters(mutate_bytes(data, rng))
    at = rng.choice((8, 12, *range(PAGE, min(PAGE + 256, len(out) - 8), 8)))
    value = rng.choice(
        (0, 1, 2, 3, 4, 255, 4096, 8192, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 62, -1, -5)
    )
    out[at : at + 4] = (value % (1 << 32)).to_bytes(4, "little")
    if at >= PAGE and rng.random() < 0.5:
        out[at : at + 8] = (value % (1 << 64)).to_bytes(8, "little")
    return seal_counters(bytes(out))


def run_description(data: bytes) -> None:
    in_copy("run.yaml", data, read_run_info)


_WORDS = (
    b"*a",
    b"&a ",
    b"!!int ",
    b"!!set",
    b"!!binary |",
    b"? ",
    b": ",
    b"- ",
    b"[",
    b"]",
    b"{",
    b"}",
    b"\n  ",
    b"~",
    b".inf",
    b"0x",
)
_WORDS += (
    b"0o7",
    b"1e999",
    b"2001-99-99",
    b"0001-01-01 00:00:00+23:59",
    b"true",
    b"'",
    b'"',
    b"|",
    b">",
    b"<<: ",
    b"%YAML",
    b"---\n",
)
_WORDS += (
    b"\xff",
    b"\x00",
    b"\xe2\x80\xa8",
    b"-1",
    b"64MiB",
    b"9" * 30,
    b"#",
    b"@",
    b"`",
    b"\t",
    b"...\n",
    b"!!python/name:os ",
)


def mutate_words(data: bytes, rng: Random) -> bytes:
    """A line lost, doubled or moved; a value replaced; a word of the language put somewhere."""
    for _ in range(rng.randint(1, 3)):
        lines = data.split(b"\n")
        choose, place = rng.random(), rng.randrange(len(lines))
        if choose < 0.15:
            del lines[place]
        elif choose < 0.3:
            lines.insert(rng.randrange(len(lines) + 1), lines[place])
        elif choose < 0.6:
            key, _, _ = lines[place].partition(b":")
            lines[place] = key + b": " + rng.choice(_WORDS)
        elif choose < 0.9:
            at = rng.randrange(len(lines[place]) + 1)
            lines[place] = lines[place][:at] + rng.choice(_WORDS) + lines[place][at:]
        else:
            lines[place] = mutate_bytes(lines[place], rng)
        data = b"\n".join(lines)
    return data


# ---- settings and conditions ---------------------------------------------------------------------------------------


def run_settings(data: bytes) -> None:
    """The first byte says how the text comes: as YAML, as JSON, or as a variable."""
    kind, text = data[:1], data[1:]
    with folder() as place:
        path = place / ("a.json" if kind == b"J" else "a.yaml")
        path.write_bytes(text)
        environ = {}
        if kind == b"E":
            name, _, value = text.decode("utf-8", "surrogateescape").partition("=")
            environ[f"EXPKIT_{name.upper()}"] = value
        for read in (lambda: load_file(path), lambda: resolve({}, None if environ else path, environ)):
            with in_one_line(ConfigError):
                read()


def settings_seeds() -> Iterator[bytes]:
    from expkit.settings.document import default_yaml

    yield b"Y" + default_yaml().encode()
    yield b"Y{game: {players: 3, size: 20x20}, shards: {size: 64MiB, age: 1h}, recording: {rows: 0x10}}"
    yield b"J" + json.dumps(resolve({}, None, {}).config.as_dict()).encode()
    for line in (
        b"PLAYERS=3",
        b"SHARD_SIZE=64MiB",
        b"DURATION=1h",
        b"SIZE=20x20",
        b"STATE=yes",
        b"ROWS=~",
        b"LEVEL=1e0",
    ):
        yield b"E" + line


def mutate_settings(data: bytes, rng: Random) -> bytes:
    kind, text = data[:1], data[1:]
    return kind + (mutate_json(text, rng) if kind == b"J" and rng.random() < 0.8 else mutate_words(text, rng))


_SCHEMAS = {schema: rows_of(schema, np.random.default_rng(1), 12) for schema in (BOARD, TINY)}
_PARTS = "( ) [ ] == != < <= > >= = <> + - * / % , and or not in between is null nan inf true false abs 0 1 -1 0.5 1e3"
_PARTS += " 1e999 0x1F .5 99999999999999999999 'hunter' \"x\" `value` player step episode reward value action length"
_PARTS += (
    " outcome won ended policy policy_version observation/board observation/board[1,2] half big is_last ' \" ` ; ü"
)
mutate_condition = mutate_tokens(_PARTS)


def run_condition(data: bytes) -> None:
    """UsageError in one line, or a condition that reads back as itself and gives one answer per row."""
    text = data.decode("utf-8", "replace")
    with in_one_line(UsageError):
        found = parse(text)
        assert parse(str(found)) == found
        for schema, rows in _SCHEMAS.items():
            with in_one_line(UsageError):
                bound = found.bind(schema)
                episodes = EpisodeTable([]) if bound.episode_names else None
                assert bound.evaluate(rows, 1, episodes).shape == (12,)


def condition_seeds() -> Iterator[bytes]:
    yield b"player == 1 and reward > 0.5"
    yield b"not (0 < reward <= 1) or action in (1, 2, 3) and value is not null"
    yield b"observation/board[2, 0] * 2 - 1 between -3 and abs(step % 7)"
    yield b"ended == 'terminated' and won and length / 2 > 10 or policy == 'hunter'"


def seeds_of(name: str) -> Callable[[], list[bytes]]:
    return lambda: [(base_run() / name).read_bytes()]


def behind_first(change: Callable[..., bytes]) -> Callable[..., bytes]:
    """`change` of everything but the first byte."""
    return lambda data, *rest: data[:1] + change(data[1:], *rest)


def as_is(data: bytes) -> bytes:
    return data


def without_checksum(data: bytes) -> bytes:
    """run.yaml without its last line, which would not be that of what a mutation made."""
    return data.rpartition(b"# crc32 of all")[0] or data


TARGETS = {
    "shard": Target(run_shard, golden, mutate, reseal),
    "run": Target(run_in_run, run_seeds, behind_first(mutate), behind_first(reseal)),
    "manifest": Target(run_manifest, seeds_of("manifest.json"), mutate_manifest, seal_manifest),
    "counters": Target(run_counters, seeds_of("counters"), mutate_counters, seal_counters),
    "description": Target(run_description, seeds_of("run.yaml"), mutate_words, without_checksum),
    "settings": Target(run_settings, settings_seeds, mutate_settings, as_is),
    "condition": Target(run_condition, condition_seeds, mutate_condition, as_is),
    "reward": Target(run_reward, reward_seeds, mutate_reward, as_is),
    "representation": Target(run_representation, representation_seeds, mutate_representation, as_is),
    "pipeline": Target(run_pipeline, pipeline_seeds, mutate_pipeline, as_is),
}
