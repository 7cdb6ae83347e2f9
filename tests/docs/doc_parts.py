"""Parts of README that a test runs: the code between the lines of one, and lines of a shell."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def part_of_readme(kind: str, name: str) -> str:
    """The code of the block below the line <!-- kind: name -->."""
    text = README.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {kind}: {re.escape(name)} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def run_line(line: str, cwd: Path) -> None:
    """Run `expkit …`, or `PYTHONPATH=. expkit …`, in that folder."""
    environ = {**os.environ, "EXPKIT_MIN_FREE": "0"}
    words = shlex.split(line)
    if words[0] == "PYTHONPATH=.":
        environ["PYTHONPATH"] = "."
        words = words[1:]
    assert words[0] == "expkit"
    done = subprocess.run(
        [sys.executable, "-m", "expkit.commands", *words[1:]], cwd=cwd, env=environ, capture_output=True, text=True,
        timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
