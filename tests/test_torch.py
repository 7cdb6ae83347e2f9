"""Runs as data sets of PyTorch: every row to one worker and rank, without copies, resumed where a crash left them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing
from patience import PATIENCE
from pipeline_runs import joined, write
from torch.utils.data import DataLoader

from expkit import Recorder, open_run
from expkit.batches.epochs import manifest_of
from expkit.errors import NotThere, UsageError
from expkit.rewrite.compact import compact
from expkit.torch import ExperienceDataset, ExperienceLoader, tensors

MEMORY = 20_000  # waves of some 250 rows


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("torch") / "run", episodes=30)


def keys_of(batches) -> list[tuple[int, int, int]]:
    return [
        key
        for batch in batches
        for key in zip(*(batch[name].tolist() for name in ("episode", "player", "step")), strict=True)
    ]


def rows_of(path: Path) -> list[tuple[int, int, int]]:
    with open_run(path) as run:
        return sorted(keys_of(list(run.scan(["action"]))))


def same(left, right) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name].numpy(), other[name].numpy(), err_msg=name)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_compaction_does_not_disturb_an_epoch(path, tmp_path, workers):
    copy = tmp_path / "run"
    shutil.copytree(path, copy)
    dataset = ExperienceDataset(copy, 32, seed=3, memory=MEMORY)
    loader = ExperienceLoader(dataset, num_workers=workers)
    whole = list(loader)
    compact(copy)
    same(list(loader), whole)
    loader.set_epoch(1)
    assert sum(len(batch["action"]) for batch in loader) == sum(len(batch["action"]) for batch in whole)
    loader.close()


def test_batches_are_those_of_an_epoch_and_share_their_memory(path):
    dataset = ExperienceDataset(path, 32, seed=3, memory=MEMORY, columns=["observation", "mask", "action"])
    held = list(dataset)
    with open_run(path) as run:
        expected = list(run.epoch(3, 0, 32, memory=MEMORY, columns=["observation", "mask", "action"]))
    assert set(held[0]) == {"observation/board", "observation/seen", "mask", "action"}
    assert [held[0][name].dtype for name in held[0]] == [torch.float32, torch.bool, torch.bool, torch.int32]
    for batch, arrays in zip(held, expected, strict=True):
        for name, values in batch.items():
            np.testing.assert_array_equal(values.numpy(), arrays[name])
    batch = {"observation": np.zeros((2, 3)), "player": np.zeros(2, np.uint16), "episode": np.zeros(2, np.uint64)}
    for name, tensor in tensors(batch).items():
        assert np.shares_memory(tensor.numpy(), batch[name])
    mixed = ExperienceDataset(path, 32, seed=3, keys=True, next_observation=True, where="player == 1")
    assert {"player", "step", "next_observation/board", "valid:next_value"} <= set(next(iter(mixed)))
    assert sorted(keys_of(list(mixed))) == [key for key in rows_of(path) if key[1] == 1]


def test_an_epoch_repeats_until_another_is_set(path):
    dataset = ExperienceDataset(path, 64, seed=1, memory=MEMORY)
    first, again = list(dataset), list(dataset)
    same(first, again)
    dataset.set_epoch(1)
    second = list(dataset)
    assert not torch.equal(first[0]["observation/board"], second[0]["observation/board"])
    assert len(dataset.state_dict()["batches"]) == 1
    half = iter(dataset)
    for _ in range(4):
        next(half)
    told = json.loads(json.dumps(dataset.state_dict()))
    fresh = ExperienceDataset(path, 64, memory=MEMORY)
    fresh.load_state_dict(told)
    same(list(fresh), second[4:])
    same(list(fresh), second)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_plain_loader_gives_every_row_once(path, workers):
    dataset = ExperienceDataset(path, 40, memory=MEMORY, keys=True)
    spawned = {"multiprocessing_context": "spawn"} if workers else {}
    batches = list(DataLoader(dataset, batch_size=None, num_workers=workers, **spawned))
    assert sorted(keys_of(batches)) == rows_of(path)
    if workers:
        with pytest.raises(UsageError, match="ExperienceLoader"):
            dataset.state_dict()


def part_of(told: dict, worker: int) -> dict:
    """The state of an epoch that one of two workers goes on with."""
    return {**told["plan"], "rank": worker, "world_size": 2, "batches": told["batches"][worker]}


def test_two_workers_go_on_where_they_were_while_the_run_grows(path, tmp_path):
    """As after a crash: another data set, another loader, and a recorder at work."""
    copy = tmp_path / "run"
    shutil.copytree(path, copy)
    loader = ExperienceLoader(ExperienceDataset(copy, 25, seed=2, memory=MEMORY, keys=True), num_workers=2)
    loader.set_epoch(5)
    whole, told = [], []
    for batch in loader:
        whole.append(batch)
        told.append(json.dumps(loader.state_dict()))
    assert sorted(keys_of(whole)) == rows_of(path)
    for _ in zip(range(3), loader, strict=False):  # left early, and begun again by the same workers
        pass
    same(list(loader), whole)
    with open_run(copy) as run:
        schema = run.schema
    with Recorder(copy, schema, players=2, min_free=0, mode="a") as recorder, open_run(copy) as run:
        for step in range(50):
            seen = {"observation/board": np.zeros((2, 3)), "observation/seen": np.ones(5), "mask": np.ones(7)}
            recorder.add(player=0, episode=1000, step=step, action=1, reward=0, value=0, **seen)
        recorder.flush()
        for had in (7, len(whole) - 1):
            loader.load_state_dict(json.loads(told[had - 1]))
            same(list(loader), whole[had:])
        parts = [run.epoch(start=part_of(json.loads(told[6]), worker)) for worker in range(2)]
        left = [[tensors(batch) for batch in part] for part in parts]
        assert sum(map(len, left)) == len(whole) - 7
        same(left[1][:1], whole[7:8])
        loader.close()
        alone = ExperienceLoader(ExperienceDataset(copy, 25, memory=MEMORY, keys=True))
        alone.load_state_dict(json.loads(told[3]))
        with pytest.raises(UsageError, match="by 2 workers"):
            next(iter(alone))
        alone.set_epoch(6)
        assert len(keys_of(list(alone))) == len(keys_of(whole)) + 50


def test_ranks_share_out_every_row(path):
    batches = []
    for rank in range(3):
        dataset = ExperienceDataset(path, 16, memory=MEMORY, keys=True, rank=rank, world_size=3)
        mine = list(ExperienceLoader(dataset))
        assert len(keys_of(mine)) > len(rows_of(path)) // 6
        batches += mine
        other = ExperienceDataset(path, 16, memory=MEMORY, rank=(rank + 1) % 3, world_size=3)
        with pytest.raises(UsageError, match="the same rank"):
            other.load_state_dict(dataset.state_dict())
    assert sorted(keys_of(batches)) == rows_of(path)


def of_rank(rank: int, path: str, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    dataset = ExperienceDataset(path, 16, memory=MEMORY, keys=True)
    assert (dataset.rank, dataset.world_size) == (rank, 2)
    Path(folder, f"{rank}.json").write_text(json.dumps(keys_of(list(dataset))))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_are_those_of_torch_distributed(path, tmp_path):
    torch.multiprocessing.spawn(of_rank, (str(path), str(tmp_path)), nprocs=2)
    parts = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert min(map(len, parts)) > 0
    assert sorted(tuple(key) for part in parts for key in part) == rows_of(path)


def test_many_runs_and_a_manifest_from_elsewhere(path, tmp_path):
    other = write(tmp_path / "other", seed=5, episodes=4)
    dataset = ExperienceDataset([path, other], 50, memory=MEMORY, keys=True)
    batches = list(dataset)
    assert {run for batch in batches for run in batch["run"].tolist()} == {0, 1}
    assert sorted(keys_of(batches)) == sorted([*rows_of(path), *rows_of(other)])
    with open_run([path, other]) as runs:
        manifest = [pinned for pinned in manifest_of(runs) if pinned.run == runs.run_ids[1]]
    dataset.set_epoch(0, manifest)
    assert sorted(keys_of(list(dataset))) == rows_of(other)


def test_what_cannot_be_read_is_refused_at_once(path, tmp_path):
    with pytest.raises(NotThere, match="no such folder"):
        ExperienceDataset(tmp_path / "none")
    with pytest.raises(UsageError, match="where"):
        ExperienceDataset(path, where="reward >")
    with pytest.raises(UsageError, match="go together"):
        ExperienceDataset(path, rank=1)
    with pytest.raises(UsageError, match="no state"):
        ExperienceDataset(path).load_state_dict({"epoch": 1})
    with pytest.raises(UsageError, match="shuffle is not for this loader"):
        ExperienceLoader(ExperienceDataset(path), shuffle=True)
    assert len(joined(list(ExperienceDataset(str(path.parent / "ru*"))))["action"]) == len(rows_of(path))


def test_without_pytorch_one_line_says_what_to_install():
    code = "import sys; sys.modules['torch'] = None\nimport expkit.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stderr.splitlines()[-1].endswith(
        "expkit.torch needs torch; install it with: pip install 'expkit[torch]'"
    )
