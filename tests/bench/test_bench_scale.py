"""`expkit bench --scale`: both series are measured for real, small, and told truly; the tables of the page about
performance are those of the report that the repository keeps."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from bench_reports import report as bench_report
from places import ROOT

from expkit import open_run
from expkit.bench import scale, scale_table, table
from expkit.bench.lab import Lab
from expkit.bench.scale import MEASURES, Point, ScaleReport, Series, sizes
from expkit.commands import main

KEPT, PAGE = ROOT / ".ci/scale.json", ROOT / "expkit/docs/performance.md"


def made(rows=(1e5, 1e6, 1e8), shards=(1, 10)) -> ScaleReport:
    """A report in which every cost doubles from size to size."""

    def points(name, of):
        values = dict.fromkeys(MEASURES[name], 1000.0)
        return [Point(int(size), {key: value * 2**at for key, value in values.items()}) for at, size in enumerate(of)]

    series = [Series("rows", "of rows", points("rows", rows)), Series("shards", "of shards", points("shards", shards))]
    return ScaleReport(scale.SCHEMA, "2026-11-28T00:00:00Z", 1.0, bench_report().machine, series)


def read_scale(path: Path) -> ScaleReport:
    return msgspec.json.decode(path.read_bytes(), type=ScaleReport)


def test_the_page_shows_the_report_of_the_repository():
    text = scale_table.markdown(read_scale(KEPT))
    if os.environ.get("EXPKIT_UPDATE_DOCS"):
        table.replace_part(PAGE, text, scale_table.PART)
    assert table.part_of(PAGE, scale_table.PART) == text, (
        "run EXPKIT_UPDATE_DOCS=1 python -m pytest tests/bench/test_bench_scale.py"
    )


def test_the_report_of_the_repository_is_whole():
    kept = read_scale(KEPT)
    assert {one.name: [point.size for point in one.points] for one in kept.series} == {
        "rows": sizes(10**8, 10**5),
        "shards": sizes(10**4, 1),
    }
    assert all(point.values.keys() == MEASURES[one.name].keys() for one in kept.series for point in one.points)


@pytest.mark.parametrize(
    ("most", "least", "expected"),
    [
        (10**8, 10**5, [10**5, 10**6, 10**7, 10**8]),
        (250_000, 100_000, [100_000, 250_000]),
        (100_000, 100_000, [100_000]),
        (25, 1, [1, 10, 25]),
        (1, 1, [1]),
    ],
)
def test_sizes(most, least, expected):
    assert sizes(most, least) == expected


def test_rows_are_recorded_and_scanned_for_real(tmp_path):
    values = scale.record_rows(tmp_path / "run", 2000) | scale.scan_rows(tmp_path / "run", 2000)
    assert values.keys() == MEASURES["rows"].keys()
    with open_run(tmp_path / "run") as run:
        assert len(run) >= 2000
        assert values["bytes_per_row"] == pytest.approx(run.bytes / len(run), rel=0.2)
    assert all(value > 0 for value in values.values())


def test_shards_are_written_and_read_for_real(tmp_path):
    values = scale.write_shards(tmp_path / "run", 7) | scale.read_shards(tmp_path / "run", 7)
    assert values.keys() == MEASURES["shards"].keys()
    assert all(value > 0 for value in values.values())
    with open_run(tmp_path / "run") as run:
        assert (len(run.shard_paths), len(run)) == (7, 7000)
        assert len(run.index.episode) == len({*zip(run.index.episode.tolist(), run.index.block.tolist(), strict=True)})


def test_a_stop_ends_after_the_point_that_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "look_at_machine", lambda lab: bench_report().machine)
    monkeypatch.setattr(scale, "_point", lambda lab, name, size: {"size": float(size)})
    told: list[tuple[str, int, int]] = []
    with Lab(tmp_path) as lab:
        whole = scale.measure_scale(lab, 10**6, lambda *what: told.append(what))
        cut = scale.measure_scale(lab, 10**6, stop=iter([False, False, True]).__next__)
    assert [key for key, _, _ in told] == ["machine", "100,000 rows", "1,000,000 rows", "1 shards", "10 shards",
                                           "100 shards"]  # fmt: skip
    assert [len(one.points) for one in whole.series] == [2, 3]
    assert [len(one.points) for one in cut.series] == [2, 0]


def test_growth_leaves_out_the_first_which_starts_up():
    rows, shards = made().series
    assert rows.growth("scan_ns_per_row") == 2
    assert shards.growth("scan_ns_per_row") == 1


def test_cells_and_markdown():
    rows, shards = made().series
    assert scale_table.cells(rows)[0] == ["100,000", "1.0 µs", "1.0 µs", "1000.0 B", "1000 B", "1000 B"]
    assert scale_table.cells(rows)[-1] == [scale_table.GROWTH, *["× 2.00"] * 5]
    assert len(scale_table.cells(shards)) == 2
    text = scale_table.markdown(made())
    assert "| 100,000,000 | 4.0 µs |" in text
    assert "expkit bench --scale 100000000 --save-baseline .ci/scale.json --readme expkit/docs/performance.md" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scale", "99"], "give 100,000 rows or more"),
        (["--scale", "many"], "write it like 250000, 1e6 or 1M"),
        (["--scale", "1e6", "--peers"], "leave out --peers"),
        (["--scale", "1e6", "--stage", "ring"], "leave out --stage"),
        (["--scale", "1e6", "--plot", "out.txt"], "a plot is drawn as"),
        (["--scale", "1e6", "--readme", "none.md"], "no such file"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_measured(tmp_path, monkeypatch, capfd, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("expkit.commands.bench_scale.measure_scale", None, raising=False)
    assert main(["bench", *arguments]) in (2, 5)
    assert words in capfd.readouterr().err


def test_the_command_prints_keeps_and_draws(tmp_path, monkeypatch, capfd):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "R.md").write_text("before\n<!-- scale -->\nold\n<!-- end scale -->\nafter\n")
    monkeypatch.setattr("expkit.bench.scale.measure_scale", lambda *_, **__: made())
    import expkit.commands.bench_scale as command

    monkeypatch.setattr(command, "measure_scale", lambda *_, **__: made())
    arguments = ["--scale", "1e6", "--save-baseline", "s.json", "--plot", "s.png", "--readme", "R.md"]
    assert main(["bench", *arguments]) == 0
    told = capfd.readouterr().out
    assert "rows of rows" in told
    assert scale_table.GROWTH in told
    assert max(map(len, told.splitlines()[2:8])) <= 80
    assert read_scale(tmp_path / "s.json") == made()
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "R.md").read_text()
    told = " ".join(["expkit bench", *arguments])
    assert text == f"before\n<!-- scale -->\n{scale_table.markdown(made(), told)}<!-- end scale -->\nafter\n"
