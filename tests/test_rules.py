"""Rules about what recorded rows mean: each is found in a run that was tampered with, and in none that was not."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import numpy as np
import pytest

from expkit import Field, Recorder, Schema, open_run
from expkit.errors import ConfigError, UsageError
from expkit.formats.shard.encode import BlockEncoder
from expkit.rules import Rows, Violation, rule
from expkit.rules.registry import choose_rules, load_rules, match_rules
from expkit.runs.layout import RunInfo
from expkit.runs.validate import Totals, validate_run
from expkit.runs.write import RunWriter, create_run

ROOT = Path(__file__).resolve().parent.parent


def record(path, *options):
    """A run of real self-play, by the program itself."""
    words = [sys.executable, "-m", "expkit.commands", "record", "-o", str(path), *map(str, options), "-q"]
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, "EXPKIT_MIN_FREE": "0"}, timeout=240)
    return path


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Two players, 30 games of 8x8, in several blocks; and 12 games of three players with the true boards."""
    folder = tmp_path_factory.mktemp("played")
    record(folder / "raw", "--size", "8x8", "--max-steps", 150, "--episodes", 30, "--num-envs", 8, "--seed", 5)
    record(
        folder / "state", "--size", "8x8", "--players", 3, "--max-steps", 150, "--episodes", 12, "--seed", 5, "--state",
    )  # fmt: skip
    return folder


def findings(path, rules="all", settings=None, totals=None):
    with open_run(path) as run:
        return list(validate_run(run, rules=choose_rules(rules, settings or {}), totals=totals))


class Copy:
    """All that a run holds, to be changed and written anew. `rows` by player: stored columns, sorted."""

    def __init__(self, path):
        with open_run(path) as run:
            self.info = run.info
            self.episodes = run.episodes()
            parts = {}
            for block in run.blocks():
                parts.setdefault(block.info.player, []).append(block.read())
        self.rows = {}
        for player, listed in sorted(parts.items()):
            joined = {name: np.concatenate([part[name] for part in listed]) for name in listed[0]}
            order = np.lexsort((joined["step"], joined["episode"]))
            self.rows[player] = {name: values[order] for name, values in joined.items()}
        self.starts = {one.number: one.start for one in self.episodes}
        self.ends = {one.number: one.end for one in self.episodes}

    def at(self, episode, player, step):
        rows = self.rows[player]
        (place,) = np.flatnonzero((rows["episode"] == episode) & (rows["step"] == step))
        return int(place)

    def drop(self, player, keep):
        """Only rows `keep` of a player; its end records count them, so that nothing but the rows tells."""
        self.rows[player] = {name: values[keep] for name, values in self.rows[player].items()}
        numbers, counts = np.unique(self.rows[player]["episode"], return_counts=True)
        have = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        for number, end in self.ends.items():
            rows = {**end.rows, str(player): have.get(number, 0)}
            self.ends[number] = msgspec.structs.replace(end, rows=rows)

    def write(self, path, block_rows=97):
        """In blocks that cut episodes anywhere."""
        schema = self.info.schema
        create_run(path, described_again(self.info))
        writer = RunWriter(path, schema, len(self.info.players))
        encoder = BlockEncoder(schema)
        writer.append_episodes([start for start in self.starts.values() if start is not None], [])
        for player, rows in self.rows.items():
            count = len(rows["episode"])
            writer.ledger.produced[player] += count
            for at in range(0, count, block_rows):
                part = {name: np.ascontiguousarray(values[at : at + block_rows]) for name, values in rows.items()}
                writer.append(encoder.encode(player, part, len(part["episode"])))
        writer.append_episodes([], [end for end in self.ends.values() if end is not None])
        writer.close()
        return path


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


def bits(values, place, bit):
    values[place, bit >> 3] ^= 1 << (bit & 7)


def reward_off(copy):
    copy.rows[1]["reward"][copy.at(3, 1, 20)] = 0.5
    return 3, 1, 20


def owner_gone(copy):
    """The loser's tiles vanish from the true board, long before it loses."""
    rows = copy.rows[0]
    board = rows["state/owner"][copy.at(2, 0, 11)]
    board[board == 0] = -1
    return 2, 0, 10


def gap(copy):
    at = copy.at(4, 0, 30)
    copy.drop(0, np.arange(len(copy.rows[0]["step"])) != at)
    return 4, 0, 31


def gap_at_a_seam(copy):
    """The row that begins a block of 97."""
    rows = copy.rows[0]
    episode, step = int(rows["episode"][97]), int(rows["step"][97])
    assert rows["episode"][96] == episode == rows["episode"][98]
    copy.drop(0, np.arange(len(rows["step"])) != 97)
    return episode, 0, step + 1


def acts_after_the_end(copy):
    copy.rows[0]["truncated"][copy.at(5, 0, 9)] = True
    return 5, 0, 10


def version_back(copy):
    mine = copy.rows[1]["episode"] == 6
    copy.rows[1]["policy_version"][mine] = 9
    copy.rows[1]["policy_version"][copy.at(6, 1, 12)] = 8
    return 6, 1, 12


def started_again(copy):
    """All games that began in the second half of the time have version 2, those before 5."""
    times = {number: start.time_ns for number, start in copy.starts.items()}
    middle = sorted(times.values())[len(times) // 2]
    for rows in copy.rows.values():
        for number, time in times.items():
            rows["policy_version"][rows["episode"] == number] = 5 if time < middle else 2
    mine = copy.rows[0]
    firsts = [(int(mine["time_ns"][copy.at(number, 0, 0)]), number) for number, time in times.items() if time >= middle]
    return min(firsts)[1], 0, None


def mask_bit(copy):
    rows = copy.rows[0]
    at = copy.at(7, 0, 15)
    # A move that the player did not make, so that its action stays legal.
    legal = np.flatnonzero(np.unpackbits(rows["action_mask"][at], bitorder="little"))
    bit = next(bit for bit in legal.tolist() if bit != rows["action"][at] % 256)
    bits(rows["action_mask"], at, bit)
    return 7, 0, 15


def mask_bit_too_many(copy):
    rows = copy.rows[1]
    at = copy.at(7, 1, 16)
    bits(rows["action_mask"], at, next(b for b in range(256) if not rows["action_mask"][at, b >> 3] >> (b & 7) & 1))
    return 7, 1, 16


def army_in_fog(copy):
    at = copy.at(8, 1, 10)
    rows = copy.rows[1]
    rows["observation/army"][at, int(np.flatnonzero(rows["observation/owner"][at] == -2)[0])] = 3
    return 8, 1, 10


def too_far_sighted(copy):
    at = copy.at(8, 0, 10)
    tile = int(np.flatnonzero(copy.rows[0]["observation/owner"][at] == -2)[0])
    bits(copy.rows[0]["observation/visible"], at, tile)
    return 8, 0, 10


def landless(copy):
    copy.rows[0]["observation/total_land"][copy.at(9, 0, 5), 0] = 0
    return 9, 0, 5


def swapped_outcome(copy):
    number = next(number for number, end in copy.ends.items() if end.ended == "terminated")
    end = copy.ends[number]
    copy.ends[number] = msgspec.structs.replace(end, outcome={p: -o for p, o in end.outcome.items()})
    winner = next(int(p) for p, o in end.outcome.items() if o == -1)
    return number, winner, end.length


def loser_goes_on(copy):
    number = next(number for number, end in copy.ends.items() if end.ended == "terminated")
    end = copy.ends[number]
    loser = next(int(p) for p, o in end.outcome.items() if o == -1)
    copy.rows[loser]["terminated"][copy.at(number, loser, end.length - 1)] = False
    return number, loser, end.length


def another_length(copy):
    copy.ends[10] = msgspec.structs.replace(copy.ends[10], length=copy.ends[10].length + 3)
    return 10, None, None


def frozen(copy):
    for name, values in copy.rows[0].items():
        if name.startswith(("observation/", "action_mask")):
            values[copy.at(11, 0, 3) : copy.at(11, 0, 3) + 97] = values[copy.at(11, 0, 3)]
    return 11, 0, None


def constant(copy):
    for rows in copy.rows.values():
        rows["observation/total_army"][:] = 7
    return None, None, None


def always_passes(copy):
    for rows in copy.rows.values():
        rows["action"][np.arange(len(rows["action"])) % 100 != 0] = 8 * 64
    return None, None, None


def twice(copy):
    """Episode 12 again, as episode 40."""
    for player, rows in copy.rows.items():
        mine = rows["episode"] == 12
        again = {name: values[mine].copy() for name, values in rows.items()}
        again["episode"][:] = 40
        again["time_ns"] += 1_000_000
        copy.rows[player] = {name: np.concatenate([rows[name], again[name]]) for name in rows}
    copy.starts[40] = msgspec.structs.replace(copy.starts[12], episode=40)
    copy.ends[40] = msgspec.structs.replace(copy.ends[12], episode=40)
    return 40, None, None


def one_short(copy):
    """Episode 13 is a single step, as its end record says."""
    for player in copy.rows:
        rows = copy.rows[player]
        last = int(np.flatnonzero((rows["episode"] == 13) & (rows["is_last"] != 0))[0])
        rows["step"][last] = 1
        copy.drop(player, (rows["episode"] != 13) | (rows["step"] == 0) | (rows["is_last"] != 0))
        copy.rows[player]["terminated"][copy.at(13, player, 0)] = True
    copy.ends[13] = msgspec.structs.replace(copy.ends[13], length=1)
    return 13, None, None


def not_a_number(copy):
    copy.rows[0]["reward"][copy.at(1, 0, 4)] = np.nan
    return 1, 0, 4


def illegal(copy):
    rows, at = copy.rows[1], copy.at(1, 1, 4)
    rows["action"][at] = next(b for b in range(256) if not rows["action_mask"][at, b >> 3] >> (b & 7) & 1)
    return 1, 1, 4


def out_of_bounds(copy):
    copy.rows[1]["observation/total_land"][copy.at(1, 1, 6), 0] = 999
    return 1, 1, 6


TAMPERED = [
    ("raw", reward_off, "reward/replayed"),
    ("state", reward_off, "reward/state"),
    ("state", owner_gone, "reward/state"),
    ("raw", gap, "episode/contiguous"),
    ("raw", gap_at_a_seam, "episode/contiguous"),
    ("raw", acts_after_the_end, "episode/silent"),
    ("raw", version_back, "policy/version"),
    ("raw", started_again, "policy/order"),
    ("raw", mask_bit, "board/mask"),
    ("raw", mask_bit_too_many, "board/mask"),
    ("raw", army_in_fog, "board/fog"),
    ("raw", too_far_sighted, "board/fog"),
    ("raw", landless, "board/dead"),
    ("raw", swapped_outcome, "episode/outcome"),
    ("raw", loser_goes_on, "episode/outcome"),
    ("raw", another_length, "episode/outcome"),
    ("raw", frozen, "value/frozen"),
    ("raw", constant, "value/constant"),
    ("raw", always_passes, "value/balance"),
    ("raw", twice, "episode/duplicate"),
    ("raw", one_short, "episode/length"),
    ("raw", not_a_number, "value/reward"),
    ("raw", illegal, "value/legal"),
    ("raw", out_of_bounds, "value/bounds"),
]


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


def described_again(info):
    """The description of a run, to begin another with."""
    return RunInfo(
        id="y", source=info.source, schema=info.schema, players=info.players, policies=info.policies,
        metadata=info.metadata, seed=info.seed,
    )  # fmt: skip


def test_findings_are_the_same_whatever_the_number_of_threads(tmp_path, played):
    copy = Copy(played / "raw")
    for tamper in (reward_off, gap, version_back, mask_bit, army_in_fog, frozen, twice):
        tamper(copy)
    path = copy.write(tmp_path / "run")
    with open_run(path) as run:
        one = list(validate_run(run, jobs=1))
        assert len({finding.rule for finding in one}) > 6
        assert list(validate_run(run, jobs=3)) == one


def test_another_reward_than_the_games_is_not_compared_with_it(tmp_path, played):
    copy = Copy(played / "raw")
    reward_off(copy)
    copy.info.metadata["rewards"] = {"reward": "weighted"}
    assert findings(copy.write(tmp_path / "run"), "reward") == []


def test_rules_are_chosen_by_id_beginning_and_all():
    rules = load_rules()
    assert match_rules(rules, "all") == list(rules)
    assert match_rules(rules, "value/legal, board") == ["value/legal", "board/fog", "board/mask", "board/dead"]
    assert match_rules(rules, "value/re") == ["value/reward"]
    with pytest.raises(UsageError, match="no rule is called 'valeu'; did you mean value"):
        match_rules(rules, "valeu")
    with pytest.raises(UsageError, match="no rule is named"):
        match_rules(rules, ", ")


def test_settings_switch_off_weigh_and_tune(tmp_path, played):
    copy = Copy(played / "raw")
    always_passes(copy)
    path = copy.write(tmp_path / "run")
    assert [f.severity for f in findings(path, "value/balance")] == ["warn"]
    assert findings(path, "value/balance", {"value/balance": "off"}) == []
    assert [f.severity for f in findings(path, "value/balance", {"value/balance": "error"})] == ["error"]
    tuned = {"value/balance": {"severity": "info", "share": 1}}
    assert findings(path, "value/balance", tuned) == []
    for settings, words in (
        ({"value/balanc": "off"}, "did you mean value/balance?"),
        ({"value/balance": "loud"}, "severity 'loud' is not one of off, error, warn, info"),
        ({"value/balance": {"shar": 1}}, "has no setting 'shar'; it has severity, share, rows"),
        ({"value/balance": {"share": "much"}}, "share is 'much', but has to be a number"),
    ):
        with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
            choose_rules("all", settings)


def test_damage_is_told_whatever_is_chosen(tmp_path, played):
    path = Copy(played / "raw").write(tmp_path / "run")
    shard = path / "shards/w0/000000.exp"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert {f.rule.partition("/")[0] for f in findings(path, "value")} == {"file"}


@rule("mine/small-army", over="rows", reads=("observation/total_army",), severity="warn", most=30)
def small_army(rows, most):
    """No army is above `most`."""
    army = rows["observation/total_army"][:, rows.player]
    yield Violation(f"an army is above {most:g}", rows=army > most, column="observation/total_army")


@rule("mine/rewarded", over="episode", reads=("reward",))
def rewarded(episode):
    """Somebody is rewarded."""
    if not any(rows["reward"].any() for rows in episode.players.values()):
        yield Violation("nobody is rewarded", player=0, step=0)


def test_a_rule_of_ones_own_over_rows_and_over_episodes(tmp_path, played):
    with open_run(played / "raw") as run:
        truth = {
            (int(number), player)
            for player in (0, 1)
            for batch in [run.rows(number, player) for number in range(30)]
            for number in batch["episode"][batch["observation/total_army"][:, player] > 30][:1]
        }
        drawn = {one.number for one in run.episodes() if one.ended == "truncated"}
    found = findings(played / "raw", f"{__name__}:small_army,{__name__}:rewarded")
    armies = [f for f in found if f.rule == "mine/small-army"]
    assert {(f.episode, f.player) for f in armies} <= truth
    assert len(armies) > 0
    assert {f.episode for f in found if f.rule == "mine/rewarded"} == drawn
    assert findings(played / "raw", f"{__name__}:small_army", {"mine/small-army": {"most": 1e6}}) == []
    with pytest.raises(UsageError, match="decorate it with expkit.rules.rule"):
        choose_rules(f"{__name__}:record")
    with pytest.raises(UsageError, match="explains nothing"):
        rule("mine/silent", over="rows")(lambda rows: [])
    with pytest.raises(UsageError, match="requires chess"):
        rule("mine/chess", over="rows", requires=["chess"])(record)


@rule("mine/broken", over="rows", reads=("step",))
def broken(rows):
    """Is never asked."""
    yield Violation("", rows=rows["no such column"])


def test_a_rule_that_fails_is_named(played):
    with pytest.raises(UsageError, match=f"rule mine/broken of {__name__} failed: .*mine/broken=off"):
        findings(played / "raw", f"{__name__}:broken")


def test_an_entry_point_adds_a_rule_to_all_runs(tmp_path, played):
    """An installed package, as far as Python can tell."""
    (tmp_path / "more_rules.py").write_text(
        textwrap.dedent(
            '''
            from expkit.rules import Violation, rule

            @rule("more/long", over="run", severity="info", steps=10)
            def long(run, steps):
                """No episode is longer than `steps`."""
                for episode in run.episodes:
                    if episode.length > steps:
                        yield Violation(f"{episode.length} steps", episode=episode.number)
                        return
            '''
        )
    )
    info = tmp_path / "more_rules-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: more-rules\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[expkit.rules]\nlong = more_rules:long\n")
    done = expkit("validate", played / "raw", "--json", PYTHONPATH=str(tmp_path))
    body = json.loads(done.stdout)
    assert [(f["rule"], f["severity"], f["episode"]) for f in body["findings"]] == [("more/long", "info", "0")]
    assert body["rules"]["more/long"]["info"] == 1
    told = expkit("validate", "--explain", "more/long", PYTHONPATH=str(tmp_path)).stdout
    assert "from: more_rules" in told
    (info / "entry_points.txt").write_text("[expkit.rules]\nlong = more_rules:gone\n")
    broken = expkit("validate", played / "raw", PYTHONPATH=str(tmp_path))
    assert broken.returncode == 2
    assert "rule long of the entry points expkit.rules cannot be loaded" in broken.stderr


def expkit(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "expkit.commands", *map(str, arguments)], capture_output=True, text=True, timeout=120,
        check=False, cwd=ROOT, env={**os.environ, **environment},
    )  # fmt: skip


def test_counters_settings_and_explanations_on_the_command_line(tmp_path, played):
    copy = Copy(played / "raw")
    reward_off(copy)
    mask_bit(copy)
    path = copy.write(tmp_path / "run")
    text = expkit("validate", path, "--rules", "board,reward")
    assert text.returncode == 4
    assert "by rule: board/mask 1 · reward/replayed 1" in text.stdout
    body = json.loads(expkit("validate", path, "--json").stdout)
    assert body["rules"]["board/mask"] == {"rows": body["rows"], "error": 1, "warn": 0, "info": 0}
    assert body["rules"]["reward/replayed"] == {"episodes": 30, "error": 1, "warn": 0, "info": 0}
    assert "reward/replayed" in expkit("validate", path, "-v").stdout
    settings = tmp_path / "expkit.yaml"
    settings.write_text("validation:\n  rule_settings:\n    board/mask: off\n    reward/replayed: {tolerance: 1}\n")
    assert expkit("validate", path, "--config", settings).returncode == 0
    assert expkit("config", "check", settings).returncode == 0
    settings.write_text("validation:\n  rule_settings: {board/mast: off}\n")
    wrong = expkit("config", "check", settings)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "did you mean board/mask?" in wrong.stderr
    off = "board/mask=off,reward/replayed=off"
    assert expkit("validate", path, EXPKIT_RULE_SETTINGS=off).returncode == 0
    assert expkit("validate", path, "--rule-settings", "board/mask=off").returncode == 4
    rules = json.loads(expkit("validate", "--explain", "all", "--json").stdout)["rules"]
    assert [one["id"] for one in rules] == list(load_rules())
    assert "frozen" in expkit("validate", "--explain", "value/frozen").stdout
    assert expkit("validate", "--explain", "vlaue/frozen").returncode == 2


def test_every_rule_that_the_program_names_is_explained():
    """The ids in the sources of what checks files, folder, ledger and episodes."""
    sources = [*ROOT.glob("formats/shard/*.py"), *ROOT.glob("expkit/runs/*.py"), *ROOT.glob("commands/validate*.py")]
    named = set()
    for source in sources:
        named |= set(re.findall(r'"((?:file|run|ledger|episode)/[a-z][a-z-]+)"', source.read_text(encoding="utf-8")))
    assert named <= load_rules().keys()
    structure = {id for id, one in load_rules().items() if one.over == "file"}
    assert structure <= named
    for one in load_rules().values():
        assert len(one.text.splitlines()) > 1, f"{one.id} says what it asks, and not why"


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
