"""Names: one word for one thing over API, command line, settings and JSON, and batch twins for what takes one thing."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.main import get_command

from expkit.commands.verbs import VERBS
from expkit.config import SETTINGS

ROOT = Path(__file__).parent.parent
# Where expkit speaks with other libraries, or of how games are played inside, their words are the right ones.
FOREIGN = (
    "expkit/adapters", "expkit/bench/peers", "expkit/kernels", "expkit/games", "expkit/torch", "formats/hdf5",
    "formats/minari", "formats/huggingface",
)  # fmt: skip


def words() -> dict[str, str]:
    """By word that is not said the one that is, from the table in README."""
    table = re.search(r"<!-- words -->\n(.*?)<!-- end words -->", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert table is not None
    out: dict[str, str] = {}
    for line in table[1].splitlines()[2:]:
        word, _, instead = (part.strip() for part in line.strip("|").split("|"))
        for one in filter(None, re.split(r",\s*", instead)):
            assert one not in out
            out[one] = word
    return out


def sources() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("expkit", "commands", "formats"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(FOREIGN):
                yield name, ast.parse(path.read_text("utf-8"))


def names_of(tree: ast.Module) -> Iterator[str]:
    """Public functions, methods and classes, their parameters, keys of JSON objects that are written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name
            if isinstance(node, ast.FunctionDef):
                yield from (argument.arg for argument in [*node.args.args, *node.args.kwonlyargs])
            else:
                for member in node.body:
                    if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
                        yield member.target.id
        if isinstance(node, ast.Dict):
            yield from (key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


def options() -> Iterator[str]:
    for verb in VERBS:
        found = getattr(importlib.import_module(f"expkit.commands.{verb.module}"), verb.attribute)
        app = found if isinstance(found, typer.Typer) else typer.Typer()
        if app is not found:
            app.command()(found)
        command = get_command(app)
        for one in getattr(command, "commands", {"": command}).values():
            for parameter in one.params:
                yield from (option.lstrip("-").replace("-", "_") for option in parameter.opts)


def is_said(name: str, word: str) -> bool:
    """Whether the word is part of the name, in words of its own: `num_jobs`, `--max-jobs`, `JobsSettings`."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return f"_{word}_" in f"_{plain}_".replace("/", "_").replace(".", "_")


def test_one_word_for_one_thing():
    unsaid = words()
    assert len(unsaid) > 20
    wrong = []
    for where, tree in sources():
        wrong += [
            f"{where}: {name}, say {unsaid[word]}" for name in names_of(tree) for word in unsaid if is_said(name, word)
        ]
    told = [*options(), *(setting.key for setting in SETTINGS), *(setting.parameter for setting in SETTINGS)]
    wrong += [f"--{name}, say {unsaid[word]}" for name in told for word in unsaid if is_said(name, word)]
    assert wrong == []
