"""Names: one word for one thing over API, command line, settings and JSON, and batch twins for what takes one thing."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator

import pytest
import typer
from doc_parts import between, page
from places import ROOT
from typer.main import get_command

from expkit import Recorder, Run, Schema
from expkit.buffers.memory import MemoryBuffer
from expkit.buffers.ring import BlockRing
from expkit.buffers.spill import SpillBuffer
from expkit.commands.verbs import VERBS
from expkit.settings.config import SETTINGS

# Where expkit speaks with other libraries, or of how games are played inside, their words are the right ones.
FOREIGN = (
    "expkit/bench/peers", "expkit/exchange", "expkit/games", "expkit/kernels", "expkit/spaces", "expkit/torch",
    "expkit/wrapping",
    "formats/hdf5", "formats/huggingface", "formats/minari",
)  # fmt: skip


def words() -> dict[str, str]:
    """By word that is not said the one that is, from the table of their page."""
    table = between(page("words"), "words")
    out: dict[str, str] = {}
    for line in table.splitlines()[2:]:
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


BUFFERS = {
    "many": "drain latest load sample rows_at views",
    "whole": "claim clear close may_have_room producer put spill_oldest stats take_gap until_unlocked wait_full",
}
# What each public method takes: one thing, then it has a twin `…_batch`; many things at once; or the whole object. Of
# one thing only: what names a single place for a person or hands out a reader, where `row_batch` serves many.
METHODS: dict[type, dict[str, str]] = {
    Recorder: {
        "one": "add annotate discard end new_episode",
        "many": "reset step",
        "whole": "close flush set_policy subscribe",
    },
    Run: {
        "one": "row",
        "many": "arrow blocks blocks_of episode episodes epoch follow load_into query rows sample sample_windows scan "
        "shuffled split windows",
        "whole": "as_pinned bind check_whole close close_readers decoder refresh reopened selection",
        "only one": "current_path find_episode lacks_rows locate reader reader_or_none visible",
    },
    Schema: {
        "many": "expand_names pack unpack with_fields",
        "whole": "from_builtins from_env from_json from_space to_builtins to_json",
        "only one": "column",
    },
    BlockRing: {"one": "add", **BUFFERS},
    MemoryBuffer: {"one": "add", **BUFFERS},
    SpillBuffer: {"one": "add", **BUFFERS},
}


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_what_takes_one_thing_has_a_twin_that_takes_many(kind):
    public = {
        name
        for name in dir(kind)
        if not name.startswith("_")
        and isinstance(inspect.getattr_static(kind, name), classmethod | staticmethod | type(public_names))
    }
    told = {name: takes for takes, names in METHODS[kind].items() for name in names.split()}
    twins = {f"{name}_batch" for name, takes in told.items() if takes == "one"}
    assert twins <= public
    assert not {name for name in public if name.endswith("_batch")} - twins
    assert public - twins - told.keys() == set(), "say whether they take one thing or many"
    for name in twins:
        one = inspect.signature(getattr(kind, name.removesuffix("_batch"))).parameters
        many = inspect.signature(getattr(kind, name)).parameters
        # What is said of one thing is said of many by the same words, but for a number that is chosen for it.
        assert {parameter for parameter in one if parameter not in ("row", "number")} <= many.keys()


def public_names(module: str) -> list[str]:
    return list(getattr(importlib.import_module(module), "__all__", []))


@pytest.mark.parametrize("module", ["expkit", "expkit.pipeline", "expkit.rewards", "expkit.rules"])
def test_every_public_name_is_there_and_says_what_it_is(module):
    found = importlib.import_module(module)
    assert public_names(module)
    for name in public_names(module):
        value = getattr(found, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{module}.{name} has no docstring"


def test_settings_are_called_the_same_in_python():
    """A parameter of the Recorder that is a setting has the setting's name, and the others are no settings."""
    parameters = set(inspect.signature(Recorder.__init__).parameters)
    own = {"self", "run", "schema", "mode", "players", "source", "policies", "config", "metadata", "seed", "writer"}
    own |= {"concurrent_episodes", "drain_threads", "frame_rows", "autoreset"}
    assert parameters - own <= {setting.parameter for setting in SETTINGS}
    for name in ("batch_size", "columns", "where", "threads", "rows", "pipeline"):
        assert name in inspect.signature(Run.scan).parameters
