"""`expkit help`: every page in a pipe, on a terminal and through a pager, and the help of every verb."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from doc_parts import page
from terminals import shown_on

from expkit.commands.pages import page_names
from expkit.commands.verbs import VERBS

MEMBERS = [[verb.name] for verb in VERBS] + [["config", name] for name in ("show", "init", "check", "schema")]


def expkit(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "expkit.commands", *arguments], capture_output=True, text=True, timeout=60,
        env={**os.environ, "FORCE_COLOR": "1", "PAGER": "false"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def on_a_terminal(arguments: list[str], cwd: Path, columns: int = 80, **environment: str) -> str:
    """What a process shows on a terminal of its own, without colours."""
    leader, follower = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "LINES": "24", **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "expkit.commands", *arguments], cwd=cwd, env=environ,
        stdin=follower, stdout=follower, stderr=follower,
    )  # fmt: skip
    os.close(follower)
    shown = shown_on(leader)
    assert process.wait(60) == 0, shown
    return re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r", "")


@pytest.mark.parametrize("name", page_names())
def test_in_a_pipe_a_page_is_its_markdown_without_comments(name: str) -> None:
    shown = expkit("help", name)
    assert shown.startswith("# ")
    assert "\n<!--" not in shown
    assert "\x1b" not in shown
    kept = [line for line in page(name).read_text("utf-8").splitlines() if not line.startswith("<!--")]
    assert shown.splitlines() == kept


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("name", page_names())
def test_on_a_terminal_a_page_fits_its_width(tmp_path: Path, name: str, columns: int) -> None:
    shown = on_a_terminal(["help", name], tmp_path, columns, PAGER="cat")
    title = page(name).read_text("utf-8").partition("\n")[0].removeprefix("# ")
    assert shown.startswith(f"{title}\n\n")
    assert not re.search(r"^(<!--|```|\|)", shown, re.MULTILINE)
    for line in shown.splitlines():
        assert len(line) <= columns or line.startswith("    "), line  # code is left whole


def test_the_list_names_every_page_and_its_sentence() -> None:
    shown = expkit("help")
    for name in page_names():
        about = page(name).read_text("utf-8").split("\n\n")[1]
        assert re.search(rf"^{name} +{re.escape(about)}$", shown, re.MULTILINE)
    assert "expkit VERB --help" in shown.splitlines()[-1]


def test_json_is_the_list_the_page_or_the_help() -> None:
    listed = json.loads(expkit("help", "--json"))
    assert [one["page"] for one in listed["pages"]] == page_names()
    assert all(one["title"] and one["about"] for one in listed["pages"])
    assert listed["verbs"] == [verb.name for verb in VERBS]
    told = json.loads(expkit("help", "words", "--json"))
    assert (told["schema"], told["page"], told["title"]) == ("expkit.help/1", "words", "Words")
    assert told["text"] == expkit("help", "words")
    verb = json.loads(expkit("help", "config", "show", "--json"))
    assert (verb["verb"], verb["title"]) == ("config show", "expkit config show")
    assert verb["text"].startswith("Usage: expkit config show")


@pytest.mark.parametrize("words", MEMBERS, ids=" ".join)
def test_help_of_a_verb_is_what_the_verb_says(words: list[str]) -> None:
    assert expkit("help", *words) == expkit(*words, "--help")


def test_the_pager_has_the_page_and_is_told_to_pass_colours_on(tmp_path: Path) -> None:
    shown = on_a_terminal(["help", "words"], tmp_path, PAGER="cat > paged; echo $LESS > options", LESS="-i")
    assert shown == ""
    assert "\x1b[" in (tmp_path / "paged").read_text()
    assert "One word for one thing" in (tmp_path / "paged").read_text()
    assert (tmp_path / "options").read_text() == "-i -R\n"


@pytest.mark.parametrize("pager", ["true", "head -c 1 > /dev/null"])
def test_a_pager_that_is_left_early_is_no_error(tmp_path: Path, pager: str) -> None:
    assert on_a_terminal(["help", "performance"], tmp_path, PAGER=pager) == ""


def test_without_a_pager_the_page_is_printed(tmp_path: Path) -> None:
    shown = on_a_terminal(["help", "words"], tmp_path, PAGER="no-such-pager")
    assert "One word for one thing" in shown
    for words, environ in ((["-q"], {"PAGER": "touch paged"}), ([], {"PAGER": ""}), ([], {"TERM": "dumb"})):
        shown = on_a_terminal(["help", "words", *words], tmp_path, **{"PAGER": "touch paged", **environ})
        assert "One word for one thing" in shown
    assert not (tmp_path / "paged").exists()


def test_an_interrupt_is_the_pagers(tmp_path: Path) -> None:
    """^C reaches both; a pager that stays, as less does, is waited for."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "expkit.commands", "help", "words"], cwd=tmp_path, stdin=follower, stdout=follower,
        stderr=follower, env={**os.environ, "TERM": "xterm", "PAGER": "touch begun; sleep 1; cat > paged"},
    )  # fmt: skip
    os.close(follower)
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert shown_on(leader) == ""
    assert process.wait(60) == 0
    assert "One word for one thing" in (tmp_path / "paged").read_text()
