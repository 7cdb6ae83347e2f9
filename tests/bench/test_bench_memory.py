"""`expkit bench --memory-profile`: what memray saw of one pass of a stage, by the lines of expkit that hold it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from expkit.bench.lab import Lab
from expkit.bench.memory_profile import profile_memory
from expkit.bench.stage import Stage, Trial
from expkit.buffers.ring import BlockRing
from expkit.commands import main
from expkit.row.layout import BlockLayout

HELD = 8 << 20


def holding_stage() -> Stage:
    """A pass holds a ring of a little more than HELD bytes, and has held twice that in between."""
    kept: list[object] = []

    def make(lab: Lab, workload: str) -> Trial:
        def run() -> None:
            layout = BlockLayout(lab.workload("tiny").schema, 1024)
            kept.append(BlockRing(layout, HELD // layout.nbytes + 1))
            np.ones(HELD, np.uint8)

        return Trial(run, 1, 0, close=kept.clear)

    return Stage("test/hold", "", make, ("",), "", {}, ("quick",), True, True, "wall")


def test_the_largest_holder_is_named_by_its_line(tmp_path: Path) -> None:
    pytest.importorskip("memray", reason="extra profile")
    with Lab(tmp_path) as lab:
        lab.workload("tiny")
        found = profile_memory(lab, holding_stage(), "", tmp_path / "out.bin")
    assert (tmp_path / "out.bin").stat().st_size > 0
    assert 2 * HELD <= found.peak_bytes == sum(one.bytes for one in found.holdings) < 4 * HELD
    ring = next(one for one in found.holdings if one.where.startswith("expkit/buffers/blocks.py:"))
    assert HELD <= ring.bytes < 1.2 * HELD
    assert [one.bytes for one in found.holdings] == sorted((one.bytes for one in found.holdings), reverse=True)


def test_the_command_tells_people_and_scripts(tmp_path: Path, monkeypatch, capfd) -> None:
    pytest.importorskip("memray", reason="extra profile")
    monkeypatch.chdir(tmp_path)
    arguments = ["bench", "--stage", "serialize/mask", "--memory-profile", "m.bin"]
    assert main(arguments) == 0
    told, said = capfd.readouterr()
    assert told.startswith("serialize/mask R: ")
    assert "next: memray flamegraph m.bin" in said
    assert main([*arguments, "--json"]) == 0
    body = json.loads(capfd.readouterr().out)
    assert (body["schema"], body["stage"], body["workload"]) == ("expkit.bench.memory/1", "serialize/mask", "R")
    assert body["peak_bytes"] == sum(one["bytes"] for one in body["holdings"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.bin"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--stage", "ring/add-1", "--memory-profile", "m.bin"], 2, "choose by --stage and --workload"),
        (["--memory-profile", "m.bin"], 2, "choose by --stage and --workload"),
        (["--stage", "serialize/mask", "--memory-profile", "none/m.bin"], 2, "there is no folder none"),
    ],
)
def test_what_is_no_single_measurement_is_refused(tmp_path, monkeypatch, capfd, arguments, code, words) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *arguments]) == code
    assert words in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_memray_it_says_what_to_install(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "memray", None)
    code = main(["bench", "--stage", "serialize/mask", "--memory-profile", "m.bin"])
    assert code not in (0, 1)
    assert "pip install 'expkit[profile]'" in capfd.readouterr().err
