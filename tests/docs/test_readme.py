"""README says what the program does: its examples run, its captured session and its list of verbs are made from the
program. EXPKIT_UPDATE_README=1 rewrites the generated parts."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
UPDATE = bool(os.environ.get("EXPKIT_UPDATE_README"))


def text():
    return README.read_text(encoding="utf-8")


def between(name):
    match = re.search(rf"<!-- {name} -->\n(.*?)<!-- end {name} -->", text(), re.S)
    assert match is not None, name
    return match[1]


def replace(name, content):
    whole = re.sub(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", lambda m: m[1] + content + m[2], text(), flags=re.S)
    README.write_text(whole, encoding="utf-8")


def output_of(command, cwd=ROOT):
    words = shlex.split(command)
    assert words[0] == "expkit"
    done = subprocess.run(
        [sys.executable, "-m", "expkit.commands", *words[1:]], cwd=cwd, capture_output=True, text=True, timeout=240
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize(("name", "least"), [("session", 4), ("questions", 3)])
def test_what_is_shown_is_what_the_commands_print(name, least):
    commands = re.findall(r"^\$ (.*)$", between(name), re.M)
    assert len(commands) >= least
    parts = [f"$ {command}\n{output_of(command)}" for command in commands]
    made = "```console\n" + "\n".join(parts) + "```\n"
    if UPDATE:
        replace(name, made)
    assert between(name) == made, "run EXPKIT_UPDATE_README=1 python -m pytest tests/test_readme.py"


def test_the_verbs_are_those_of_the_program():
    from expkit.commands.verbs import VERBS

    made = "| verb | what it does |\n| --- | --- |\n"
    made += "".join(f"| `expkit {verb.name}` | {verb.help} |\n" for verb in VERBS)
    if UPDATE:
        replace("verbs", made)
    assert between("verbs") == made, "run EXPKIT_UPDATE_README=1 python -m pytest tests/test_readme.py"


def test_the_rules_are_those_of_the_program():
    from expkit.commands.validate_rules import rules_markdown
    from expkit.rules.registry import load_rules

    made = rules_markdown([rule for rule in load_rules().values() if rule.source == "expkit"])
    if UPDATE:
        replace("rules", made)
    assert between("rules") == made, "run EXPKIT_UPDATE_README=1 python -m pytest tests/test_readme.py"


def test_the_rule_of_ones_own_works(tmp_path):
    (code,) = re.findall(r"```py\n(.*?)```", between("a rule"), re.S)
    (tmp_path / "my_module.py").write_text(textwrap.dedent(code))
    (words,) = re.findall(r"`(--rules my_module:\S+)`", text())
    command = [sys.executable, "-m", "expkit.commands", "validate", str(ROOT / "sample_data/run"), *words.split(), "-v"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert re.search(r"mine/small-reward +2,096 rows +0 +0 +0", done.stdout)


def test_the_python_examples_run_and_print_what_they_say(tmp_path):
    """In the order of the page, in one folder: a later one may open what an earlier one recorded."""
    for code in re.findall(r"```python\n(.*?)```", text(), re.S):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"{code}\n{done.stderr}"
        assert done.stdout.splitlines() == re.findall(r"print\(.*?\)\s+# (.*)", code)


def test_the_wrapped_environments_run_and_print_what_they_say(tmp_path):
    (code,) = re.findall(r"```py\n(.*?)```", between("environments"), re.S)
    warnings = ["-W", "error", "-W", "ignore:The old environment creation API"]  # PettingZoo's, of its own modules
    done = subprocess.run(
        [sys.executable, *warnings, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=240,
        env={**os.environ, "EXPKIT_MIN_FREE": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (said,) = re.findall(r"print\(.*?\)\s+# (.*)", code)
    assert done.stdout.strip() == said


@pytest.mark.parametrize("name", ["record", "test"])
def test_the_two_commands_are_one_line_each_in_an_environment_of_their_own(name):
    match = re.search(rf"<!-- command: {name} -->\n```console\n(.*)\n```", text())
    assert match is not None
    assert match[1].startswith("python3 -m venv .venv")


@pytest.mark.parametrize(("name", "least"), [("environments", 3), ("keeping", 8), ("rewards", 4)])
def test_the_commands_work_one_after_another(tmp_path, name, least):
    commands = [line for line in between(name).splitlines() if line.startswith("expkit ")]
    assert len(commands) >= least
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "expkit.commands", *shlex.split(command)[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "EXPKIT_MIN_FREE": "0"},
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def test_what_is_handed_over_is_opened_by_others_and_comes_back(tmp_path):
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    blocks = re.findall(r"```(console|py)\n(.*?)```", between("exchange"), re.S)
    assert [kind for kind, _ in blocks] == ["console", "py", "console"]
    for kind, code in blocks:
        for line in code.splitlines() if kind == "console" else ():
            command = [sys.executable, "-m", "expkit.commands", *shlex.split(line)[1:]]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
            assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        if kind == "py":
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=240
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout.splitlines() == re.findall(r"print\(.*\)\s+# (.*)", code)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", text()):
        assert (ROOT / target).exists(), target
