"""Rewards of existing runs computed anew: from the stored truth, from the game played again, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_rewards as slow
from gior_files import gior
from recorded_games import importable, record
from test_compact import expkit, lose_columns
from test_merge import join
from test_rewards import ODD, ODD_TEXT
from written_runs import write_vectors

from expkit import Field, Recorder, Schema, open_run
from expkit.errors import GameError, SchemaError, UsageError
from expkit.exchange.recordings import import_recording
from expkit.reading.run import Run
from expkit.resimulation import states_again
from expkit.resimulation.recorded_games import RecordedGames
from expkit.resimulation.rewards import RewardReader
from expkit.resimulation.verify import verify_run
from expkit.rewards import RewardColumns
from expkit.rewrite.merge import Choice
from expkit.rewrite.revalue import Revaluation, changes
from expkit.rewrite.sources import Sources
from expkit.runs.layout import read_run_info
from expkit.validation.validate import validate_run

COLUMNS = RewardColumns.parse(
    f"weighted({ODD_TEXT}, end_alone=False)",
    "plain=weighted; end=sparse; was=game; cities=potential(of=cities); "
    "shaped=sparse + 2*potential(of=army, gamma=0.9)",
)
TWINS = {
    "reward": lambda row: slow.weighted(row, end_alone=False, **ODD),
    "reward/plain": slow.weighted,
    "reward/end": slow.sparse,
    "reward/shaped": lambda row: slow.sparse(row) + 2 * slow.potential(row, "army", 0.9),
    "reward/cities": lambda row: slow.potential(row, "cities"),
    "reward/was": lambda row: row["reward"],
}
Rewards = dict[tuple[int, int, int], dict[str, float]]  # by episode, player, step


def careless(observation: Any, mask: np.ndarray, episode: Any, step: np.ndarray, player: Any) -> np.ndarray:
    """Legal moves, but for every seventh step, in which the action is one that nobody may take."""
    picked = [np.flatnonzero(row)[int(number) * 7 % row.sum()] for row, number in zip(mask, step, strict=True)]
    return np.where(step % 7 == 3, np.argmin(mask, axis=1), picked)


@pytest.fixture(scope="module")
def truthful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three players, with the truth; one of them plays illegal actions."""
    policies = ["hunter", "hunter", careless]
    return record(tmp_path_factory.mktemp("truthful") / "run", state=True, policies=policies)


def stored(path: Path) -> Rewards:
    """All columns of rewards of all rows with an action."""
    out: Rewards = {}
    with open_run(path) as run:
        names = [field.name for field in run.schema.fields if field.name.split("/")[0] == "reward"]
        for episode in run.episodes():
            for player in episode.rows:
                table = run.rows(episode.number, player, names)
                for at, step in enumerate(table["step"].tolist()):
                    told = {name: float(table[name][at]) for name in names}
                    if table["is_last"][at]:
                        assert set(told.values()) == {0.0}
                    else:
                        out[episode.number, player, step] = told
    return out


def by_the_twins(path: Path) -> Rewards:
    """From the stored truth, row by row."""
    out: Rewards = {}
    with open_run(path) as run:
        for episode in run.episodes():
            for player in episode.rows:
                table = {name: values.tolist() for name, values in run.rows(episode.number, player).items()}
                steps = table["step"]
                for at, step in enumerate(steps):
                    if table["is_last"][at]:
                        continue
                    has_next = at + 1 < len(steps) and steps[at + 1] == step + 1
                    ends = table["terminated"][at] or table["truncated"][at]
                    row = {name: table[name][at] for name in ("reward", "terminated", "action", "player")}
                    row |= {"has_next": has_next, "outcome": episode.outcome[player] if ends else float("nan")}
                    for name in ("state/army", "state/owner", "state/terrain"):
                        for prefix, place in (("", at), ("next_", at + has_next)):
                            board = table[name][place]
                            row[prefix + name] = {(y, x): v for y, line in enumerate(board) for x, v in enumerate(line)}
                    out[episode.number, player, step] = {name: twin(row) for name, twin in TWINS.items()}
    return out


def same(one: Rewards, other: Rewards) -> None:
    assert one.keys() == other.keys()
    for key, values in one.items():
        assert values == pytest.approx(other[key], rel=1e-6, abs=1e-6), key


def test_rewards_from_the_stored_truth_are_those_of_the_slow_twins(truthful: Path, tmp_path: Path) -> None:
    done = join([truthful], tmp_path / "out", Choice(rewards=COLUMNS))
    expected = by_the_twins(truthful)
    same(stored(tmp_path / "out"), expected)
    assert done.notes == []
    ends = [values["reward/end"] for values in expected.values()]
    assert {-1.0, 0.0, 1.0} == set(ends)
    assert any(values["reward/cities"] > 0.01 for values in expected.values())
    with Run(tmp_path / "out") as run:
        assert {f.rule for f in validate_run(run) if f.severity != "info"} == {"value/legal"}  # as in the input
        assert all(result.difference is None for result in verify_run(run, run.episodes()))
        assert run.info.metadata["rewards"] == COLUMNS.texts
        assert run.schema["reward/shaped"].belongs == "action"


def test_the_game_played_again_gives_the_same_rewards(truthful: Path, tmp_path: Path) -> None:
    """Without the truth in it; without a board in it at all; and after a merge, under other numbers."""
    join([truthful], tmp_path / "out", Choice(rewards=COLUMNS))
    expected = stored(tmp_path / "out")
    for place, columns in enumerate((["observation", "action", "action_mask"], ["action"])):
        join([truthful], tmp_path / f"less{place}", Choice(columns=columns))
        join([tmp_path / f"less{place}"], tmp_path / f"again{place}", Choice(rewards=COLUMNS))
        assert stored(tmp_path / f"again{place}") == expected
    with open_run(truthful) as run:
        stored_truth, again = RewardReader(run, COLUMNS), RewardReader(run, COLUMNS, again=True)
        assert (stored_truth.plays_again, again.plays_again) == (False, True)
        for episode in run.episodes():
            first, second = stored_truth.episode(episode), again.episode(episode)
            for player in episode.rows:
                for name in COLUMNS.functions:
                    assert np.array_equal(first[player].values[name], second[player].values[name])
    other = record(tmp_path / "other", seed=9, episodes=2)
    join([other, tmp_path / "less0"], tmp_path / "both", Choice(columns=["action"]))
    join([tmp_path / "both"], tmp_path / "last", Choice(rewards=COLUMNS))
    moved = {(e - 2, p, s): values for (e, p, s), values in stored(tmp_path / "last").items() if e >= 2}
    assert moved == expected


def test_pieces_of_a_long_game_fit_together(truthful: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: dict[int, Any] = {}
    with open_run(truthful) as run:
        for at_once in (1024, 1, 7):
            monkeypatch.setattr(states_again, "STEPS_AT_ONCE", at_once)
            reader = RewardReader(run, COLUMNS, again=True)
            for episode in run.episodes()[:2]:
                found = {p: r.values | {"step": r.step} for p, r in reader.episode(episode).items()}
                first = whole.setdefault(episode.number, found)
                for player, values in found.items():
                    assert all(np.array_equal(values[name], first[player][name]) for name in values)


def test_conditions_columns_and_parts_go_with_rewards(truthful: Path, tmp_path: Path) -> None:
    """A condition looks at what is stored, not at what it becomes."""
    join([truthful], tmp_path / "whole", Choice(rewards=COLUMNS))
    expected, before = stored(tmp_path / "whole"), stored(truthful)
    choice = Choice(where="reward < 0 or step < 9", columns=["action"], split={"a": 0.5, "b": 0.5}, rewards=COLUMNS)
    join([truthful], tmp_path / "out", choice)
    found: list[dict[str, float]] = []
    for part in ("a", "b"):
        with open_run(tmp_path / "out" / part) as run:
            assert "state/army" not in run.schema
        found += stored(tmp_path / "out" / part).values()
    wanted = [expected[key] for key, values in before.items() if values["reward"] < 0 or key[2] < 9]
    assert sorted(found, key=str) == sorted(wanted, key=str)


def test_no_reward_is_paid_across_a_gap(truthful: Path, tmp_path: Path) -> None:
    join([truthful], tmp_path / "gaps", Choice(where="step != 6"))
    done = join([tmp_path / "gaps"], tmp_path / "out", Choice(rewards=COLUMNS))
    expected = by_the_twins(tmp_path / "gaps")
    same(stored(tmp_path / "out"), expected)
    gaps = [values for key, values in expected.items() if key[2] == 5]
    assert len(gaps) == 15
    assert {values["reward/shaped"] for values in gaps} == {0.0}
    assert done.notes == ["15 rewards are without what the row after the action would tell: it is not there"]
    join([tmp_path / "gaps"], tmp_path / "less", Choice(columns=["action"]))
    with pytest.raises(GameError, match=r"episode 0: \d+ of \d+ rows of player 0 are there, so it cannot be played"):
        join([tmp_path / "less"], tmp_path / "no", Choice(rewards=COLUMNS))
    assert not (tmp_path / "no").exists()


def test_rewards_that_damage_took_come_back(tmp_path: Path) -> None:
    record(tmp_path / "run", episodes=3, players=2)
    expected = stored(tmp_path / "run")
    lose_columns(tmp_path / "run", 0, ("reward",))
    sparse = RewardColumns.parse("sparse")
    with Sources([tmp_path / "run"]) as sources:
        taken = [(0, episode) for episode in sources.runs[0].episodes()]
        (shown,) = changes(Revaluation(sources, sparse), sources, taken)
    assert (shown.old, {row.old for row in shown.examples}, shown.changed) == (None, {None}, shown.rows)
    join([tmp_path / "run"], tmp_path / "out", Choice(rewards=sparse))
    assert stored(tmp_path / "out") == expected
    with pytest.raises(UsageError, match="GameReward returned nan"):
        join([tmp_path / "run"], tmp_path / "no", Choice(rewards=RewardColumns.parse("game + weighted")))


def test_interrupted_games_and_the_representation_as_planes(tmp_path: Path) -> None:
    flags = {"rows": 700, "episodes": None, "players": 2, "ruleset": "go-system"}
    record(tmp_path / "truth", state=True, **flags)
    record(tmp_path / "planes", representation="planes", **flags)
    seen = RewardColumns.parse(None, "dense=weighted; shaped=potential(of=land)")
    join([tmp_path / "truth"], tmp_path / "a", Choice(rewards=seen))
    join([tmp_path / "planes"], tmp_path / "b", Choice(rewards=seen))
    assert stored(tmp_path / "a") == stored(tmp_path / "b")
    with open_run(tmp_path / "a") as run:
        assert {episode.ended for episode in run.episodes()} >= {"interrupted"}


def test_an_episode_that_was_cut_is_refused_unless_the_truth_is_stored(tmp_path: Path) -> None:
    """As a kill leaves it: one player's last rows never became durable, and no end is told."""
    record(tmp_path / "run", state=True, episodes=1, players=2)
    with open_run(tmp_path / "run") as run:
        episode = run.episodes()[0]
        tables = {player: run.rows(0, player) for player in (0, 1)}
    cut = {player: {name: values[: 20 - 5 * player] for name, values in tables[player].items()} for player in tables}
    with open_run(tmp_path / "run") as run:
        game = RecordedGames(run).resimulator(episode)
        with pytest.raises(GameError, match="here step 15: the row of player 1 is missing.*ended != 'interrupted'"):
            list(states_again.states_again("here", game, cut, ["state/army"]))
        with pytest.raises(UsageError, match="here: state/arms is not stored, and the game does not tell it"):
            list(states_again.states_again("here", game, cut, ["state/arms"]))
        changed = {**tables[1], "terminated": np.arange(len(tables[1]["step"])) == 4}
        game = RecordedGames(run).resimulator(episode)
        with pytest.raises(GameError, match="step 4: as recorded the game ends for player 1, played again it goes on"):
            list(states_again.states_again("here", game, {0: tables[0], 1: changed}, ["state/army"]))


def test_an_imported_game(tmp_path: Path) -> None:
    """A player who leaves has lost; his land stays."""
    (tmp_path / "game.gior").write_bytes(gior(moves=[[0, 0, 1, 0, 6], [0, 1, 2, 1, 7]], leaves=[[1, 9]]))
    import_recording(tmp_path / "game.gior", tmp_path / "run")
    join([tmp_path / "run"], tmp_path / "out", Choice(rewards=RewardColumns.parse("weighted", "end=sparse")))
    found = stored(tmp_path / "out")
    assert found[0, 0, 6]["reward"] == pytest.approx(0.01 + 0.05 * (4 - 4) / 8, abs=1e-6)
    assert [key for key, values in found.items() if values["reward/end"]] == [(0, 0, 9), (0, 1, 9)]
    assert (found[0, 0, 9]["reward"], found[0, 1, 9]["reward"]) == (1.0, -1.0)


USER = '''
from expkit.rewards import needs

@needs("observation/total_land", "next_observation/total_land")
def growth(batch):
    """Tiles gained, as the scoreboard shows them."""
    mine = (range(len(batch["player"])), batch["player"])
    return batch["next_observation/total_land"][mine] - batch["observation/total_land"][mine]

@needs("observation", "next_observation")
def forward(batch):
    return (batch["next_observation"] - batch["observation"])[:, 1]

@needs("next_action")
def peeks(batch):
    return batch["next_action"]
'''


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return importable(tmp_path, monkeypatch, "my_rewards_here.py", USER)


def test_a_users_reward_on_any_run(user: Path, truthful: Path, tmp_path: Path) -> None:
    write_vectors(tmp_path / "vectors")
    forward = RewardColumns.parse("my_rewards_here:forward")
    join([tmp_path / "vectors"], tmp_path / "out", Choice(rewards=forward))
    assert {values["reward"] for values in stored(tmp_path / "out").values()} == {1.0}
    growth = RewardColumns.parse(None, "growth=my_rewards_here:growth")
    join([truthful], tmp_path / "seen", Choice(rewards=growth))
    join([truthful], tmp_path / "less", Choice(columns=["action"]))
    join([tmp_path / "less"], tmp_path / "again", Choice(rewards=growth))
    assert stored(tmp_path / "seen") == stored(tmp_path / "again")
    assert {values["reward/growth"] for values in stored(tmp_path / "seen").values()} >= {0.0, 1.0}
    with pytest.raises(UsageError, match="action does not belong to the observation, so it has no next value"):
        join([truthful], tmp_path / "no", Choice(rewards=RewardColumns.parse("my_rewards_here:peeks")))
    with pytest.raises(UsageError, match="state/terrain: looked at and not stored; .* does not say how its game"):
        join([tmp_path / "vectors"], tmp_path / "no", Choice(rewards=RewardColumns.parse("weighted")))


def test_runs_whose_rewards_differ_are_told_apart(truthful: Path, tmp_path: Path) -> None:
    join([truthful], tmp_path / "dense", Choice(rewards=RewardColumns.parse("weighted")))
    done = join([truthful, tmp_path / "dense"], tmp_path / "both")
    assert done.notes == [f"the rewards of {tmp_path / 'dense'} are not computed as those of {truthful} are"]
    assert read_run_info(tmp_path / "both").metadata["rewards"] == {"reward": "mixed"}
    more = Choice(rewards=RewardColumns.parse(None, "end=sparse"))
    for name in ("truth", "dense"):
        join([truthful if name == "truth" else tmp_path / name], tmp_path / f"{name}-end", more)
    join([tmp_path / "truth-end", tmp_path / "dense-end"], tmp_path / "ends")
    told = {"reward": "mixed", "reward/end": "sparse"}
    assert read_run_info(tmp_path / "ends").metadata["rewards"] == told
    join([tmp_path / "both"], tmp_path / "one", Choice(rewards=RewardColumns.parse("weighted")))
    assert read_run_info(tmp_path / "one").metadata["rewards"] == {"reward": "weighted"}
    join([tmp_path / "ends"], tmp_path / "narrow", Choice(columns=["action"]))
    assert read_run_info(tmp_path / "narrow").metadata["rewards"] == {"reward": "mixed"}
    with Run(tmp_path / "both") as run:
        assert all(result.difference is None for result in verify_run(run, run.episodes()))


def test_the_games_own_reward_is_had_again(truthful: Path, tmp_path: Path) -> None:
    join([truthful], tmp_path / "dense", Choice(rewards=RewardColumns.parse("weighted")))
    back = RewardColumns.parse("game", "more=game + 1; dense=weighted")
    join([tmp_path / "dense"], tmp_path / "back", Choice(rewards=back))
    before, found = stored(truthful), stored(tmp_path / "back")
    assert {key: values["reward"] for key, values in found.items()} == {k: v["reward"] for k, v in before.items()}
    assert all(values["reward/more"] == values["reward"] + 1 for values in found.values())
    with Run(tmp_path / "back") as run:
        assert all(result.difference is None for result in verify_run(run, run.episodes()))
        run.info.metadata["rewards"]["reward/dense"] = "weighted(step=1)"
        first = next(verify_run(run, run.episodes())).difference
        assert first is not None
        assert (first.field, first.episode, first.player, first.step) == ("reward/dense", 0, 0, 0)
        assert float(first.replayed) == pytest.approx(float(first.recorded) + 1)


def test_a_column_of_another_kind_is_not_written_over(tmp_path: Path) -> None:
    schema = Schema([Field("action", "u1", belongs="action"), Field("reward/extra", "i4", (2,), "action")])
    with Recorder(tmp_path / "run", schema, min_free=0) as recorder:
        extra = {"reward/extra": [1, 2]}
        recorder.add(player=0, episode=0, step=0, action=1, reward=0.5, terminated=True, **extra)
    with pytest.raises(SchemaError, match="reward/extra is there as another field"):
        join([tmp_path / "run"], tmp_path / "out", Choice(rewards=RewardColumns.parse(None, "extra=sparse")))


def test_what_a_dry_run_shows(truthful: Path, tmp_path: Path) -> None:
    words = ["rewrite", truthful, "-o", tmp_path / "out", "--reward", "weighted", "--reward-column", "end=sparse"]
    done = expkit(*words, "--dry-run", "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)["rewards"]
    assert not (tmp_path / "out").exists()
    assert expkit(*words, "--quiet").returncode == 0
    old, new = stored(truthful), stored(tmp_path / "out")
    differing = [key for key in old if old[key]["reward"] != new[key]["reward"]]
    shown = told["reward"]
    assert (shown["reward"], shown["rows"], shown["changed"]) == ("weighted", len(old), len(differing))
    assert sum(shown["old"]["counts"]) == sum(shown["new"]["counts"]) == len(old)
    assert shown["old"]["mean"] == pytest.approx(np.mean([values["reward"] for values in old.values()]))
    assert shown["new"]["mean"] == pytest.approx(np.mean([values["reward"] for values in new.values()]))
    assert len(shown["examples"]) == 10
    sizes = sorted((abs(new[key]["reward"] - old[key]["reward"]) for key in differing), reverse=True)
    for row, size in zip(shown["examples"], sizes, strict=False):
        key = int(row["episode"]), row["player"], row["step"]
        assert (row["old"], row["new"]) == (old[key]["reward"], new[key]["reward"])
        assert abs(row["new"] - row["old"]) == size
    fresh = told["reward/end"]
    assert (fresh["old"], fresh["changed"], fresh["rows"]) == (None, len(old), len(old))
    assert {abs(row["new"]) for row in fresh["examples"]} <= {0.0, 1.0}
    page = expkit(*words, "--dry-run", "--force").stdout
    for word in ("reward = weighted", "of 1,", "rewards change", "old", "new", "reward/end = sparse: a new column"):
        assert word in page


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--reward", "wieghted"], 2, "did you mean weighted?"),
        (["--reward-column", "weighted"], 2, "write it like dense=weighted"),
        (["--reward", "no_module_of_that_name:reward"], 2, "is its folder on PYTHONPATH?"),
        (["--reward", "sparse(gain=1)"], 2, "it takes win, loss, draw"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_written(
    truthful: Path, tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    done = expkit("rewrite", truthful, "-o", tmp_path / "out", *words)
    assert done.returncode == code
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
