"""The order in which packages may import each other, as pyproject.toml has it, is kept, and what breaks it is named."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

LINT = Path(sys.executable).with_name("lint-imports")


def lint(folder: Path) -> subprocess.CompletedProcess:
    environ = {"PYTHONPATH": str(folder), "COLUMNS": "200"}
    return subprocess.run(
        [LINT, "--no-cache", "--no-logo"], cwd=folder, capture_output=True, text=True, timeout=240, env=environ
    )


def test_imports_point_down():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the packages and of the contract."""
    copy = tmp_path_factory.mktemp("tree")
    for folder in ("expkit", "commands", "formats"):
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


@pytest.mark.parametrize(
    ("path", "line", "named"),
    [
        ("expkit/runs/layout.py", "from expkit.reading.run import Run", "expkit.runs.layout -> expkit.reading.run"),
        ("formats/csv.py", "import expkit.recorder", "expkit.formats.csv -> expkit.recorder"),
        ("expkit/rules/rule.py", "from expkit.rewards import needs", "expkit.rules.rule -> expkit.rewards"),
        (
            "expkit/queries/filters.py",
            "def later():\n    from expkit.reading import opening",
            "expkit.queries.filters -> expkit.reading.opening",
        ),
        (
            "expkit/batches/windows.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from expkit.torch import ExperienceDataset",
            "expkit.batches.windows -> expkit.torch",
        ),
        (
            "expkit/buffers/blocks.py",
            "from expkit.buffers.ring import BlockRing",
            ".blocks -> .ring (1 import)",
        ),
    ],
)
def test_a_forbidden_import_is_named_with_its_line(tree, path, line, named):
    file = tree / path
    before = file.read_text()
    try:
        file.write_text(f"{before}\n{line}\n")
        done = lint(tree)
    finally:
        file.write_text(before)
    assert done.returncode == 1, done.stdout
    assert named in done.stdout
    if named.startswith("expkit."):
        assert f"(l.{len((before + line).splitlines()) + 1})" in done.stdout


def test_a_new_package_is_given_its_place(tree):
    (tree / "expkit/attic").mkdir()
    (tree / "expkit/attic/__init__.py").write_text('"""Nobody said where this stands."""\n')
    done = lint(tree)
    shutil.rmtree(tree / "expkit/attic")
    assert done.returncode == 1
    assert "attic" in done.stdout


def sources() -> list[Path]:
    return [path for folder in ("expkit", "commands", "formats") for path in (ROOT / folder).rglob("*.py")]


def test_nothing_inside_imports_the_public_face():
    """`from expkit import Run` imports what the name stands for without that anybody sees it."""
    inside = {path.stem for path in (ROOT / "expkit").iterdir()}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "expkit":
                assert {name.name for name in node.names} <= inside, path
            elif isinstance(node, ast.Import):
                assert all(name.name != "expkit" for name in node.names), path


def test_every_package_says_what_it_is_for_and_what_it_may_import():
    for path in sources():
        if path.name == "__init__.py":
            told = ast.get_docstring(ast.parse(path.read_text())) or ""
            assert told, path
            if path.parent.parent in (ROOT, ROOT / "expkit") and path.parent != ROOT / "expkit":
                assert "\nImports " in told.partition("\n\n")[0], path
