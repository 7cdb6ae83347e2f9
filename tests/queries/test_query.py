"""Questions about runs, each against plain Python over all rows of the run."""

from __future__ import annotations

import math
import shutil
import threading
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import PATIENCE, wait_until
from pipeline_runs import write
from written_runs import VECTOR_SCHEMA, write_boards, write_vectors

import expkit
from expkit import Field, Recorder, Schema, open_run
from expkit.errors import CheckFailed, NotThere, SchemaError, ShardError, UsageError
from expkit.formats.shard.read import ShardReader
from expkit.queries import ask
from expkit.queries.database import Database, _Answer
from expkit.queries.statement import is_statement


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("query") / "run")


@pytest.fixture(scope="module")
def rows(path) -> list[dict]:
    return all_rows(path)


@pytest.fixture(scope="module")
def database(path):
    with open_run(path) as run, Database([run]) as opened:
        yield opened


def all_rows(path: Path) -> list[dict]:
    """Every row of a run as Python has it, null as None."""
    out = []
    with open_run(path) as run:
        for batch in run.scan(rows="all"):
            for at in range(len(batch["player"])):
                row = {name: values[at].tolist() for name, values in batch.items() if not name.startswith("valid:")}
                for field in run.schema.fields:
                    absent = row["is_last"] and field.belongs != "observation"
                    if absent or not batch.get(f"valid:{field.name}", np.ones(at + 1, bool))[at]:
                        row[field.name] = None
                out.append(row)
    return out


def answer(database: Database, statement: str) -> list[dict]:
    result = database.run(statement)
    return pa.Table.from_batches(result.batches, result.schema).to_pylist()


def key(row: dict) -> tuple[int, int, int]:
    return row["episode"], row["player"], row["step"]


def equal(one, other) -> bool:
    return one == other or (isinstance(one, float) and isinstance(other, float) and math.isnan(one + other))


def test_every_row_is_there_with_every_value(database, rows):
    for table, wanted in (("rows", rows), ("steps", [row for row in rows if not row["is_last"]])):
        found = {key(row): row for row in answer(database, f"FROM {table}")}
        assert len(found) == len(wanted)
        for row in wanted:
            mine = found[key(row)]
            assert set(mine) == {*row, "run", "policy_name"}
            for name, value in row.items():
                flat = np.asarray(value, object).ravel().tolist() if isinstance(value, list) else [value]
                other = np.asarray(mine[name], object).ravel().tolist() if isinstance(value, list) else [mine[name]]
                assert all(map(equal, flat, other)), (name, value, mine[name])


def test_groups_and_sums_are_those_of_plain_python(database, rows):
    counts, sums, guesses = defaultdict(int), defaultdict(float), defaultdict(list)
    for row in rows:
        if not row["is_last"]:
            counts[row["player"]] += 1
            sums[row["player"]] += row["reward"]
            if row["guess"] is not None:
                guesses[row["player"]].append(row["guess"])
    found = answer(
        database,
        'SELECT player, count(*) AS n, sum(reward) AS s, avg(guess) AS g, max("observation/board"[1][2]) AS b '
        "FROM steps GROUP BY player ORDER BY player",
    )
    assert [row["player"] for row in found] == sorted(counts)
    for row in found:
        assert row["n"] == counts[row["player"]]
        assert row["s"] == pytest.approx(sums[row["player"]])
        assert row["g"] == pytest.approx(fmean(guesses[row["player"]]))
        mine = [r["observation/board"][0][1] for r in rows if r["player"] == row["player"] and not r["is_last"]]
        assert row["b"] == max(mine)


def test_episodes_have_a_row_for_each_player(path, database, rows):
    found = {(row["episode"], row["player"]): row for row in answer(database, "FROM episodes")}
    with open_run(path) as run:
        episodes = {episode.number: episode for episode in run.episodes()}
    of_player = defaultdict(list)
    for row in rows:
        of_player[row["episode"], row["player"]].append(row)
    assert found.keys() == of_player.keys()
    for (number, player), mine in of_player.items():
        row, episode = found[number, player], episodes[number]
        assert row["rows"] == len(mine)
        assert row["steps"] == sum(not r["is_last"] for r in mine)
        assert row["return"] == pytest.approx(sum(r["reward"] for r in mine if not r["is_last"]))
        assert row["policy"] == min(mine, key=key)["policy"]
        assert (row["ended"], row["length"], row["outcome"]) == (
            episode.ended, episode.length, episode.outcome.get(player),
        )  # fmt: skip
        assert row["run"] == str(path)


def test_how_episodes_ended(tmp_path):
    write_boards(tmp_path / "run")
    found = expkit.query(
        tmp_path / "run",
        "SELECT player, policy_name, policy_version, outcome, won, return, ended, length FROM episodes "
        "WHERE episode = 1 ORDER BY player",
    ).to_pylist()
    assert [list(row.values()) for row in found] == [
        [0, "walker", 3, 1.0, True, 1.0, "terminated", 5],
        [1, "[bold]evil[/bold] \x1b[31m", 1, -1.0, False, -1.0, "terminated", 5],
    ]


NUMBERS = {
    "player": [0, 1, 2], "episode": [0, 4, 8, 1 << 40, (1 << 64) - 1], "step": [0, 3, 17, 99], "policy": [0, 1],
    "reward": [-0.5, 0.0, 0.5, 9.0], "guess": [-1.0, 0.0, 0.25, 9.0], "value": [-1.0, 0.0, 0.5],
    "action": [-1, 0, 4, 9], "time_ns": [0, 1 << 62],
}  # fmt: skip
COMPARE = {
    "=": lambda a, b: a == b, "<>": lambda a, b: a != b, "<": lambda a, b: a < b, "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
}  # fmt: skip
LEAVES = st.one_of(
    st.sampled_from(sorted(NUMBERS)).flatmap(
        lambda name: st.tuples(st.just(name), st.sampled_from(sorted(COMPARE)), st.sampled_from(NUMBERS[name]))
    ),
    st.tuples(st.sampled_from(["guess", "action", "reward"]), st.sampled_from(["is null", "is not null"]), st.none()),
    st.tuples(st.sampled_from(["terminated", "is_last"]), st.sampled_from(["= true", "= false"]), st.none()),
    st.tuples(
        st.sampled_from(["player", "action", "step", "reward"]), st.just("in"),
        st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple),
    ),
)  # fmt: skip
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(st.just("and"), inner, inner),
        st.tuples(st.just("or"), inner, inner),
        st.tuples(st.just("not"), inner),
    ),
    max_leaves=5,
)


def as_sql(condition) -> str:
    match condition:
        case ("and" | "or" as word, one, other):
            return f"({as_sql(one)} {word} {as_sql(other)})"
        case ("not", one):
            return f"(not {as_sql(one)})"
        case (name, "in", items):
            return f"{name} in ({', '.join(map(str, items))})"
        case (name, op, None):
            return f"{name} {op}"
        case (name, op, constant):
            return f"{name} {op} {constant}"


def holds(condition, row) -> bool | None:
    """As SQL has it, with None for unknown. NaN is equal to itself and above all numbers in DuckDB."""
    match condition:
        case ("and", one, other):
            both = holds(one, row), holds(other, row)
            return False if False in both else None if None in both else True
        case ("or", one, other):
            both = holds(one, row), holds(other, row)
            return True if True in both else None if None in both else False
        case ("not", one):
            inner = holds(one, row)
            return None if inner is None else not inner
        case (name, "is null" | "is not null" as op, _):
            return (row[name] is None) == (op == "is null")
        case (name, "= true" | "= false" as op, _):
            return None if row[name] is None else row[name] == (op == "= true")
        case (name, "in", items):
            return None if row[name] is None else row[name] in items
        case (name, op, constant):
            value = row[name]
            if value is None:
                return None
            return COMPARE[op](math.inf if isinstance(value, float) and math.isnan(value) else value, constant)


@given(CONDITIONS)
@settings(max_examples=120, deadline=None)
def test_any_condition_selects_the_rows_for_which_it_holds(database, rows, condition):
    """Pushed into the scan or not, skipping blocks or not."""
    found = answer(database, f"SELECT episode, player, step FROM rows WHERE {as_sql(condition)}")
    wanted = [key(row) for row in rows if holds(condition, row)]
    assert sorted(map(key, found)) == sorted(wanted)


@pytest.mark.parametrize(
    "question",
    ["reward > 0.5 and player == 1", "guess is null", "is_last", "length > 20 AND NOT terminated", "player = 7"],
)
def test_a_condition_gives_the_rows_that_reading_gives(path, question):
    with open_run(path) as run:
        table = run.query(question)
        keys = [key(row) for row in table.to_pylist()]
        found = [
            (int(e), int(p), int(s))
            for batch in run.scan([], where=question, rows="all")
            for e, p, s in zip(batch["episode"], batch["player"], batch["step"], strict=True)
        ]
        assert keys == found
        assert table.column_names == [
            "episode", "player", "step", "policy_name", "value", "guess", "action", "reward", "terminated", "truncated"
        ]  # fmt: skip
        with ask([run], question) as answered:
            values = [row for part in answered.values() for row in zip(*part, strict=True)]
        assert repr([tuple(row.values()) for row in table.to_pylist()]) == repr(values)
        assert answered.count() == len(values)


def test_columns_of_a_condition(path):
    with open_run(path) as run:
        assert run.query("step = 3", columns=["observation"]).column_names == [
            "episode", "player", "step", "observation/board", "observation/seen"
        ]  # fmt: skip
        assert set(run.query("step = 3", columns=["all"]).column_names) >= {"mask", "guess", "observation/board"}
        with pytest.raises(SchemaError, match="no column 'rewrd'"):
            run.query("step = 3", columns=["rewrd"])
        with pytest.raises(UsageError, match="columns are for conditions"):
            run.query("SELECT 1", columns=["reward"])


def decoded(monkeypatch) -> dict[str, int]:
    """Rows by stored column that are read from now on."""
    counts: dict[str, int] = defaultdict(int)
    plainly = ShardReader.read_into

    def counting(self, index, rows, out, places):
        for name in out:
            counts[name] += len(rows)
        return plainly(self, index, rows, out, places)

    monkeypatch.setattr(ShardReader, "read_into", counting)
    return counts


def test_only_the_columns_that_a_statement_uses_are_decoded(database, rows, monkeypatch):
    counts = decoded(monkeypatch)
    assert answer(database, "SELECT count(*) AS n FROM rows") == [{"n": len(rows)}]
    assert not counts
    answer(database, "SELECT sum(action) FROM rows")
    assert counts == {"action": len(rows), "is_last": len(rows)}
    counts.clear()
    answer(database, "SELECT count(*) FROM episodes WHERE length > 3")
    assert not counts
    answer(database, "SELECT avg(return) FROM episodes")
    assert counts.keys() == {"episode", "is_last", "reward"}


def test_blocks_that_cannot_match_are_not_decoded(path, database, rows, monkeypatch):
    counts = decoded(monkeypatch)
    found = answer(database, 'SELECT "observation/board" FROM rows WHERE step >= 30 AND player = 1')
    matching = sum(row["step"] >= 30 and row["player"] == 1 for row in rows)
    assert len(found) == matching > 0
    assert counts["observation/board"] == matching
    with open_run(path) as run:
        blocks = list(run.blocks())
    of_others = sum(block.rows for block in blocks if block.info.player == 0 or block.info.step_max < 30)
    assert 0 < counts["step"] <= len(rows) - of_others + matching
    counts.clear()
    assert answer(database, "SELECT max(value) AS m FROM rows WHERE action = 77") == [{"m": None}]
    assert not counts
    assert answer(database, "SELECT count(*) AS n FROM rows WHERE run = 'elsewhere'") == [{"n": 0}]
    assert not counts


def test_damage_elsewhere_does_not_matter_and_damage_here_is_told(path, tmp_path, monkeypatch):
    """Bytes that a question has no use for are not read."""
    shutil.copytree(path, tmp_path / "run")
    with open_run(tmp_path / "run") as run:
        block = next(run.blocks())
        shard = Path(block.reader.path)
        place = run.schema.columns.index(run.schema.column("observation/board"))
        head = block.reader.head(block.info.index)
        offset = block.info.body_offset + head.body_at[head.first_frame[place]]
    data = bytearray(shard.read_bytes())
    data[offset] ^= 1
    shard.write_bytes(data)
    assert expkit.query(tmp_path / "run", "SELECT sum(reward) FROM steps").num_rows == 1
    player, low = block.info.player, block.info.step_max
    board = 'SELECT max("observation/board"[1][1]) AS b FROM rows'
    assert expkit.query(tmp_path / "run", f"{board} WHERE player <> {player} OR step > {low}").num_rows == 1
    with pytest.raises(ShardError, match=r"observation/board"):
        expkit.query(tmp_path / "run", board)
    begin = _Answer.__init__

    def begin_and_end(self, *given):
        begin(self, *given)
        self._thread.join(PATIENCE)

    with monkeypatch.context() as patch:  # found before anybody asks for the first batch
        patch.setattr(_Answer, "__init__", begin_and_end)
        with pytest.raises(ShardError, match=r"observation/board"):
            expkit.query(tmp_path / "run", board)
    with pytest.raises(CheckFailed, match=r"observation/board"):
        expkit.query(tmp_path / "run", "step >= 0", columns=["observation"])


def test_many_runs_are_one_table(tmp_path):
    names = ["a", "b"]
    paths = [write(tmp_path / name, seed=seed) for seed, name in enumerate(names)]
    counts = [len(all_rows(path)) for path in paths]
    found = expkit.query(paths, "SELECT run, count(*) AS n FROM rows GROUP BY run ORDER BY run").to_pylist()
    assert found == [{"run": str(path), "n": n} for path, n in zip(paths, counts, strict=True)]
    assert expkit.query(tmp_path / "?", "SELECT count(*) AS n FROM rows").to_pylist() == [{"n": sum(counts)}]
    with open_run(paths) as runs:
        assert runs.query("SELECT count(*) AS n FROM rows").to_pylist() == [{"n": sum(counts)}]
        stream = runs.arrow(["episode"], rows="all").read_all()
        assert stream.column_names == ["run", "episode"]
        assert stream["run"].value_counts().to_pylist() == [
            {"values": str(path), "counts": n} for path, n in zip(paths, counts, strict=True)
        ]
    table = expkit.query(paths, "step = 3")
    assert table.column_names[0] == "run"
    assert set(table["run"].to_pylist()) == set(map(str, paths))


def test_runs_of_different_games_are_one_table_where_they_can_be(tmp_path):
    write_vectors(tmp_path / "vectors")
    write_boards(tmp_path / "boards")
    found = expkit.query(
        [tmp_path / "vectors", tmp_path / "boards"],
        'SELECT run, count(value) AS v, count("observation/army") AS a, max(action) AS m, count(*) AS n FROM steps '
        "GROUP BY run ORDER BY run",
    ).to_pylist()
    assert [list(row.values())[1:] for row in found] == [[0, 30, 131, 30], [12, 0, 2, 24]]
    assert expkit.query([tmp_path / "vectors", tmp_path / "boards"], "step = 1 and not is_last").num_rows == 4 + 6
    other = Schema([Field("observation", "f4", (5,), "observation"), Field("action", "u1", belongs="action")])
    with Recorder(tmp_path / "longer", other, min_free=0) as recorder:
        recorder.add(episode=0, step=0, observation=np.arange(5), action=1, reward=1.0)
    both = [tmp_path / "vectors", tmp_path / "longer"]
    found = expkit.query(both, "SELECT DISTINCT len(observation) AS n FROM rows ORDER BY n").to_pylist()
    assert found == [{"n": 3}, {"n": 5}]
    none = Schema([Field("observation", "f4", (), "observation")])
    with Recorder(tmp_path / "scalar", none, min_free=0) as recorder:
        recorder.add(episode=0, step=0, observation=1.0, reward=1.0)
    with pytest.raises(
        SchemaError, match=r"observation is .* in .*vectors and float in .*scalar; query them one by one"
    ):
        expkit.query([tmp_path / "vectors", tmp_path / "scalar"], "SELECT 1")


def test_halves_are_read_as_floats(tmp_path):
    schema = Schema([Field("observation", "f2", (2,), "observation"), Field("h", "f2"), *VECTOR_SCHEMA.fields[1:]])
    with Recorder(tmp_path / "run", schema, min_free=0) as recorder:
        for step in range(3):
            recorder.add(episode=0, step=step, observation=[step, 0.5], h=step / 4, action=0, reward=0.0)
    found = expkit.query(tmp_path / "run", "SELECT observation, h FROM steps WHERE h >= 0.25 ORDER BY h").to_pylist()
    assert found == [{"observation": [1.0, 0.5], "h": 0.25}, {"observation": [2.0, 0.5], "h": 0.5}]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("SELECT rewrd FROM steps", r"no column rewrd; did you mean reward\? \(character 8: SELECT rewrd FROM steps\)"),
        ("SELECT 'é', guss FROM steps", r"no column guss; did you mean guess\? \(character 13: "),
        ("SELECT observation/board FROM steps", r'double quotes, as "observation/board" \(character 8'),
        ("SELECT reward", r"no column reward in what is selected from; the tables are steps, rows, episodes"),
        ("SELECT * FROM stps", r"no table stps; did you mean steps\?"),
        ("SELECT * FROM transitions", r"no table transitions; there are steps, rows, episodes"),
        ("SELECT foo(reward) FROM steps", r"no scalar function foo"),
        ("SELECT 'abc", r"unterminated string literal \(character 8"),
        ("SELECT sum(policy_name) FROM steps", r"No function matches"),
        ("FROM steps WHERE policy = 'hunter'", r"to UINT16; policy is a number, policy_name its name \(character 27"),
        ("SELECT (episode * 1000)::TINYINT FROM steps", r"out of range for the destination type INT8"),
        ("SELECT 1; SELECT 2", r"2 statements; ask them one by one"),
        ("DROP TABLE steps", r"DROP changes something"),
        ("COPY steps TO '/tmp/x.csv'", r"COPY changes something"),
        ("WITH x AS (SELECT 1) INSERT INTO steps SELECT 1", r"a INSERT statement changes something"),
        ("FROM '/etc/passwd'", r"no table /etc/passwd"),
        ("SELECT * FROM read_csv('/etc/passwd')", r"cannot access file .*; SQL reads the tables of the runs only"),
        ("SELECT * FROM glob('/*')", r"SQL reads the tables of the runs only"),
        ("SELECT * FROM read_parquet('https://example.invalid/x.parquet')", r"SQL"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(path, statement, message):
    with pytest.raises(UsageError, match=message) as told:
        expkit.query(path, statement)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("select 1", True),
        ("  SELECT\nreward FROM steps", True),
        ("-- why\nselect 1", True),
        ("/* why */ with a as (select 1) from a", True),
        ("(select 1) union (select 2)", True),
        ("from steps", True),
        ("describe steps", True),
        ("values (1, 2)", True),
        ('select"reward" from steps', True),
        ("values > 3", False),
        ("values[0] > 3", False),
        ("show == 1", False),
        ("table in (1, 2)", False),
        ("from between 1 and 2", False),
        ("set", False),
        ("set is not null", False),
        ("selected > 3", False),
        ("reward > 0.5", False),
        ("(reward > 0.5)", False),
    ],
)
def test_statements_are_told_from_conditions(text, sql):
    assert is_statement(text) is sql


def test_a_statement_that_is_given_up_stops(path):
    forever = "SELECT count(*) FROM range(100000000) a, range(100000) b WHERE (a.range * b.range) % 7 = 3"
    with open_run(path) as run, Database([run]) as database:
        result = database.run("SELECT a.episode FROM rows a, rows b, rows c")
        assert next(result.batches).num_rows > 0
        result.batches.close()
        assert not computing()
        told: list[Exception] = []

        def ask_forever() -> None:
            try:
                database.run(forever)
            except UsageError as error:
                told.append(error)

        asking = threading.Thread(target=ask_forever)
        asking.start()
        wait_until(computing)

        def given_up() -> bool:
            database._connection.interrupt()  # is lost on a statement that has not begun
            return not asking.is_alive()

        wait_until(given_up)
        assert len(told) == 1
        assert not computing()


def computing() -> bool:
    return any(thread.name == "expkit-sql" for thread in threading.enumerate())


def test_what_does_not_fit_in_memory_goes_to_a_folder_that_is_gone_afterwards(path):
    with open_run(path) as run:
        database = Database([run], memory="48MiB")
        folder = Path(database._folder.name)
        assert answer(database, "SELECT current_setting('memory_limit') AS m")[0]["m"] == "48.0 MiB"
        result = database.run("SELECT range, repeat('x', 40) FROM range(2000000) ORDER BY hash(range)")
        assert next(result.batches).num_rows > 0
        assert any(folder.iterdir())
        result.batches.close()
        database.close()
        assert not folder.exists()


def test_no_run_and_no_such_run(tmp_path):
    with pytest.raises(UsageError, match="no run to query"):
        expkit.query([], "SELECT 1")
    with pytest.raises(NotThere, match="no such folder"):
        expkit.query(tmp_path / "nowhere", "SELECT 1")


def test_a_part_of_a_run_is_asked_like_a_run(path):
    with open_run(path) as run:
        parts = run.split({"train": 0.5, "val": 0.5})
        counts = [part.query("SELECT count(*) AS n, count(DISTINCT episode) AS e FROM rows").to_pylist()[0] for part in
                  parts.values()]  # fmt: skip
        assert sum(count["n"] for count in counts) == len(run)
        assert [count["e"] for count in counts] == [len(part.episodes()) for part in parts.values()]
        labels = expkit.query(list(parts.values()), "SELECT DISTINCT run FROM episodes ORDER BY run").to_pylist()
        assert [row["run"] for row in labels] == [f"{path} (train)", f"{path} (val)"]
        for part in parts.values():
            part.close()
