"""Comparing runs: equal whatever the layout; else the first difference, exactly as a table of all rows tells it."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written_runs import flip_bit, write_boards, write_vectors

from expkit import Field, Schema, open_run
from expkit.commands import main
from expkit.comparison.compare import compare_runs
from expkit.errors import UsageError
from expkit.formats.shard.encode import BlockEncoder
from expkit.formats.shard.layout import ENVELOPE
from expkit.row.episodes import EpisodeEnd, EpisodeStart, PolicyInfo
from expkit.runs.layout import RunInfo
from expkit.runs.write import RunWriter, create_run

SCHEMA = Schema(
    [
        Field("observation/army", "i2", (3, 4), "observation"),
        Field("observation/near", "f4", (2,), "observation"),
        Field("action_mask", "bool", (5,), "observation", expand=(2, 1)),
        Field("action", "u8", belongs="action"),
        Field("value", "f8", belongs="action", nullable=True),
    ]
)
# Columns in the order in which differences of one step are told.
NAMES = ["policy", "policy_version", "is_first", "is_last", *(field.name for field in SCHEMA.fields), "time_ns"]
ROWS = 7
EPISODES = (3, 4, 1 << 48)
POLICIES = ("walker", "hunter")


def make_columns(schema=SCHEMA):
    """{player: stored columns}: two players, three episodes of ROWS rows; no two rows are alike."""
    out = {}
    for player in (0, 1):
        rng = np.random.default_rng(player)
        rows = ROWS * len(EPISODES)
        arrays = {}
        for column in schema.columns:
            noise = rng.integers(0, 2 if column.dtype == bool else 100, column.shape(rows))
            arrays[column.name] = noise.astype(column.dtype)
        arrays["episode"] = np.repeat(np.array(EPISODES, np.uint64), ROWS)
        arrays["step"] = np.tile(np.arange(ROWS, dtype=np.uint32), len(EPISODES))
        arrays["policy"] = (arrays["step"] % 2).astype(np.uint16)
        if "action_mask" in arrays:
            arrays["action_mask"] &= 0b11111
        out[player] = arrays
    return out


def write(
    path, tables, *, schema=SCHEMA, cuts=(4, 15), order=None, shard_after=None, players=("left", "right"),
    policies=POLICIES, ends=None, lost=None,
):  # fmt: skip
    """A closed run of these rows, in blocks that end at `cuts`, rows reordered by `order`, a new shard after every
    `shard_after` blocks; ends: changes to the end record of an episode; lost: columns without values in block 0."""
    info = RunInfo(id=path.name, source="test", schema=schema, players=list(players))
    info.policies = [PolicyInfo(name) for name in policies]
    create_run(path, info)
    writer = RunWriter(path, schema, len(players))
    encoder = BlockEncoder(schema)
    written = 0
    for player, arrays in tables.items():
        rows = len(arrays["step"])
        place = np.arange(rows) if order is None else np.array([at for at in order if at < rows], int)
        bounds = [0, *(cut for cut in cuts if cut < rows), rows]
        for begin, end in pairwise(bounds):
            part = {name: np.ascontiguousarray(values[place[begin:end]]) for name, values in arrays.items()}
            writer.ledger.produced[player] += end - begin
            gone = lost or () if not written else ()
            writer.append(encoder.encode(player, part, end - begin, lost=gone))
            written += 1
            if shard_after and written % shard_after == 0:
                writer.rotate()
    starts, records = [], []
    for number in dict.fromkeys(int(e) for arrays in tables.values() for e in arrays["episode"]):
        starts.append(EpisodeStart(number, 1, [0, 1], "test"))
        told = {"ended": "terminated", "length": ROWS - 1, "outcome": {"0": 1.0, "1": -1.0}}
        records.append(EpisodeEnd(number, 2, **{**told, **(ends or {}).get(number, {})}))
    writer.append_episodes(starts, records)
    writer.close()
    return path


def compare(a, b, *arguments, **options):
    with open_run(a) as left, open_run(b) as right:
        return compare_runs(left, right, *arguments, **options)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write(tmp_path_factory.mktemp("base") / "base", make_columns())


def table_of(path):
    """{(episode, player, step): {name: value}}, nulls as None, policies by name: the slow obvious form of a run."""
    out = {}
    with open_run(path) as run:
        for episode in run.episodes():
            for player in episode.rows:
                rows = run.rows(episode.number, player)
                for at, step in enumerate(rows["step"].tolist()):
                    row = {name: rows[name][at].copy() for name in NAMES}
                    if not rows["valid:value"][at]:
                        row["value"] = None
                    row["policy"] = run.policies[int(row["policy"])].name
                    out[episode.number, player, step] = row
    return out


def alike(a, b):
    if a is None or b is None or isinstance(a, str):
        return a is b if a is None or b is None else a == b
    return bool(np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f"))


def slow_differences(a, b):
    """Every (episode, player, step, column) that differs, in the order in which they are told."""
    left, right = table_of(a), table_of(b)
    out = []
    for address in sorted(left.keys() | right.keys()):
        if address not in left or address not in right:
            out.append((*address, "rows"))
            continue
        out += [(*address, name) for name in NAMES if not alike(left[address][name], right[address][name])]
    return out


def assert_as_the_slow_twin(a, b, **options):
    found, slow = compare(a, b, **options), slow_differences(a, b)
    assert found.equal == (not slow)
    if slow:
        first = found.first_difference
        assert (first.episode, first.player, first.step, first.field) == slow[0]
    counts = {}
    for *_, name in slow:
        counts[name] = counts.get(name, 0) + 1
    assert found.rows_only_in_a + found.rows_only_in_b == counts.pop("rows", 0)
    assert found.columns == counts
    assert found.rows_differing == len({s[:3] for s in slow if s[3] != "rows"})
    assert found.episodes_differing == len({s[0] for s in slow})
    return found


@pytest.mark.parametrize(
    "layout",
    [
        {"cuts": ()},
        {"cuts": (1, 2, 3, 7, 14, 20), "shard_after": 2},
        {"cuts": (5, 6), "order": [*range(10, 21), *range(10)], "shard_after": 1},
    ],
    ids=["one block", "many blocks and shards", "another order"],
)
def test_layout_makes_no_difference(base, tmp_path, layout):
    other = write(tmp_path / "other", make_columns(), **layout)
    by_digest = assert_as_the_slow_twin(base, other)
    assert (by_digest.equal, by_digest.rows, by_digest.rows_decoded) == (True, 42, 0)
    assert by_digest.episodes == 3
    by_value = assert_as_the_slow_twin(base, other, full=True)
    assert (by_value.equal, by_value.rows, by_value.rows_decoded) == (True, 42, 42)


@st.composite
def tamperings(draw):
    """(player, row, stored column, element, its new value) of one value that becomes another."""
    player, row = draw(st.sampled_from((0, 1))), draw(st.integers(0, ROWS * len(EPISODES) - 1))
    column = draw(st.sampled_from([c for c in SCHEMA.columns if c.name not in ("episode", "step")]))
    element = draw(st.integers(0, column.items - 1)) if column.items else None
    old = make_columns()[player][column.name][row]
    old = old if element is None else old[element]
    if column.dtype == bool:
        new = not old
    elif column.packed:
        new = int(old) ^ 1 << draw(st.integers(0, 4))
    elif column.name == "policy":
        new = 1 - int(old)
    elif column.dtype.kind == "f":
        new = draw(st.floats(width=32).filter(lambda value: value != float(old)))
    else:
        bounds = np.iinfo(column.dtype)
        new = draw(st.integers(int(bounds.min), int(bounds.max)).filter(lambda value: value != int(old)))
    return player, row, column.name, element, new


@given(tampered=st.lists(tamperings(), min_size=1, max_size=3), full=st.booleans())
@settings(max_examples=60, deadline=None)
def test_tampered_values_are_found_and_named(base, tmp_path_factory, tampered, full):
    tables = make_columns()
    for player, row, name, element, new in tampered:
        tables[player][name][row if element is None else (row, element)] = new
    other = write(tmp_path_factory.mktemp("tampered") / "other", tables, cuts=(9,))
    found = assert_as_the_slow_twin(base, other, full=full)
    if len(tampered) > 1 or found.equal:  # a value under a null counts for nothing
        assert not found.equal or all(name == "value" for _, _, name, _, _ in tampered)
        return
    player, row, name, element, new = tampered[0]
    first = found.first_difference
    episode, step = EPISODES[row // ROWS], row % ROWS
    assert (first.episode, first.player, first.step, first.field) == (
        episode,
        player,
        step,
        name.removeprefix("valid:"),
    )
    assert str(first).startswith(f"episode {episode} player {player} step {step} {first.field}")
    if name.startswith("valid:"):
        assert (first.a is None) != (first.b is None)
    elif name == "policy":
        assert (first.a, first.b) == (POLICIES[1 - new], POLICIES[new])
    elif name == "action_mask":
        assert (first.a, first.b) == (not first.b, bool(new >> first.index[0] & 1))
    else:
        stored = np.array([new], SCHEMA.column(name).dtype)[0]
        assert np.array_equal(first.b, stored, equal_nan=stored.dtype.kind == "f")
        assert first.a != first.b
        shape = SCHEMA[name].shape if name in SCHEMA else ()
        assert first.index == (None if element is None else tuple(int(i) for i in np.unravel_index(element, shape)))


@given(
    gone=st.lists(st.tuples(st.sampled_from(("a", "b")), st.sampled_from((0, 1)), st.integers(0, 20)), max_size=12),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_missing_rows_are_found_and_named(tmp_path_factory, gone, data):
    folder = tmp_path_factory.mktemp("missing")
    paths = {}
    for side in ("a", "b"):
        tables = make_columns()
        for player, arrays in tables.items():
            keep = np.ones(len(arrays["step"]), bool)
            keep[[row for name, whose, row in gone if (name, whose) == (side, player)]] = False
            tables[player] = {name: values[keep] for name, values in arrays.items()}
        paths[side] = write(folder / side, tables, cuts=data.draw(st.sampled_from(((), (3,), (1, 9)))))
    left, right = table_of(paths["a"]), table_of(paths["b"])
    found = compare(paths["a"], paths["b"])
    lacking = sorted(left.keys() ^ right.keys())
    assert found.equal == (not lacking)
    assert found.rows == len(left.keys() & right.keys())
    assert found.rows_only_in_a == len(left.keys() - right.keys())
    assert found.rows_only_in_b == len(right.keys() - left.keys())
    if lacking:
        first = found.first_difference
        where = tuple(given for given in (first.episode, first.player, first.step) if given is not None)
        assert where == lacking[0][: len(where)]
        assert f"only in {paths['a' if lacking[0] in left else 'b']}" in str(first)


def test_an_episode_in_one_run_only(base, tmp_path):
    tables = {
        player: {name: values[: 2 * ROWS] for name, values in arrays.items()}
        for player, arrays in make_columns().items()
    }
    shorter = write(tmp_path / "shorter", tables)
    found = compare(base, shorter)
    assert str(found.first_difference) == f"episode {1 << 48}: only in {base}"
    assert (found.episodes, found.episodes_differing, found.rows, found.rows_only_in_a) == (3, 1, 28, 14)
    assert str(compare(shorter, base).first_difference) == f"episode {1 << 48}: only in {base}"


def test_a_player_without_rows(base, tmp_path):
    tables = make_columns()
    del tables[1]
    found = compare(write(tmp_path / "one", tables), base)
    assert str(found.first_difference) == f"episode 3 player 1: rows only in {base}"
    assert (found.rows, found.rows_only_in_b) == (21, 21)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ended": "truncated"}, "episode 4 ended: terminated vs truncated"),
        ({"length": 9}, "episode 4 length: 6 vs 9"),
        ({"outcome": {"0": 1.0, "1": 0.5}}, "episode 4 player 1 outcome: -1 vs 0.5"),
        ({"outcome": {"0": None, "1": -1.0}}, "episode 4 player 0 outcome: 1 vs null"),
    ],
)
def test_how_an_episode_ended(base, tmp_path, change, said):
    found = compare(base, write(tmp_path / "other", make_columns(), ends={4: change}))
    assert str(found.first_difference) == said
    assert (found.episodes_differing, found.rows_differing) == (1, 0)


def test_tolerance_is_for_floats_only(base, tmp_path):
    tables = make_columns()
    tables[0]["observation/near"][5, 1] += 0.25
    tables[1]["reward"][3] = np.inf
    near = write(tmp_path / "near", tables)
    assert compare(base, near).columns == {"observation/near": 1, "reward": 1}
    found = compare(base, near, 0.25)
    assert found.columns == {"reward": 1}
    assert found.first_difference.b == np.inf
    assert compare(base, near, 0.2).first_difference.index == (1,)
    assert compare(near, near, full=True).equal
    tables[1]["observation/army"][3, 0] += 1
    assert compare(near, write(tmp_path / "army", tables), 100.0).first_difference.field == "observation/army"
    for wrong in (-1.0, float("nan")):
        with pytest.raises(UsageError, match="tolerance"):
            compare(base, near, wrong)


def test_nan_equals_nan_and_null_equals_null(tmp_path):
    tables = make_columns()
    for arrays in tables.values():
        arrays["reward"][:] = np.array([0x7FC00000], "<u4").view("<f4")
        arrays["valid:value"][:] = False
    a = write(tmp_path / "a", tables)
    for arrays in tables.values():
        arrays["reward"].view("<u4")[:] = 0x7FC00001  # another NaN
        arrays["value"][:] += 1  # under a null
    b = write(tmp_path / "b", tables)
    found = compare(a, b)
    assert found.equal
    assert found.rows_decoded == found.rows == 42
    tables[1]["valid:value"][9] = True
    first = compare(a, write(tmp_path / "c", tables)).first_difference
    assert str(first) == f"episode 4 player 1 step 2 value: null vs {first.b:g}"


def test_policies_are_compared_by_name(base, tmp_path):
    tables = make_columns()
    same = {player: {**arrays, "policy": 1 - arrays["policy"]} for player, arrays in tables.items()}
    assert compare(base, write(tmp_path / "turned", same, policies=POLICIES[::-1])).equal
    other = write(tmp_path / "renamed", tables, policies=("walker", "runner"))
    found = compare(base, other)  # the stored bytes, and so the digests, are the same
    assert str(found.first_difference) == "episode 3 player 0 step 1 policy: hunter vs runner"
    assert found.columns == {"policy": 18}
    assert compare(base, other, ignore=["policy"]).equal


def test_players_are_compared_by_name(base, tmp_path):
    found = compare(base, write(tmp_path / "other", make_columns(), players=("left", "up")))
    assert str(found.first_difference) == "players: left, right vs left, up"
    assert (found.rows, found.rows_differing) == (42, 0)


def test_schemas_that_differ_are_told_field_by_field(base, tmp_path):
    schema = Schema(
        [
            Field("observation/army", "i2", (4, 3), "observation"),
            Field("observation/near", "f8", (2,), "observation"),
            Field("action_mask", "bool", (5,), "observation", expand=(1, 0)),
            Field("action", "u8", belongs="action", unit="tiles"),
            Field("value", "f8", belongs="action"),
            Field("log_prob", "f4", belongs="action", nullable=True),
        ]
    )
    other = write(tmp_path / "other", make_columns(schema), schema=schema)
    found = compare(base, other)
    assert [one.describe("a", "b") for one in found.schema_differences] == [
        "observation/army: 3x4 vs 4x3",
        "observation/near: f4 vs f8",
        "action_mask: expanded 2 times and 1 vs expanded 1 times and 0",
        "value: nullable vs never null",
        "log_prob: only in b",
    ]
    assert str(found.first_difference) == "observation/army: 3x4 vs 4x3"
    assert (found.rows, found.first_difference.field) == (0, "schema")


def test_columns_and_ignore_choose_what_is_compared(base, tmp_path):
    wider = Schema([*SCHEMA.fields, Field("log_prob", "f4", belongs="action")])
    tables = make_columns()
    for arrays in tables.values():
        arrays["log_prob"] = np.ones(len(arrays["step"]), np.float32)
    tables[0]["observation/army"][8, 3] += 1
    other = write(tmp_path / "wider", tables, schema=wider)
    assert str(compare(base, other).first_difference) == f"log_prob: only in {other}"
    assert compare(base, other, ignore=["log_prob"]).columns == {"observation/army": 1}
    assert compare(base, other, ignore=["log_prob", "observation"]).equal
    assert compare(base, other, columns=["reward", "step", "time_ns"]).equal
    assert compare(base, other, columns=["observation"]).first_difference.index == (0, 3)
    with pytest.raises(UsageError, match="neither run has a column 'rewrd'; did you mean reward?"):
        compare(base, other, columns=["rewrd"])
    with pytest.raises(UsageError, match="step cannot be ignored"):
        compare(base, other, ignore=["step"])


def test_lost_values_are_different_and_told(tmp_path):
    tables = make_columns()
    tables[0]["reward"][:] = 0
    a = write(tmp_path / "a", tables)
    b = write(tmp_path / "b", tables, lost=["reward"])  # zeros by its digest, too
    for left, right, side in ((a, b, "b"), (b, a, "a"), (b, b, "a")):
        found = compare(left, right)
        first = found.first_difference
        assert (first.episode, first.player, first.step, first.field) == (3, 0, 0, "reward")
        assert "cannot be read at w0/000000 block 0 reward" in str(first)
        assert "values were lost" in str(first)
        assert found.columns == {"reward": 4}
        assert found.unreadable[0].side == side
    assert compare(a, b, ignore=["reward"]).equal


@pytest.mark.parametrize("full", [False, True])
def test_no_flipped_bit_is_taken_for_equal(base, tmp_path, full):
    """Nor does any make a traceback. A flip in what is neither row nor record of an episode may go unseen."""
    size = (base / "shards/w0/000000.exp").stat().st_size
    rng = np.random.default_rng(5)
    missed = 0
    for place in rng.integers(0, size, 60).tolist():
        other = tmp_path / "other"
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(base, other)
        flip_bit(other / "shards/w0/000000.exp", place, place % 8)
        found = compare(base, other, full=full)
        if found.equal:
            missed += 1
            assert table_of(other).keys() == table_of(base).keys()
            assert not slow_differences(base, other)
        else:
            assert str(found.first_difference)
    assert missed < 60


@pytest.mark.parametrize("full", [False, True])
def test_a_damaged_number_of_the_episode_is_not_equal(base, tmp_path, full):
    other = tmp_path / "other"
    shutil.copytree(base, other)
    with open_run(base) as run:
        at = run.reader(0).blocks[1].body_offset  # where the first column is, the episode
    flip_bit(other / "shards/w0/000000.exp", at + 3)
    found = compare(base, other, full=full)
    assert not found.equal
    assert " episode: " in str(found.first_difference)


def test_a_damaged_column_is_equal_where_it_is_ignored(base, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(base, other)
    with open_run(other) as run:
        reader = run.reader(0)
        head, info = reader.head(1), reader.blocks[1]
        place = head.first_frame[reader.names.index("observation/army")]
        offset = info.body_offset + head.body_at[place]
    flip_bit(other / "shards/w0/000000.exp", offset)
    found = compare(base, other)
    assert found.first_difference.field == "observation/army"
    assert (found.unreadable[0].shard, found.unreadable[0].block) == ("w0/000000", 1)
    assert found.unreadable[0].message.startswith("checksum")
    assert compare(base, other, ignore=["observation/army"]).equal


def test_two_runs_that_are_damaged_alike_are_not_equal(base, tmp_path):
    """What is left of them agrees, but nobody knows what is gone."""
    other = tmp_path / "other"
    shutil.copytree(base, other)
    with open_run(other) as run:
        head = run.reader(0).blocks[0].offset + ENVELOPE.size + 8
    flip_bit(other / "shards/w0/000000.exp", head)
    assert compare(base, other).rows_only_in_a == 4
    found = compare(other, other)
    assert (found.equal, found.rows_differing, found.rows) == (False, 0, 38)
    assert "cannot be read at w0/000000 block 0: " in str(found.first_difference)


def test_long_episodes_are_compared_a_few_columns_at_a_time(base, tmp_path, monkeypatch):
    monkeypatch.setattr("expkit.comparison.rows._PART_BYTES", 100)
    tables = make_columns()
    tables[1]["reward"][16] += 1
    tables[1]["observation/army"][17, 0] += 1
    assert_as_the_slow_twin(base, write(tmp_path / "other", tables))


# The command line


def expkit(capfd, *arguments):
    """(exit code, what a terminal would show), with nothing on stderr but what to do next."""
    capfd.readouterr()
    code = main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    assert err == "" or (err.startswith("next: expkit ") and err.count("\n") == 1)
    return code, out + err


def test_the_same_seed_recorded_in_other_blocks_and_shards(tmp_path, capfd):
    line = "record --episodes 6 --num-envs 4 --size 8x8 --max-steps 60 --seed 5 --min-free 0 -q -o"
    a, b = tmp_path / "a", tmp_path / "b"
    assert main([*line.split(), str(a)]) == 0
    assert main([*line.split(), str(b), "--shard-rows", "100", "--flush-interval", "5ms", "--memory", "64MiB"]) == 0
    code, out = expkit(capfd, "diff", a, b)
    assert code == 4
    assert f"next: expkit diff {a} {b} --ignore time_ns" in out
    code, out = expkit(capfd, "diff", a, b, "--ignore", "time_ns")
    assert code == 0, out
    assert out.startswith(f"{a} and {b} are equal: 6 episodes, ")
    with open_run(a) as one, open_run(b) as other:
        assert len(other.shard_paths) > len(one.shard_paths)
        assert f", {len(one):,} rows" in out


def test_the_first_line_tells_the_difference_and_the_last_what_to_do(base, tmp_path, capfd):
    tables = make_columns()
    tables[1]["reward"][8] = 0.1
    other = write(tmp_path / "other", tables)
    code, out = expkit(capfd, "diff", base, other)
    was = f"{make_columns()[1]['reward'][8]:g}"
    assert code == 4
    assert out.splitlines() == [
        f"{base} and {other} differ: episode 4 player 1 step 1 reward: {was} vs 0.1",
        "  1 of 42 rows differ: reward 1",
        "1 of 3 episodes differ   [exit 4]",
        f"next: expkit inspect {base} --episode 4 --player 1 --step 1",
    ]
    assert main(["inspect", str(base), "--episode", "4", "--player", "1", "--step", "1"]) == 0
    code, out = expkit(capfd, "diff", base, other, "--quiet", "--ignore=reward,time_ns")
    assert (code, out) == (0, f"{base} and {other} are equal: 3 episodes, 42 rows\n")


def test_json_tells_the_difference_without_losing_digits(base, tmp_path, capfd):
    tables = make_columns()
    tables[0]["action"][20] = (1 << 64) - 1
    other = write(tmp_path / "other", tables)
    code, out = expkit(capfd, "diff", base, other, "--json", "--tolerance", "0.5")
    body = json.loads(out)
    assert (code, body["schema"], body["equal"], body["tolerance"]) == (4, "expkit.diff/1", False, 0.5)
    first = body["first_difference"]
    assert (first["episode"], first["player"], first["step"]) == (str(1 << 48), 0, 6)
    assert (first["field"], first["index"], first["b"]) == ("action", None, str((1 << 64) - 1))
    assert (body["episodes"], body["episodes_differing"], body["rows"], body["columns"]) == (3, 1, 42, {"action": 1})
    code, out = expkit(capfd, "diff", base, base, "--json")
    body = json.loads(out)
    assert (code, body["equal"], body["first_difference"]) == (0, True, None)


def test_runs_of_other_schemas(tmp_path, capfd):
    a, b = write_boards(tmp_path / "boards"), write_vectors(tmp_path / "vectors")
    code, out = expkit(capfd, "diff", a, b)
    assert code == 4
    assert out.splitlines()[0] == f"{a} and {b} differ: observation/army: only in {a}"
    assert "--ignore" not in out  # the action is stored differently, which ignoring others does not mend
