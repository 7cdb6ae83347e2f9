"""Export, import, and the run is the same again, for every format that can be imported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from exchanged_runs import write_hard, write_plain
from places import ROOT
from written_runs import write_boards

from expkit import open_run
from expkit.comparison.compare import compare_runs
from expkit.exchange.export import export
from expkit.exchange.plan import Asked, plan_export
from expkit.exchange.recordings import import_recording
from expkit.exchange.registry import find_format, format_names
from expkit.rewrite.sources import Sources
from expkit.validation.validate import validate_run

SAMPLE = ROOT / "sample_data" / "run"
BACK = [name for name in format_names() if name != "csv"]


def _out(folder: Path, name: str) -> Path:
    return folder / f"out{next(iter(find_format(name).suffixes), '')}"


def _write(run: Path, name: str, out: Path, asked: Asked | None = None, threads: int = 2) -> list[str]:
    with Sources([run]) as sources:
        plan = plan_export(sources, find_format(name), asked or Asked())
        return export(plan, out, threads=threads).losses


def _assert_same(a: Path, b: Path) -> None:
    with open_run(a) as one, open_run(b) as other:
        found = compare_runs(one, other, full=True)
        assert found.equal, str(found.first_difference)
        assert one.schema == other.schema
        assert one.policies == other.policies
        assert (one.info.players, one.info.source, one.info.seed) == (
            other.info.players, other.info.source, other.info.seed,
        )  # fmt: skip
        assert one.info.config == other.info.config
        for before, after in zip(one.episodes(), other.episodes(), strict=True):
            assert (before.number, before.rows, before.metadata) == (after.number, after.rows, after.metadata)
            assert before.start is not None
            assert after.start is not None
            assert (before.start.seeds, before.start.time_ns) == (after.start.seeds, after.start.time_ns)
        before = {(f.rule, f.where) for f in validate_run(one) if f.severity == "error"}
        after = {(f.rule, f.where) for f in validate_run(other) if f.severity == "error"}
        assert {rule for rule, _ in after} <= {rule for rule, _ in before}


@pytest.mark.parametrize("name", BACK)
def test_the_sample_run_comes_back(tmp_path: Path, name: str) -> None:
    out = _out(tmp_path, name)
    assert _write(SAMPLE, name, out) == []
    done = import_recording(out, tmp_path / "back")
    assert (done.format, done.episodes, done.players, done.notes) == (name, 4, 3, ())
    _assert_same(SAMPLE, tmp_path / "back")


@pytest.mark.parametrize("name", BACK)
def test_a_hard_run_comes_back(tmp_path: Path, name: str) -> None:
    run = write_hard(tmp_path / "run")
    assert _write(run, name, _out(tmp_path, name)) == []
    notes = import_recording(_out(tmp_path, name), tmp_path / "back").notes
    assert not [note for note in notes if "not those that were exported" in note]
    _assert_same(run, tmp_path / "back")


def test_a_value_that_changed_since_the_export_is_told(tmp_path: Path) -> None:
    """Also where the format has no checksums of its own."""
    import pyarrow.feather as feather

    run = write_plain(tmp_path / "run")
    _write(run, "arrow", tmp_path / "a.arrow")
    table = feather.read_table(tmp_path / "a.arrow")
    actions = table["action"].to_pylist()
    actions[7] += 1
    at = table.schema.get_field_index("action")
    changed = table.set_column(at, table.schema.field(at), [actions])
    feather.write_feather(changed, str(tmp_path / "b.arrow"))
    notes = import_recording(tmp_path / "b.arrow", tmp_path / "back").notes
    assert notes == ("the rows of 1 of 20 players' episodes are not those that were exported",)


@pytest.mark.parametrize("name", BACK)
def test_a_plain_run_and_one_of_masks_come_back(tmp_path: Path, name: str) -> None:
    for kind, run in (("plain", write_plain(tmp_path / "plain")), ("boards", write_boards(tmp_path / "boards"))):
        out = _out(tmp_path / kind / "out", name)
        _write(run, name, out)
        import_recording(out, tmp_path / f"{kind}_back")
        _assert_same(run, tmp_path / f"{kind}_back")


@pytest.mark.parametrize("name", [name for name in BACK if name not in ("minari", "hdf5")])
def test_shuffled_shards_come_back_in_order(tmp_path: Path, name: str) -> None:
    run, out = write_hard(tmp_path / "run"), _out(tmp_path, name)
    _write(run, name, out, Asked(shuffle=5, shard_rows=100))
    assert len([path for path in out.rglob("*") if path.is_file() and path.suffix != ".md"]) > 5
    import_recording(out, tmp_path / "back", format=name)
    _assert_same(run, tmp_path / "back")


def test_several_runs_become_one_and_come_back(tmp_path: Path) -> None:
    a, b = write_plain(tmp_path / "a", 3), write_plain(tmp_path / "b", 4)
    with Sources([a, b]) as sources:
        export(plan_export(sources, find_format("parquet"), Asked()), tmp_path / "both.parquet")
    import_recording(tmp_path / "both.parquet", tmp_path / "back")
    with open_run(tmp_path / "back") as back, open_run(a) as one, open_run(b) as other:
        assert [episode.number for episode in back.episodes()] == list(range(7))
        origins = [episode.start.origin for episode in back.episodes() if episode.start is not None]
        assert [(o.run, o.episode) for o in origins if o is not None] == [
            *((one.id, n) for n in range(3)),
            *((other.id, n) for n in range(4)),
        ]
        assert np.array_equal(back.rows(5, 0)["observation"], other.rows(2, 0)["observation"])


def test_part_of_a_run_comes_back_as_that_part(tmp_path: Path) -> None:
    run = write_plain(tmp_path / "run")
    _write(run, "npz", tmp_path / "some.npz", Asked(where="episode < 5 and step >= 10", columns=["action"]))
    import_recording(tmp_path / "some.npz", tmp_path / "back")
    with open_run(run) as whole, open_run(tmp_path / "back") as back:
        assert [episode.number for episode in back.episodes()] == list(range(5))
        assert [field.name for field in back.schema.fields] == ["action", "reward", "terminated", "truncated"]
        for number in range(5):
            assert np.array_equal(back.rows(number, 0)["reward"], whole.rows(number, 0)["reward"][10:])
        assert not [f for f in validate_run(back) if f.severity == "error" and f.rule.startswith("file/")]
