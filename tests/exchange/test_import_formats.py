"""Files of other programs, which know nothing of expkit, become runs: columns, episodes, final observations."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from exchanged_runs import write_plain
from warm_processes import expkit

from expkit import open_run
from expkit.errors import ExpkitError, NotThere, OutputExists, ShardError, UsageError
from expkit.exchange.recordings import import_recording
from expkit.validation.validate import validate_run

LENGTHS = (5, 1, 7, 4)  # the last one is still going on


def d4rl(next_observations: bool = True) -> dict[str, np.ndarray]:
    """Four episodes: terminated, timed out, terminated, unfinished; what is seen at a step is 10 * episode + step."""
    episode = np.repeat(np.arange(4), LENGTHS)
    step = np.concatenate([np.arange(length) for length in LENGTHS])
    last = np.append(np.diff(episode) != 0, True)
    out = {
        "observations": np.stack([10 * episode + step] * 2, 1).astype(np.float32),
        "actions": (step * 2).astype(np.int64),
        "rewards": step.astype(np.float32),
        "terminals": last & np.isin(episode, (0, 2)),
        "timeouts": last & (episode == 1),
    }
    if next_observations:
        out["next_observations"] = out["observations"] + 1
    return out


def write_foreign(path: Path, columns: dict[str, np.ndarray]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **columns)
    elif path.suffix == ".hdf5":
        with h5py.File(path, "w") as file:
            for name, values in columns.items():
                file[name] = values
    elif path.suffix == ".ndjson":
        rows = zip(*(values.tolist() for values in columns.values()), strict=True)
        path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    else:
        arrays = {
            name: pa.array(values)
            if values.ndim == 1
            else pa.FixedSizeListArray.from_arrays(values.reshape(-1), values.shape[1])
            for name, values in columns.items()
        }
        table = pa.table(arrays)
        pq.write_table(table, path) if path.suffix == ".parquet" else feather.write_feather(table, str(path))
    return path


@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ".parquet", ".arrow", ".ndjson"])
def test_episodes_are_cut_and_final_observations_found(tmp_path: Path, suffix: str) -> None:
    source = write_foreign(tmp_path / f"data{suffix}", d4rl())
    done = import_recording(source, tmp_path / "run")
    assert (done.episodes, done.steps, done.rows) == (4, 17, 21)
    assert any("terminated or truncated" in note for note in done.notes)
    assert any("observations is observation" in note for note in done.notes)
    with open_run(tmp_path / "run") as run:
        assert [episode.ended for episode in run.episodes()] == ["terminated", "truncated", "terminated", "interrupted"]
        assert [episode.length for episode in run.episodes()] == list(LENGTHS)
        assert run.schema["observation"].shape == (2,)
        assert run.schema["observation"].belongs == "observation"
        for number, length in enumerate(LENGTHS):
            rows = run.rows(number, 0)
            assert rows["step"].tolist() == list(range(length + 1))
            assert rows["observation"][:, 0].tolist() == [10 * number + step for step in range(length + 1)]
            assert rows["action"].tolist() == [*(2 * step for step in range(length)), 0]
            assert rows["is_first"].tolist() == [True] + [False] * length
            assert rows["is_last"].tolist() == [False] * length + [True]
        assert not [finding for finding in validate_run(run) if finding.severity == "error"]


@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ".parquet"])
def test_without_next_observations_there_are_no_final_ones(tmp_path: Path, suffix: str) -> None:
    done = import_recording(write_foreign(tmp_path / f"data{suffix}", d4rl(False)), tmp_path / "run")
    assert (done.episodes, done.steps, done.rows) == (4, 17, 17)
    assert any("final observations are not known" in note for note in done.notes)
    with open_run(tmp_path / "run") as run:
        assert [episode.ended for episode in run.episodes()] == ["terminated", "truncated", "terminated", "interrupted"]
        assert run.rows(2, 0)["observation"][:, 0].tolist() == [20.0 + step for step in range(7)]
        assert not [finding for finding in validate_run(run) if finding.severity == "error"]


def test_episode_numbers_players_and_steps_of_the_file_are_kept(tmp_path: Path) -> None:
    columns = {
        "episode_id": np.array([4, 4, 4, 4, 9, 9]),
        "agent_id": np.array([0, 1, 0, 1, 0, 1]),
        "timestep": np.array([0, 0, 3, 3, 5, 5]),
        "obs": np.arange(6.0),
        "reward": np.ones(6, np.float32),
        "done": np.array([False, False, True, True, False, False]),
    }
    done = import_recording(write_foreign(tmp_path / "some.parquet", columns), tmp_path / "run")
    assert (done.players, done.episodes, done.rows) == (2, 2, 6)
    with open_run(tmp_path / "run") as run:
        assert [(e.number, e.ended) for e in run.episodes()] == [(4, "terminated"), (9, "interrupted")]
        assert run.rows(4, 1)["step"].tolist() == [0, 3]
        assert run.rows(4, 1)["observation"].tolist() == [1.0, 3.0]


def test_large_files_are_the_same_in_parts(tmp_path: Path) -> None:
    """Batches end anywhere; a twin that knows the whole file says what each row is."""
    rng = np.random.default_rng(2)
    rows = 60_000
    ends = rng.random(rows) < 0.01
    columns = {
        "observations": rng.standard_normal((rows, 3)).astype(np.float32),
        "next_observations": rng.standard_normal((rows, 3)).astype(np.float32),
        "actions": rng.integers(0, 9, rows).astype(np.uint8),
        "rewards": rng.standard_normal(rows).astype(np.float32),
        "terminals": ends,
    }
    import_recording(write_foreign(tmp_path / "large.parquet", columns), tmp_path / "run")
    bounds = [0, *(np.flatnonzero(ends) + 1).tolist(), rows]
    bounds = sorted(set(bounds))
    with open_run(tmp_path / "run") as run:
        assert len(run.episodes()) == len(bounds) - 1
        for number in (0, 1, len(bounds) // 2, len(bounds) - 2):
            begin, end = bounds[number], bounds[number + 1]
            got = run.rows(number, 0)
            assert np.array_equal(got["observation"][:-1], columns["observations"][begin:end])
            assert np.array_equal(got["observation"][-1], columns["next_observations"][end - 1])
            assert np.array_equal(got["reward"][:-1], columns["rewards"][begin:end])
            assert got["step"].tolist() == list(range(end - begin + 1))


def test_odd_columns_are_named_or_left_out(tmp_path: Path) -> None:
    columns = {
        "obs x!": np.arange(3.0),
        "name": np.array(["a", "b", "c"]),
        "time_ns": np.arange(3),
        "reward": np.zeros(3, np.float32),
    }
    done = import_recording(write_foreign(tmp_path / "odd.npz", columns), tmp_path / "run")
    with open_run(tmp_path / "run") as run:
        assert [field.name for field in run.schema.fields][:3] == ["obs_x_", "info/time_ns", "reward"]
    assert any("left out" in note and "name" in note for note in done.notes)
    assert any("all rows are one" in note for note in done.notes)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_lists_of_one_length_are_arrays_and_others_are_left_out(tmp_path: Path, suffix: str) -> None:
    """As pandas writes them: lists whose type does not say how long they are."""
    table = pa.table(
        {
            "observations": pa.array([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]),
            "words": pa.array([[1], [1, 2]]),
            "rewards": pa.array([0.5, None], pa.float32()),
            "dones": pa.array([False, True]),
        }
    )
    source = tmp_path / f"a{suffix}"
    pq.write_table(table, source) if suffix == ".parquet" else feather.write_feather(table, str(source))
    done = import_recording(source, tmp_path / "run")
    assert any("left out" in note and "words" in note for note in done.notes)
    with open_run(tmp_path / "run") as run:
        rows = run.rows(0, 0)
        assert rows["observation"].tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
        assert rows["valid:reward"].tolist() == [True, False]


def minari_of_somebody_else(source: Path) -> None:
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    space = gym.spaces.Dict({"x": gym.spaces.Box(-1, 1, (2,)), "at": gym.spaces.Discrete(5)})
    (source / "data").mkdir(parents=True)
    storage = MinariStorage.new(source / "data", space, gym.spaces.Discrete(3))
    storage.update_episodes(
        EpisodeBuffer(
            observations={"x": np.full((n + 1, 2), n, np.float32), "at": np.arange(n + 1)},
            actions=np.arange(n),
            rewards=np.ones(n),
            terminations=np.arange(n) == n - 1,
            truncations=np.zeros(n, bool),
            infos={"score": np.arange(n + 1) / 2},
        )
        for n in (3, 4)
    )


def test_minari_of_somebody_else(tmp_path: Path) -> None:
    minari_of_somebody_else(tmp_path / "set")
    done = import_recording(tmp_path / "set", tmp_path / "run")
    assert (done.format, done.episodes, done.rows, done.steps) == ("minari", 2, 9, 7)
    with open_run(tmp_path / "run") as run:
        rows = run.rows(1, 0)
        assert rows["observation/at"].tolist() == [0, 1, 2, 3, 4]
        assert rows["action"].tolist() == [0, 1, 2, 3, 0]
        assert rows["info/score"].tolist() == [0, 0.5, 1, 1.5, 0]  # a step's: the last row has none
        assert [episode.ended for episode in run.episodes()] == ["terminated"] * 2


def to_other_files(path: Path, way: str, name: str) -> None:
    """Put values of a file beside it under a name of an HDF5 file."""
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        if way == "external link":
            file[name] = h5py.ExternalLink("private.hdf5", "/secret")
        elif way == "soft link over an external one":
            file["elsewhere"] = h5py.ExternalLink("private.hdf5", "/")
            file[name] = h5py.SoftLink("/elsewhere/secret")
        elif way == "external storage":
            rows = sum(LENGTHS)
            file.create_dataset(name, (rows,), "u1", external=[(str(path.with_name("private.bin")), 0, rows)])
        else:
            layout = h5py.VirtualLayout((sum(LENGTHS),), "u1")
            layout[:] = h5py.VirtualSource(str(path.with_name("private.hdf5")), "secret", (sum(LENGTHS),))
            file.create_virtual_dataset(name, layout)


WAYS = ["external link", "soft link over an external one", "external storage", "virtual"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["hdf5", "deep", "own", "minari"])
def test_values_of_other_files_are_refused(tmp_path: Path, way: str, kind: str) -> None:
    secret = np.full(sum(LENGTHS), 77, np.uint8)
    source, name = tmp_path / "set.hdf5", "infos/stolen" if kind == "deep" else "stolen"
    if kind == "minari":
        source = tmp_path / "set"
        minari_of_somebody_else(source)
        place = source / "data" / "main_data.hdf5"
        name = "episode_0/rewards"
    else:
        place = source
        if kind == "own":
            write_plain(tmp_path / "recorded")
            done = expkit("export", "recorded", "-o", source.name, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        else:
            write_foreign(source, d4rl())
    with h5py.File(place.with_name("private.hdf5"), "w") as file:
        file["secret"] = secret
    place.with_name("private.bin").write_bytes(secret.tobytes())
    to_other_files(place, way, name)
    with pytest.raises(ShardError, match="another file, .*private") as caught:
        import_recording(source, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_links_and_views_within_a_file_are_read(tmp_path: Path) -> None:
    source = write_foreign(tmp_path / "set.hdf5", d4rl())
    with h5py.File(source, "a") as file:
        file["infos/again"] = h5py.SoftLink("/rewards")
        file["infos/around"] = file["infos"]
        file["infos/twice"] = file["rewards"]
        layout = h5py.VirtualLayout((sum(LENGTHS),), "f4")
        layout[:] = h5py.VirtualSource(file["rewards"])
        file.create_virtual_dataset("infos/view", layout)
    assert import_recording(source, tmp_path / "run").rows > sum(LENGTHS)


@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ".parquet", ".arrow", ".ndjson"])
def test_a_damaged_or_foreign_file_is_one_line_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    good = write_foreign(tmp_path / f"good{suffix}", d4rl()).read_bytes()
    bad = tmp_path / f"bad{suffix}"
    middle = good[:20] + b"\xff" * 40 + good[60:]
    # Arrow IPC has no checksums: it is only said there that what its head and foot tell is checked.
    for data in (b"", b"not what it says", good[: len(good) // 2], *([] if suffix == ".arrow" else [middle])):
        bad.write_bytes(data)
        with pytest.raises(ExpkitError) as caught:
            import_recording(bad, tmp_path / "run")
        assert "\n" not in str(caught.value)
        assert str(bad) in str(caught.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([bad.name, f"good{suffix}"])


@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ".parquet", ".arrow", ".ndjson"])
def test_a_flipped_bit_of_an_export_is_noticed_or_of_no_matter(tmp_path: Path, suffix: str, tell) -> None:
    """Containers with checksums notice every bit of a value; the others at least never make a run that is not sound."""
    from test_round_trips import _write

    run = write_plain(tmp_path / "run", 3, 20)
    name = {".arrow": "arrow", ".ndjson": "ndjson"}.get(suffix, suffix[1:])
    good = tmp_path / f"good{suffix}"
    _write(run, name, good)
    data = good.read_bytes()
    rng = np.random.default_rng(7)
    refused = 0
    for at in rng.integers(0, len(data), 60).tolist():
        bad = tmp_path / f"bad{suffix}"
        bad.write_bytes(data[:at] + bytes([data[at] ^ 1 << int(rng.integers(0, 8))]) + data[at + 1 :])
        try:
            import_recording(bad, tmp_path / "back", force=True)
        except ExpkitError:
            refused += 1
            continue
        with open_run(tmp_path / "back") as back:
            assert not [f for f in validate_run(back) if f.severity == "error" and f.rule.startswith("file/")]
    tell(f"flipped bits in {suffix}: 60 tried, {refused} refused, the others of no matter or of a value")


def test_wrong_calls_are_told_in_one_line(tmp_path: Path) -> None:
    source = write_foreign(tmp_path / "a.npz", d4rl())
    with pytest.raises(NotThere, match="no such file"):
        import_recording(tmp_path / "none.npz", tmp_path / "run")
    with pytest.raises(UsageError, match="did you mean parquet"):
        import_recording(source, tmp_path / "run", format="parqet")
    with pytest.raises(UsageError, match="neither types nor shapes"):
        import_recording(source, tmp_path / "run", format="csv")
    with pytest.raises(UsageError, match="leave out --state"):
        import_recording(source, tmp_path / "run", state=True)
    np.savez(tmp_path / "b.npz", a=np.zeros(3), b=np.zeros(4))
    with pytest.raises(ShardError, match="equally long"):
        import_recording(tmp_path / "b.npz", tmp_path / "run")
    np.savez(tmp_path / "c.npz", a=np.array([object()]))
    with pytest.raises(ShardError, match="Python objects|cannot be loaded"):
        import_recording(tmp_path / "c.npz", tmp_path / "run")
    import_recording(source, tmp_path / "run")
    with pytest.raises(OutputExists):
        import_recording(source, tmp_path / "run")
    import_recording(source, tmp_path / "run", force=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="nothing in this folder"):
        import_recording(tmp_path / "empty", tmp_path / "run2")
    shuffled = d4rl() | {"episode": np.array([1] * 8 + [0] * 5 + [1] * 4)}
    with pytest.raises(ShardError, match="order of their steps"):
        import_recording(write_foreign(tmp_path / "d.npz", shuffled), tmp_path / "run2")
