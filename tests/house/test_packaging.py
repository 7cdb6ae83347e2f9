"""The wheel holds every module once, and the source tree keeps its shape."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from places import ROOT

FOLDERS = {"expkit": "expkit", "commands": "expkit/commands", "formats": "expkit/formats"}


def source_files(suffix: str) -> set[str]:
    """Files of the library by their place in a wheel; the links inside expkit/ are not followed."""
    out = set()
    for folder, place in FOLDERS.items():
        for path in (ROOT / folder).rglob(f"*{suffix}"):
            inside = path.relative_to(ROOT / folder)
            if folder == "expkit" and inside.parts[0] in ("commands", "formats"):
                continue
            out.add(f"{place}/{inside}")
    return out


def test_wheel_holds_each_file_of_the_tree_once(tmp_path):
    # From a copy: a build leaves folders in its source, and takes up what an earlier one left there.
    source = tmp_path / "source"
    left_out = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "__pycache__", "runs")
    shutil.copytree(
        ROOT, source, symlinks=True, ignore=lambda at, names: left_out(at, names) if at == str(ROOT) else []
    )
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert len(names) == len(set(names))
    assert {name for name in names if name.endswith(".py")} == source_files(".py")
    assert {"expkit/py.typed", "expkit/formats/shard/SPEC.md"} <= set(names)


KERNELS = sorted((ROOT / "expkit" / "kernels").glob("*.py"))
ALLOWED = {"zlib", "numba", "llvmlite", "numpy", "expkit.kernels", "__future__", "collections", "typing"}


@pytest.mark.parametrize("path", [p for p in KERNELS if p.name != "__init__.py"], ids=lambda p: p.name)
def test_kernels_are_pure(path):
    """No I/O, no logging, no CLI library in compiled code's modules; nothing above the kernels either."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            assert any(name == ok or name.startswith(ok + ".") for ok in ALLOWED), f"{path.name} imports {name}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("open", "print", "input"), f"{path.name} calls {node.func.id}"


def imports_of(folder: Path) -> list[tuple[Path, str]]:
    out = []
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                out.append((path, node.module))
            elif isinstance(node, ast.Import):
                out += [(path, alias.name) for alias in node.names]
    return out


def test_the_library_knows_no_command_line():
    for path, module in imports_of(ROOT / "expkit"):
        if path.relative_to(ROOT / "expkit").parts[0] not in ("commands", "formats"):
            assert module.split(".")[0] not in ("typer", "click", "rich"), f"{path} imports {module}"


def test_top_level_holds_what_was_agreed():
    agreed = {"pyproject.toml", "expkit", "commands", "formats", "tests", "sample_data", "README.md", "LICENSE"}
    agreed |= {"CHANGELOG.md", "uv.lock", "build", "dist", "runs"}  # the last three are ignored by git
    found = {
        path.name for path in ROOT.iterdir() if not path.name.startswith(".") and not path.name.endswith(".egg-info")
    }
    assert found <= agreed


def test_source_files_stay_readable():
    """A file above 500 lines is two ideas."""
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 500, path
