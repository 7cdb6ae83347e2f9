"""Rules are chosen, tuned, explained, counted, and added to by others."""

import json
import os
import re
import textwrap

import pytest
import warm_processes
from places import ROOT
from tampered_runs import Copy, always_passes, findings, mask_bit, record_both, reward_off

from expkit import open_run
from expkit.errors import ConfigError, UsageError
from expkit.rules import Violation, rule
from expkit.rules.registry import choose_rules, load_rules, match_rules


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    return record_both(tmp_path_factory.mktemp("played"))


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
        choose_rules(f"{__name__}:findings")
    with pytest.raises(UsageError, match="explains nothing"):
        rule("mine/silent", over="rows")(lambda rows: [])
    with pytest.raises(UsageError, match="requires chess"):
        rule("mine/chess", over="rows", requires=["chess"])(findings)


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
    return warm_processes.expkit(*arguments, cwd=ROOT, environ={**os.environ, **environment})


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
