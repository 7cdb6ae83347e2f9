"""Rules about what recorded rows mean: each is found in a run that was tampered with, and in none that was not."""

import msgspec
import numpy as np
import pytest
from tampered_runs import (
    TAMPERED,
    Copy,
    always_passes,
    army_in_fog,
    constant,
    described_again,
    findings,
    frozen,
    gap,
    mask_bit,
    owner_gone,
    record,
    record_both,
    reward_off,
    started_again,
    twice,
    version_back,
)

from expkit import Field, Recorder, Schema, open_run
from expkit.formats.shard.encode import BlockEncoder
from expkit.rules import Rows
from expkit.rules.registry import load_rules
from expkit.runs.write import RunWriter, create_run
from expkit.validation.validate import Totals, validate_run


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    return record_both(tmp_path_factory.mktemp("played"))


def test_a_thousand_clean_episodes_raise_nothing(tmp_path):
    path = record(tmp_path / "run", "--size", "5x5", "--max-steps", 100, "--episodes", 1000, "--seed", 11)
    totals = Totals()
    assert findings(path, totals=totals) == []
    assert totals.judged["reward/replayed"] == 1000
    expected = {"episode", "policy", "value", "board", "reward"}
    assert {id.partition("/")[0] for id in totals.judged} == expected
    assert totals.rows == totals.judged["board/fog"] == totals.judged["board/mask"] > 50_000


@pytest.mark.parametrize("policy", ["random", "expander"])
def test_weak_players_and_three_of_them_with_the_truth_raise_nothing(tmp_path, played, policy):
    assert findings(played / "state") == []
    path = record(
        tmp_path / "run", "--size", "6x7", "--players", 3, "--max-steps", 60, "--episodes", 20, "--policy", policy,
        "--ruleset", "go-system", "--seed", 2, "--state",
    )  # fmt: skip
    assert findings(path) == []


def test_a_run_written_anew_in_other_blocks_is_still_sound(tmp_path, played):
    for name in ("raw", "state"):
        assert findings(Copy(played / name).write(tmp_path / name)) == []


@pytest.mark.parametrize(("run", "tamper", "rule"), TAMPERED, ids=[f"{t.__name__}-{r}" for _, t, r in TAMPERED])
def test_a_run_that_was_tampered_with_is_found(tmp_path, played, run, tamper, rule):
    copy = Copy(played / run)
    episode, player, step = tamper(copy)
    found = [finding for finding in findings(copy.write(tmp_path / "run")) if finding.rule == rule]
    places = [(finding.episode, finding.player, finding.step) for finding in found]
    assert any(place[:2] == (episode, player) and step in (None, place[2]) for place in places), (
        f"{(episode, player, step)} is not among {places}"
    )
    if tamper is owner_gone:  # it comes back as well as it went
        assert len(found) == 1
    elif tamper not in (always_passes, constant, started_again):  # once for each player or action
        assert len(found) == 1, places
    assert {finding.severity for finding in found} == {load_rules()[rule].severity}
    if load_rules()[rule].over in ("rows", "steps"):
        assert all(finding.shard == "w0/000000" and finding.block is not None for finding in found)


def test_every_rule_about_meaning_has_a_run_that_violates_it():
    others = {"value/nan", "episode/next-observation"}  # of runs that generals do not record: below
    meant = {id for id, one in load_rules().items() if one.over != "file" and one.source == "expkit"}
    assert {rule for _, _, rule in TAMPERED} | others == meant


SCHEMA = Schema(
    [
        Field("observation", "f4", (3,), "observation"),
        Field("next_observation", "f4", (3,), "step"),
        Field("action", "u1", belongs="action"),
        Field("value", "f4", belongs="action", nullable=True),
    ]
)


def write_pairs(path, wrong=(), **options):
    """Five episodes of 40 steps with their next observations; `wrong`: (episode, step) where that is another."""
    rng = np.random.default_rng(0)
    with Recorder(path, SCHEMA, mode="w", min_free=0, **options) as recorder:
        for episode in range(5):
            seen = rng.random((41, 3), np.float32)
            seen[7] = np.inf  # infinities can be meant
            for step in range(40):
                told = seen[step + 1] + ((episode, step) in wrong)
                recorder.add(
                    episode=episode, step=step, observation=seen[step], next_observation=told, action=step % 3,
                    reward=float(step % 2), terminated=step == 39, value=np.nan if (episode, step) in wrong else 0.5,
                )  # fmt: skip
                if step == 20:
                    recorder.flush()  # a block of its own
            recorder.end(episode=episode, player=0, observation=seen[40], outcome=1.0)
    return path


@pytest.mark.parametrize("step", [5, 20, 39])
def test_a_next_observation_that_is_not_the_following_one_is_found(tmp_path, step):
    assert findings(write_pairs(tmp_path / "run")) == []
    found = findings(write_pairs(tmp_path / "run", {(2, step)}))
    assert [(f.rule, f.episode, f.player, f.step, f.column) for f in found] in (
        [("value/nan", 2, 0, step, "value"), ("episode/next-observation", 2, 0, step, "next_observation")],
        [("episode/next-observation", 2, 0, step, "next_observation"), ("value/nan", 2, 0, step, "value")],
    )


def test_rows_that_the_ledger_explains_are_no_gap(tmp_path, played):
    copy = Copy(played / "raw")
    gap(copy)
    path = copy.write(tmp_path / "run")
    assert [f.rule for f in findings(path) if f.rule == "episode/contiguous"] == ["episode/contiguous"]
    with open_run(path) as run:
        info = run.info
    for number, end in copy.ends.items():
        copy.ends[number] = msgspec.structs.replace(end, rows={**end.rows, "0": end.rows["0"] + (number == 4)})
    create_run(tmp_path / "dropped", described_again(info))
    writer = RunWriter(tmp_path / "dropped", info.schema, 2)
    writer.append_episodes(list(copy.starts.values()), [])
    for player, rows in copy.rows.items():
        count = len(rows["episode"])
        writer.ledger.produced[player] += count + (player == 0)
        dropped = {"drop-oldest": 1} if player == 0 else {}
        if dropped:
            writer.ledger.drop(0, "drop-oldest", 1)
        writer.append(BlockEncoder(info.schema).encode(player, rows, count, dropped))
    writer.append_episodes([], list(copy.ends.values()))
    writer.close()
    assert findings(tmp_path / "dropped") == []


def test_findings_are_the_same_whatever_the_number_of_threads(tmp_path, played):
    copy = Copy(played / "raw")
    for tamper in (reward_off, gap, version_back, mask_bit, army_in_fog, frozen, twice):
        tamper(copy)
    path = copy.write(tmp_path / "run")
    with open_run(path) as run:
        one = list(validate_run(run, threads=1))
        assert len({finding.rule for finding in one}) > 6
        assert list(validate_run(run, threads=3)) == one


def test_another_reward_than_the_games_is_not_compared_with_it(tmp_path, played):
    copy = Copy(played / "raw")
    reward_off(copy)
    copy.info.metadata["rewards"] = {"reward": "weighted"}
    assert findings(copy.write(tmp_path / "run"), "reward") == []


def test_rows_hold_what_rules_need():
    """Given, acting and unchanged rows, against loops over them."""
    schema = Schema([Field("observation", "f4", (2,), "observation"), Field("value", "f4", nullable=True)])
    rng = np.random.default_rng(3)
    count = 60
    stored = {column.name: np.zeros(column.shape(count), column.dtype) for column in schema.columns}
    stored["episode"][:] = np.sort(rng.integers(0, 9, count))
    stored["observation"][:] = rng.integers(0, 2, (count, 2))
    stored["is_last"][:] = rng.random(count) < 0.2
    stored["valid:value"][:] = rng.random(count) < 0.5
    rows = Rows(schema, 0, stored)
    for at in range(count):
        assert rows.acts[at] == (not stored["is_last"][at])
        assert rows.given("observation")[at]
        assert rows.given("value")[at] == (rows.acts[at] and bool(stored["valid:value"][at]))
        if at:
            same = stored["episode"][at] == stored["episode"][at - 1]
            assert rows.follows[at - 1] == same
            same = same and stored["observation"][at].tolist() == stored["observation"][at - 1].tolist()
            assert rows.unchanged[at - 1] == same
