"""The pages of the documentation: their examples run, their captured output and tables are made from the program, their
links lead somewhere. EXPKIT_UPDATE_DOCS=1 writes the generated parts anew."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from doc_parts import (
    PAGES,
    README,
    ROOT,
    between,
    check_generated,
    code_blocks,
    page,
    papers,
    run_line,
    run_python,
)  # fmt: skip

from expkit import Field
from expkit.commands.pages import page_names, read_page
from expkit.commands.reference import markdown
from expkit.commands.validate_rules import rules_markdown
from expkit.commands.verbs import VERBS
from expkit.pipeline.kinds import built_in
from expkit.rules.registry import load_rules
from expkit.settings.config import resolve
from expkit.settings.document import default_yaml, settings_markdown

SUBJECTS = (
    "environments", "exchange", "keeping", "performance", "pipelines", "plug-ins", "promises", "questions", "recording",
    "rewards", "rules", "settings", "training", "verbs", "words",
)  # fmt: skip
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def prose(path: Path) -> str:
    """The text without its code, where brackets are no links and # no headings."""
    return re.sub(r"^```.*?^```\n|`[^`\n]+`", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_every_subject_has_its_page() -> None:
    assert set(SUBJECTS) <= set(page_names())
    assert not set(page_names()) & {verb.name for verb in VERBS}, "expkit help NAME could mean either"


@pytest.mark.parametrize("name", page_names())
def test_a_page_is_a_title_and_a_sentence_and_then_the_rest(name: str) -> None:
    title, about, rest = page(name).read_text("utf-8").split("\n\n", 2)
    assert re.fullmatch(r"# \S.*", title)
    assert re.fullmatch(r"[A-Z][^.]*\.", about)
    assert len(about) <= 100
    assert rest.endswith("\n")
    assert not re.search(r"^# ", prose(page(name)).partition("\n")[2], re.MULTILINE)
    assert read_page(name).about == about


@pytest.mark.parametrize("path", papers(), ids=lambda path: path.name)
def test_lines_of_prose_fit_an_editor(path: Path) -> None:
    """Tables and what programs print are as wide as they are."""
    for line in prose(path).splitlines():
        assert len(line) <= 122 or line.startswith(("|", "Measured on ", "<!--")), line


@pytest.mark.parametrize("path", papers(), ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(prose(path)):
        where, _, anchor = target.partition("#")
        assert not where.startswith(("/", "http")), target
        goal = (path.parent / where).resolve() if where else path
        assert goal.is_relative_to(ROOT)
        assert goal.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(goal), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, (
                target
            )


def test_every_page_is_linked_from_readme() -> None:
    linked = {target.partition("#")[0] for target in LINK.findall(prose(README))}
    assert {f"expkit/docs/{path.name}" for path in PAGES.iterdir()} <= linked


@pytest.mark.parametrize(
    ("path", "name", "least"),
    [(README, "session", 4), (page("questions"), "inspected", 1), (page("questions"), "questions", 3)],
    ids=["session", "inspected", "questions"],
)
def test_what_is_shown_is_what_the_commands_print(path: Path, name: str, least: int) -> None:
    commands = re.findall(r"^\$ (.*)$", between(path, name), re.M)
    assert len(commands) >= least
    check_generated(path, name, "```console\n" + "\n".join(f"$ {line}\n{printed(line)}" for line in commands) + "```\n")


def printed(line: str) -> str:
    """What a command prints, whatever its exit code is, and what it says is to be done next."""
    words = shlex.split(line)
    assert words[0] == "expkit"
    command = [sys.executable, "-m", "expkit.commands", *words[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + "".join(line for line in done.stderr.splitlines(True) if line.startswith("next: "))


def test_the_verbs_are_those_of_the_program() -> None:
    check_generated(page("verbs"), "verbs", markdown())


def test_the_rules_are_those_of_the_program() -> None:
    made = rules_markdown([rule for rule in load_rules().values() if rule.source == "expkit"])
    check_generated(page("rules"), "rules", made)


def test_the_settings_are_those_of_the_program() -> None:
    check_generated(page("settings"), "settings", settings_markdown())


def test_the_sample_of_a_settings_file_is_what_the_program_writes() -> None:
    assert (ROOT / "sample_data/config.yaml").read_text("utf-8") == default_yaml()


def test_the_processors_are_those_of_the_program_and_take_what_is_said(tmp_path: Path) -> None:
    table = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \| .+ \|$", page("pipelines").read_text("utf-8"), re.M)
    assert table == [(kind, ", ".join(options.__struct_fields__)) for kind, options in built_in().items()]
    (settings,) = code_blocks(page("pipelines"), "yaml")
    (tmp_path / "settings.yaml").write_text(settings)
    assert len(resolve({}, tmp_path / "settings.yaml", {}).config.pipeline.processors) == 3


def test_the_processor_of_ones_own_works() -> None:
    (code,) = re.findall(r"```py\n(.*?)```", between(page("plug-ins"), "a processor"), re.S)
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["bonus"].makes == (Field("bonus", "f4"),)


def test_the_rule_of_ones_own_works(tmp_path: Path) -> None:
    (code,) = re.findall(r"```py\n(.*?)```", between(page("plug-ins"), "a rule"), re.S)
    (tmp_path / "my_module.py").write_text(code)
    (words,) = re.findall(r"`(--rules my_module:\S+)`", page("plug-ins").read_text("utf-8"))
    shown = run_line(f"PYTHONPATH=. expkit validate {ROOT}/sample_data/run {words} -v", tmp_path)
    assert re.search(r"mine/small-reward +2,096 rows +0 +0 +0", shown)


def test_the_python_examples_of_recording_run_and_print_what_they_say(tmp_path: Path) -> None:
    examples = list(code_blocks(page("recording"), "python"))
    assert len(examples) == 2
    for code in examples:
        run_python(code, tmp_path, "-W", "error")


def test_the_wrapped_environments_run_and_print_what_they_say(tmp_path: Path) -> None:
    (code,) = re.findall(r"```py\n(.*?)```", between(page("environments"), "environments"), re.S)
    # PettingZoo's, of its own modules
    run_python(code, tmp_path, "-W", "error", "-W", "ignore:The old environment creation API")


@pytest.mark.parametrize(("name", "least"), [("environments", 3), ("keeping", 8), ("rewards", 4)])
def test_the_commands_work_one_after_another(tmp_path: Path, name: str, least: int) -> None:
    commands = [line for line in between(page(name), name).splitlines() if line.startswith("expkit ")]
    assert len(commands) >= least
    for command in commands:
        run_line(command, tmp_path)


def test_what_is_handed_over_is_opened_by_others_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    blocks = re.findall(r"```(console|py)\n(.*?)```", between(page("exchange"), "exchange"), re.S)
    assert [kind for kind, _ in blocks] == ["console", "py", "console"]
    for kind, code in blocks:
        if kind == "py":
            run_python(code, tmp_path)
        else:
            for line in code.splitlines():
                run_line(line, tmp_path)
