"""Parts of README and of the pages: what a test runs, and what one generates. EXPKIT_UPDATE_DOCS=1 writes the generated
parts anew."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from places import ROOT

README = ROOT / "README.md"
PAGES = ROOT / "expkit/docs"


def page(name: str) -> Path:
    """The page about a subject."""
    return PAGES / f"{name}.md"


def papers() -> list[Path]:
    """README and all pages."""
    return [README, *sorted(PAGES.glob("*.md"))]


def between(path: Path, name: str) -> str:
    """What stands between the lines <!-- name --> and <!-- end name -->."""
    match = re.search(rf"<!-- {name} -->\n(.*?)<!-- end {name} -->", path.read_text("utf-8"), re.DOTALL)
    assert match is not None, f"{path.name} has no part {name}"
    return match[1]


def part(path: Path, kind: str, name: str) -> str:
    """The code of the block below the line <!-- kind: name -->."""
    text = path.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {kind}: {re.escape(name)} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found is not None, f"{path.name} has no part {kind}: {name}"
    return found[1]


def check_generated(path: Path, name: str, made: str) -> None:
    """That a part says what was made for it now; where the docs are being written anew, it is put there first."""
    if os.environ.get("EXPKIT_UPDATE_DOCS"):
        before, _, after = path.read_text("utf-8").partition(f"<!-- {name} -->\n")
        _, end, after = after.partition(f"<!-- end {name} -->")
        path.write_text(f"{before}<!-- {name} -->\n{made}{end}{after}", encoding="utf-8")
    assert between(path, name) == made, "run EXPKIT_UPDATE_DOCS=1 python -m pytest tests/docs"


def code_blocks(path: Path, language: str) -> Iterator[str]:
    """The code of every fenced block of that language."""
    yield from re.findall(rf"```{language}\n(.*?)```", path.read_text("utf-8"), re.DOTALL)


def run_python(code: str, cwd: Path, *options: str) -> None:
    """Run an example that prints what its comments beside `print` say."""
    done = subprocess.run(
        [sys.executable, *options, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=240,
        env={**os.environ, "EXPKIT_MIN_FREE": "0"},
    )  # fmt: skip
    assert done.returncode == 0, f"{code}\n{done.stderr}"
    assert done.stdout.splitlines() == re.findall(r"print\(.*\)\s+# (.*)", code)


def run_line(line: str, cwd: Path) -> str:
    """Run `expkit …`, or `PYTHONPATH=. expkit …`, in that folder; what it prints."""
    environ = {**os.environ, "EXPKIT_MIN_FREE": "0"}
    words = shlex.split(line)
    if words[0] == "PYTHONPATH=.":
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, [".", environ.get("PYTHONPATH")]))
        words = words[1:]
    assert words[0] == "expkit"
    done = subprocess.run(
        [sys.executable, "-m", "expkit.commands", *words[1:]], cwd=cwd, env=environ, capture_output=True, text=True,
        timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    return done.stdout
