"""Code that a run names is imported when the user names it too, or says --trust-code, and by no verb otherwise."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from written_runs import write_vectors

from expkit.commands import main
from expkit.errors import NotTrusted
from expkit.runs.layout import read_run_info, write_run_info
from expkit.system import trust
from expkit.system.plugins import load_callable

MODULE = """
import os, pathlib
pathlib.Path(os.environ["MARK"]).touch()

def thing(*given, **more):
    raise SystemExit(77)
"""
VERBS = (
    ("list", "run"),
    ("inspect", "run"),
    ("inspect", "run", "--episode", "0", "--player", "0", "--step", "0"),
    ("validate", "run"),
    ("replay", "run", "--step", "1"),
    ("replay", "run", "--verify"),
    ("query", "run", "step >= 0"),
    ("export", "run", "-o", "out.ndjson"),
    ("export", "run", "-o", "out.npz", "--representation", "raw"),
    ("recover", "run", "--dry-run"),
    ("recover", "run"),
    ("compact", "run"),
    ("prune", "run", "--keep-episodes", "4", "--yes"),
    ("merge", "run", "-o", "merged"),
    ("rewrite", "run", "-o", "rewritten", "--reward", "game"),
    ("rewrite", "run", "-o", "rewritten", "--reward", "sparse", "--dry-run"),
    ("diff", "run", "run"),
    ("config", "check", "run/run.yaml"),
    ("config", "show", "--config", "run/run.yaml"),
    ("validate", "run", "--config", "run/run.yaml"),
    ("record", "-o", "run", "--append", "--rows", "10", "--min-free", "0"),
    ("record", "-o", "again", "--config", "run/run.yaml", "--rows", "10", "--min-free", "0"),
    ("rotate", "run"),
)
NAMES = {
    "source": "marking_module:thing",
    "policy": "marking_module:thing",
    "reward": "marking_module:thing",
    "column": "mine=marking_module:thing",
    "representation": "marking_module:thing",
    "pipeline": "marking_module:thing",
    "rules": "marking_module:thing",
    "gymnasium": "gymnasium:marking_module:Thing-v0",
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of which everything that can name code names a module that marks its import."""
    (tmp_path / "marking_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    monkeypatch.chdir(tmp_path)
    yield write_vectors(tmp_path / "run")
    sys.modules.pop("marking_module", None)


def name_code(run, where):
    info = read_run_info(run)
    named = NAMES[where]
    game = {"source": "generals"}
    config = {"game": game, "recording": {}, "rewards": {}, "pipeline": {}, "validation": {}}
    if where in ("source", "gymnasium"):
        game["source"] = info.source = named
        info.metadata["game"] = {"source": named}
    elif where == "policy":
        game["policy"] = named
    elif where == "reward":
        config["rewards"]["reward"] = named
        info.metadata["rewards"] = {"reward": named}
    elif where == "column":
        config["rewards"]["columns"] = named
        info.metadata["rewards"] = {"reward/mine": named.partition("=")[2]}
    elif where == "representation":
        config["recording"]["representation"] = named
    elif where == "pipeline":
        config["pipeline"]["processors"] = [named]
    elif where == "rules":
        config["validation"]["rules"] = named
    info.source = game["source"]
    info.config = config
    write_run_info(run, info)


@pytest.mark.parametrize("where", NAMES)
def test_no_verb_imports_what_a_run_names(run, tmp_path, capfd, where):
    name_code(run, where)
    for verb in VERBS:
        code = main(list(verb))
        said = capfd.readouterr()
        assert code in (0, 1, 2, 4, 5), (verb, said)
        assert "unexpected" not in said.err, (verb, said)
        assert not (tmp_path / "mark").exists(), verb
        assert "marking_module" not in sys.modules, verb
        (tmp_path / "out.ndjson").unlink(missing_ok=True)


def test_record_says_which_code_and_how_to_trust_it(run, tmp_path, capfd):
    name_code(run, "source")
    for verb in VERBS[-3:-1]:
        assert main(list(verb)) == 2
        said = capfd.readouterr().err
        assert "'marking_module:thing' is code that the run names" in said
        assert "--trust-code" in said
        assert not (tmp_path / "mark").exists()


def test_trust_code_imports_it(run, tmp_path):
    name_code(run, "source")
    process = subprocess.run(
        [sys.executable, "-m", "expkit.commands", *VERBS[-3], "--trust-code"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    assert process.returncode != 0
    assert (tmp_path / "mark").exists()


def test_config_check_says_what_it_did_not_look_at(run, tmp_path, capfd):
    for trusting in ([], ["--trust-code"]):
        (tmp_path / "mine.yaml").write_text(yaml.dump({"rewards": {"reward": NAMES["reward"]}}))
        assert main(["config", "check", "mine.yaml", *trusting]) == 0
        assert "not looked at: rewards: marking_module:thing" in capfd.readouterr().out
        assert not (tmp_path / "mark").exists()
    assert main(["config", "check", "mine.yaml", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["not_imported"] == ["rewards: marking_module:thing"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--reward", "a.b:c"], True),
        (["--reward", "sparse + 2 * a.b:c(scale=2)"], True),
        (["--reward=a.b:c"], True),
        (["--reward", "a.b:cd"], False),
        (["--reward", "x.a.b:c"], False),
        (["a.b:c"], False),  # the folder of a run can be called so
        ([], False),
    ],
)
def test_what_counts_as_named_by_the_user(tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    if words == ["a.b:c"]:
        (tmp_path / "a.b:c").mkdir()
    trust.ask(words, {})
    try:
        if named:
            trust.check("a.b:c", "reward")
        else:
            with pytest.raises(NotTrusted, match=re.escape("reward 'a.b:c' is code that the run names")):
                load_callable("a.b:c", "reward")
        trust.ask([], {"EXPKIT_POLICY": "a.b:c", "OTHER": "d:e"})
        trust.check("a.b:c", "policy")
        with pytest.raises(NotTrusted):
            trust.check("d:e", "policy")
    finally:
        trust.ask_no_more()
    trust.check("d:e", "policy")
