"""What exports hold, as the libraries of each format read them, against `Run.rows`, the slow obvious twin."""

from __future__ import annotations

import csv
import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import yaml
from exchanged_runs import PLAIN_SCHEMA, write_hard, write_plain
from places import SAMPLE
from written_runs import write_boards

from expkit import open_run
from expkit.errors import ConfigError, OutputExists, UsageError
from expkit.exchange.buckets import Buckets
from expkit.exchange.export import export
from expkit.exchange.exported import Exported
from expkit.exchange.plan import Asked, plan_export
from expkit.exchange.registry import find_format, format_names, format_of
from expkit.exchange.shuffle import shuffled
from expkit.formats.protocol import ExportOptions, Format, column_names
from expkit.rewrite.change import Change
from expkit.rewrite.sources import Sources


def write(run: Path | list[Path], out: Path, name: str | None = None, **asked: Any) -> Exported:
    options = {key: asked.pop(key) for key in ("force", "card", "licence", "threads") if key in asked}
    compression = asked.pop("compression", None)
    change = asked.pop("change", None)
    with Sources(run if isinstance(run, list) else [run], change) as sources:
        plan = plan_export(sources, find_format(name) if name else format_of(out), Asked(**asked))
        return export(plan, out, ExportOptions(compression), **options)


def twin(path: Path, transitions: bool = False) -> dict[str, np.ndarray]:
    """All rows by episode, player and step, column by column."""
    with open_run(path) as run:
        parts = []
        for episode in run.episodes():
            for player in sorted(episode.rows):
                rows = run.rows(episode.number, player)
                keep = ~rows["is_last"] if transitions else np.ones(len(rows["step"]), bool)
                parts.append({name: values[keep] for name, values in rows.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def ordered(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    order = np.lexsort((columns["step"], columns["player"], columns["episode"]))
    return {name: values[order] for name, values in columns.items()}


def assert_same(columns: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert columns.keys() == expected.keys()
    for name, values in ordered(columns).items():
        assert values.dtype == expected[name].dtype, name
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_npz_is_what_numpy_loads(tmp_path: Path) -> None:
    run = write_hard(tmp_path / "run")
    for compression in ("none", "deflate"):
        write(run, tmp_path / f"{compression}.npz", compression=compression)
        with np.load(tmp_path / f"{compression}.npz") as loaded:
            names = [name for name in loaded.files if name != "expkit.json"]
            assert_same({name: loaded[name] for name in names}, twin(run))
    assert zipfile.ZipFile(tmp_path / "deflate.npz").getinfo("episode.npy").compress_type == zipfile.ZIP_DEFLATED


@pytest.mark.parametrize("rows", ["all", "transitions"])
def test_parquet_and_arrow_have_the_rows_and_nulls(tmp_path: Path, rows: str) -> None:
    run, expected = write_hard(tmp_path / "run"), ordered(twin(tmp_path / "run", rows == "transitions"))
    write(run, tmp_path / "a.parquet", rows=rows)
    write(run, tmp_path / "a.arrow", rows=rows)
    for table in (pq.read_table(tmp_path / "a.parquet"), feather.read_table(tmp_path / "a.arrow")):
        order = np.lexsort([table[key].to_numpy() for key in ("step", "player", "episode")])
        table = table.take(pa.array(order))
        assert table["scalar/u8"].to_pylist() == [
            None if last else value
            for value, last in zip(expected["scalar/u8"].tolist(), expected["is_last"], strict=True)
        ]
        given = expected["valid:value"] & ~expected["is_last"]
        assert [value is not None for value in table["value"].to_pylist()] == given.tolist()
        images = np.array(table["observation/image"].to_pylist(), np.uint8)
        assert np.array_equal(images, expected["observation/image"])
        assert np.array_equal(np.array(table["action_mask"].to_pylist()), expected["action_mask"])
    pages = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert pages.row_group(0).column(0).compression == "ZSTD"


def test_a_page_of_parquet_that_changed_is_noticed_by_others(tmp_path: Path) -> None:
    write(write_plain(tmp_path / "run"), tmp_path / "a.parquet", compression="none")
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    column = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(8)
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    (tmp_path / "b.parquet").write_bytes(data)
    with pytest.raises(OSError, match="CRC checksum"):
        pq.ParquetFile(tmp_path / "b.parquet", page_checksum_verification=True).read()


def test_hdf5_is_in_d4rls_layout(tmp_path: Path) -> None:
    run = write_plain(tmp_path / "run", 5)
    write(run, tmp_path / "a.hdf5")
    rows = twin(run)
    acted, after = np.flatnonzero(~rows["is_last"]), np.flatnonzero(~rows["is_last"]) + 1
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert np.array_equal(file["observations"][()], rows["observation"][acted])
        assert np.array_equal(file["next_observations"][()], rows["observation"][after])
        assert np.array_equal(file["actions"][()], rows["action"][acted])
        assert np.array_equal(file["terminals"][()], rows["terminated"][acted])
        assert np.array_equal(file["timeouts"][()], rows["truncated"][acted])
        assert np.array_equal(file["infos/step"][()], rows["step"][acted])
        assert {"infos", "rewards", "expkit"} <= set(file)


def test_hdf5_of_several_players_has_a_group_of_each(tmp_path: Path) -> None:
    run = write_hard(tmp_path / "run")
    write(run, tmp_path / "a.h5")
    write(run, tmp_path / "one.h5", where="player == 1")
    with h5py.File(tmp_path / "a.h5") as file:
        assert {"player0", "player1", "player2"} <= set(file)
        rows = ordered(twin(run))
        mine = rows["player"] == 1
        acted = mine & ~rows["is_last"]
        assert np.array_equal(file["player1/observations/image"][()], rows["observation/image"][acted])
        cut = [e for e in np.unique(rows["episode"][mine]).tolist() if e % 4 == 3]
        interrupted = file["player1/infos/interrupted"][()]
        over = file["player1/infos/episode"][()][interrupted]
        assert set(cut) <= set(over.tolist())
        ends = file["player1/terminals"][()] | file["player1/timeouts"][()]
        assert ends.sum() == len(np.unique(rows["episode"][mine]))  # every episode has one end


def test_ndjson_is_json_with_everything(tmp_path: Path) -> None:
    run = write_hard(tmp_path / "run")
    write(run, tmp_path / "a.ndjson")
    write(run, tmp_path / "a.ndjson.gz")
    text = (tmp_path / "a.ndjson").read_text()
    assert gzip.decompress((tmp_path / "a.ndjson.gz").read_bytes()).decode() == text
    head, *lines = text.splitlines()
    assert list(json.loads(head)) == ["expkit"]
    expected = twin(run)
    rows = sorted(map(json.loads, lines), key=lambda row: (row["episode"], row["player"], row["step"]))
    expected = ordered(expected)
    assert [row["scalar/u8"] for row in rows] == [
        None if last else value for value, last in zip(expected["scalar/u8"].tolist(), expected["is_last"], strict=True)
    ]
    named = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}
    odd = np.array([[named.get(value, value) for value in row["observation/odd"]] for row in rows], np.float32)
    np.testing.assert_array_equal(odd, expected["observation/odd"])
    assert [row["value"] is not None for row in rows] == (expected["valid:value"] & ~expected["is_last"]).tolist()


def test_csv_is_read_by_csv_and_says_what_it_lacks(tmp_path: Path) -> None:
    run = write_hard(tmp_path / "run")
    done = write(run, tmp_path / "a.csv")
    assert any("arrays stand as JSON text" in loss for loss in done.losses)
    assert any("metadata, seeds and outcomes" in loss for loss in done.losses)
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = ordered(twin(run))
    rows.sort(key=lambda row: (int(row["episode"]), int(row["player"]), int(row["step"])))
    assert len(rows) == len(expected["step"])
    assert [json.loads(row["observation/image"]) for row in rows] == expected["observation/image"].tolist()
    assert [row["value"] == "" for row in rows] == (~expected["valid:value"] | expected["is_last"]).tolist()


def test_minari_loads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import minari

    run = write_boards(tmp_path / "run")
    write(run, tmp_path / "sets", "minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    assert sorted(minari.list_local_datasets()) == ["recorder/player0-v0", "recorder/player1-v0"]
    data = minari.load_dataset("recorder/player1-v0")
    assert (data.total_episodes, data.total_steps) == (3, 15)
    with open_run(run) as opened:
        for episode in data.iterate_episodes():
            rows = opened.episode(int(episode.id), 1)
            assert np.array_equal(episode.observations["army"], rows["observation/army"])
            assert np.array_equal(episode.actions, rows["action"])
            assert episode.rewards.tolist() == rows["reward"].tolist()
            assert episode.terminations[-1]
            assert np.array_equal(episode.infos["action_mask"], rows["action_mask"])
            assert all(data.action_space.contains(action) for action in episode.actions.astype(np.int64))


def test_hugging_face_folder_is_laid_out_as_its_hub_says(tmp_path: Path) -> None:
    run = write_plain(tmp_path / "run")
    done = write(
        run, tmp_path / "hub", "huggingface", split={"train": 0.7, "test": 0.3}, shard_rows=200, licence="cc-by-4.0"
    )
    files = sorted(path.name for path in (tmp_path / "hub" / "data").iterdir())
    train = [name for name in files if name.startswith("train-")]
    assert train == [f"train-{at:05d}-of-{len(train):05d}.parquet" for at in range(len(train))]
    assert len(train) > 2
    text = (tmp_path / "hub" / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "cc-by-4.0"
    assert front["configs"][0]["data_files"] == [
        {"split": "train", "path": "data/train-*"},
        {"split": "test", "path": "data/test-*"},
    ]
    total = 0
    for part in done.parts:
        table = pq.read_table(tmp_path / "hub" / "data", filters=None) if not part.name else None
        assert table is None
        tables = [pq.read_table(tmp_path / "hub" / "data" / name) for name in files if name.startswith(f"{part.name}-")]
        assert sum(map(len, tables)) == part.rows
        assert all(len(table) == 200 for table in tables[:-1])
        total += part.rows
    assert total == len(twin(run)["step"])


def test_a_split_is_by_episode_and_that_of_rewrite(tmp_path: Path) -> None:
    from expkit.reading.split import part_of

    run, split = write_plain(tmp_path / "run"), {"train": 0.6, "val": 0.4}
    write(run, tmp_path / "sets.npz", split=split)
    assert sorted(path.name for path in (tmp_path / "sets.npz").iterdir()) == ["train.npz", "val.npz"]
    with open_run(run) as opened:
        for name in split:
            with np.load(tmp_path / "sets.npz" / f"{name}.npz") as loaded:
                found = set(np.unique(loaded["episode"]).tolist())
            assert found == {e.number for e in opened.episodes() if part_of(opened.id, e, split) == name}


def test_where_columns_and_rows_choose(tmp_path: Path) -> None:
    run = write_plain(tmp_path / "run")
    write(run, tmp_path / "a.npz", where="reward > 0 and episode < 9", columns=["action"], rows="transitions")
    rows = twin(run)
    wanted = (rows["reward"] > 0) & (rows["episode"] < 9) & ~rows["is_last"]
    with np.load(tmp_path / "a.npz") as loaded:
        assert "observation" not in loaded.files
        assert np.array_equal(loaded["reward"], rows["reward"][wanted])
        assert np.array_equal(loaded["action"], rows["action"][wanted])
    write(run, tmp_path / "none.npz", where="reward > 100")
    with np.load(tmp_path / "none.npz") as loaded:
        assert loaded["observation"].shape == (0, 4)


def test_a_representation_is_that_of_rewrite(tmp_path: Path) -> None:
    from test_compact import expkit as call

    sample = SAMPLE / "run"
    write(sample, tmp_path / "a.npz", change=Change(representation="planes-uint8"))
    assert call("rewrite", sample, "-o", tmp_path / "planes", "--representation", "planes-uint8").returncode == 0
    with np.load(tmp_path / "a.npz") as loaded:
        assert_same({name: loaded[name] for name in loaded.files if name != "expkit.json"}, twin(tmp_path / "planes"))


def test_shards_have_the_rows_or_about_the_size_asked_for(tmp_path: Path) -> None:
    run = write_plain(tmp_path / "run", 30)
    total = len(twin(run)["step"])
    write(run, tmp_path / "rows.parquet", shard_rows=300)
    files = sorted((tmp_path / "rows.parquet").iterdir())
    assert [path.name for path in files][:2] == ["part-00000.parquet", "part-00001.parquet"]
    assert [len(pq.read_table(path)) for path in files] == [300] * (total // 300) + [total % 300]
    write(run, tmp_path / "one.npz", shard_size=1 << 30)
    assert [path.name for path in (tmp_path / "one.npz").iterdir()] == ["part-00000.npz"]


def test_shuffling_is_exact_and_follows_from_the_seed(tmp_path: Path) -> None:
    run = write_plain(tmp_path / "run")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write(run, tmp_path / f"{name}.npz", shuffle=seed)
    a, b, c = (dict(np.load(tmp_path / f"{name}.npz")) for name in "abc")
    for loaded in (a, b, c):
        loaded.pop("expkit.json")
    assert_same(dict(a), twin(run))
    assert np.array_equal(a["observation"], b["observation"])
    assert not np.array_equal(a["observation"], c["observation"])
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_every_permutation_is_as_likely(tmp_path: Path) -> None:
    """Four rows through two buckets, 1,200 times: chi-squared over the 24 orders, 23 degrees of freedom."""
    schema, counts = PLAIN_SCHEMA, dict[tuple[int, ...], int]()
    stored = {c.name: np.zeros(c.shape(4), c.dtype) for c in schema.columns}
    stored["step"] = np.arange(4, dtype=np.uint32)
    for seed in range(1200):
        blocks = iter([(0, stored, 4)])
        steps = np.concatenate(
            [b["step"] for b in shuffled(blocks, schema, 4, seed, tmp_path, "x", bucket_bytes=2 * schema.row_bytes)]
        )
        counts[tuple(steps.tolist())] = counts.get(tuple(steps.tolist()), 0) + 1
    assert len(counts) == 24
    assert sum((count - 50) ** 2 / 50 for count in counts.values()) < 49.7  # one in a thousand is above


def test_buckets_give_back_what_was_put(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with Buckets(PLAIN_SCHEMA, 1000, tmp_path, ".rows", bucket_bytes=5000) as buckets:
        assert buckets.count > 5
        put: dict[int, list[int]] = {}
        for part in range(4):
            stored = {c.name: np.zeros(c.shape(100), c.dtype) for c in PLAIN_SCHEMA.columns}
            stored["action"][:] = np.arange(100) + 100 * part
            bucket = rng.integers(0, buckets.count, 100)
            buckets.put(stored, np.full(100, part, np.uint16), bucket)
            for value, place in zip(stored["action"].tolist(), bucket.tolist(), strict=True):
                put.setdefault(place, []).append(value)
        for number in range(buckets.count):
            stored, players = buckets.take(number)
            assert stored["action"].tolist() == put.get(number, [])
            assert (players == stored["action"] // 100).all()
    assert list(tmp_path.iterdir()) == []


def test_the_card_tells_counts_schema_origin_and_digests(tmp_path: Path) -> None:
    from hashlib import sha256

    run = write_hard(tmp_path / "run")
    done = write(run, tmp_path / "a.parquet", card=True, licence="mit")
    text = (tmp_path / "a.parquet.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "mit"
    assert f"| all | {done.rows:,} |" in text
    assert "| `observation/image` | u1 | 2x3x4 | observation |" in text
    assert r"\[red\]what\[/red\] \| is" in text
    assert "3 terminated, 2 truncated, 4 interrupted" in text
    assert sha256((tmp_path / "a.parquet").read_bytes()).hexdigest() in text
    with open_run(run) as opened:
        assert opened.id in text


class TextFormat:
    """A format of somebody else's."""

    name, suffixes, about, compressions = "text", (".txt",), "a line a row", ("none",)
    carries = find_format("csv").carries

    def export(self, batches: Any, head: Any, target: Path, options: ExportOptions) -> None:
        with open(target, "w") as file:
            for batch in batches:
                assert list(batch) == column_names(head.schema)
                file.writelines(f"{step}\n" for step in batch["step"].tolist())

    def import_(self, source: Path) -> Any:
        raise UsageError(f"{source}: not read")


def test_formats_of_ones_own_are_found(tmp_path: Path) -> None:
    assert isinstance(TextFormat(), Format)
    write(write_plain(tmp_path / "run", 2), tmp_path / "a.txt", f"{__name__}:TextFormat")
    assert len((tmp_path / "a.txt").read_text().splitlines()) == 103
    with pytest.raises(ConfigError, match="lacks one of"):
        find_format(f"{__name__}:Path")
    with pytest.raises(UsageError, match="did you mean npz"):
        find_format("npx")
    assert {"parquet", "arrow", "npz", "hdf5", "minari", "csv", "ndjson", "huggingface"} <= set(format_names())


def test_what_is_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    run = write_plain(tmp_path / "run", 2)
    write(run, tmp_path / "a.npz")
    with pytest.raises(OutputExists, match="use --force"):
        write(run, tmp_path / "a.npz")
    before = (tmp_path / "a.npz").stat().st_ino
    write(run, tmp_path / "a.npz", force=True)
    assert (tmp_path / "a.npz").stat().st_ino != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputExists, match="thesis.tex"):
        write(run, tmp_path / "mine", "huggingface", force=True)
    with pytest.raises(OutputExists, match="is a run"):
        write(run, run, "npz", force=True)
    write(run, tmp_path / "hub", "huggingface")
    write(run, tmp_path / "hub", "huggingface", force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "hub", "mine", "run"]


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    run = write_plain(tmp_path / "run", 2)
    for name, asked, words in (
        ("hdf5", {"shuffle": 1}, "leave out --shuffle"),
        ("minari", {"shard_rows": 5}, "leave out --shard-rows"),
        ("minari", {"rows": "transitions"}, "leave out --rows transitions"),
        ("minari", {"columns": ["action"]}, "needs observation"),
        ("npz", {"shard_rows": 5, "shard_size": 5}, "give one"),
        ("npz", {"columns": ["obs"]}, "no column 'obs'"),
    ):
        with pytest.raises(ValueError, match=words):
            write(run, tmp_path / "out", name, **asked)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_names_that_are_leaves_and_folders_at_once(tmp_path: Path) -> None:
    from expkit import Field, Recorder, Schema
    from expkit.comparison.compare import compare_runs
    from expkit.exchange.recordings import import_recording

    names = ("observation", "observation/more", "action", "action/way", "value", "value/std")
    belongs = {"observation": "observation", "action": "action"}
    schema = Schema([Field(name, "f4", (2,), belongs.get(name.partition("/")[0], "step")) for name in names])
    with Recorder(tmp_path / "run", schema, min_free=0) as recorder:
        for step in range(4):
            values = {name: np.full(2, step + at, np.float32) for at, name in enumerate(names)}
            recorder.add(episode=0, step=step, reward=0.0, terminated=step == 3, **values)
        recorder.end(episode=0, player=0, **{name: np.zeros(2, np.float32) for name in names[:2]})
    for name in ("hdf5", "minari", "npz"):
        write(tmp_path / "run", tmp_path / name, name)
        import_recording(tmp_path / name, tmp_path / f"{name}_back", format=name)
        with open_run(tmp_path / "run") as a, open_run(tmp_path / f"{name}_back") as b:
            assert compare_runs(a, b, full=True).equal


def test_an_episode_of_one_row_has_no_place_in_minari_and_that_is_said(tmp_path: Path) -> None:
    from expkit import Recorder

    with Recorder(tmp_path / "run", PLAIN_SCHEMA, min_free=0) as recorder:
        for episode, steps in enumerate((1, 3)):
            for step in range(steps):
                recorder.add(episode=episode, step=step, observation=np.zeros(4), action=step, reward=0.5)
    done = write(tmp_path / "run", tmp_path / "sets", "minari")
    assert done.losses == ["1 times a player's episode has fewer than 2 rows, which are left out"]
    with h5py.File(tmp_path / "sets/recorder/player0-v0/data/main_data.hdf5") as file:
        assert list(file) == ["episode_0"]
        assert len(file["episode_0/rewards"]) == 2
