"""Options and inputs that several verbs share, so that they look and act the same everywhere.

Verb modules import what reads runs inside their functions: NumPy and Numba take half a second, and `--help` and
completion need neither.
"""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expkit.errors import NotThere, UsageError, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from expkit.reading.run import Run
    from expkit.settings.config import Resolved


def complete_runs(incomplete: str) -> list[str]:
    """Run folders that begin with what is typed, and folders on the way to one."""
    from expkit.runs.layout import is_run

    folder, _, start = incomplete.rpartition("/")
    base = Path(folder or ("/" if incomplete.startswith("/") else "."))
    try:
        found = sorted(entry for entry in base.iterdir() if entry.name.startswith(start) and entry.is_dir())
    except OSError:
        return []
    prefix = f"{folder}/" if "/" in incomplete else ""
    return [f"{prefix}{entry.name}{'' if is_run(entry) else '/'}" for entry in found if not entry.name.startswith(".")]


def split_names(given: list[str] | None) -> list[str] | None:
    """The names of an option that may be repeated and takes several, with commas."""
    return None if given is None else [name for names in given for name in names.split(",") if name]


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, errors too.")]
RunPath = Annotated[str, typer.Argument(metavar="RUN", help="A run folder.", autocompletion=complete_runs)]
RunPaths = Annotated[
    list[str],
    typer.Argument(metavar="PATH", help="Runs, folders of runs, shard files, globs.", autocompletion=complete_runs),
]
MaybeRunPaths = Annotated[
    list[str] | None,
    typer.Argument(metavar="PATH", help="Runs, folders of runs, shard files, globs.", autocompletion=complete_runs),
]
RunInputs = Annotated[
    list[str],
    typer.Argument(metavar="RUN", help="Runs, folders of runs, globs.", autocompletion=complete_runs),
]
Episode = Annotated[int | None, typer.Option("--episode", metavar="E", help="Number of the episode.")]
Player = Annotated[int | None, typer.Option("--player", metavar="P", help="The player whose rows these are.")]
Step = Annotated[int | None, typer.Option("--step", metavar="S", help="The game's own turn number.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, with counts and bytes.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
Partial = Annotated[bool, typer.Option("--partial", help="Go on with what is there where shards of a run are missing.")]
SafeCsv = Annotated[bool, typer.Option("--safe-csv", help="No cell of a CSV is a formula to a spreadsheet.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Reward = Annotated[
    str | None,
    typer.Option(
        "--reward", metavar="REWARD", help="What reward is: game, sparse, weighted, module:callable, or a sum of them."
    ),
]
RewardColumn = Annotated[
    list[str] | None,
    typer.Option("--reward-column", metavar="NAME=REWARD", help="One more column of rewards, reward/NAME."),
]
Where = Annotated[
    str | None,
    typer.Option("--where", metavar="CONDITION", help="Only rows for which this is true, like 'reward > 0'."),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        metavar="A,B",
        help="Only these fields or groups; keys and reward always stay.",
        callback=split_names,
    ),
]
Representation = Annotated[
    str | None,
    typer.Option(
        "--representation",
        metavar="NAME",
        help="Boards as planes, planes-uint8(army_scale=255), flat, yours; refused where rows lack it.",
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings from this YAML or JSON file.")
]


def is_shard(path: Path) -> bool:
    """Whether `path` is named like a shard file, published or active."""
    from expkit.runs.layout import ACTIVE_SUFFIX, SHARD_SUFFIX

    return path.is_file() and path.suffix in (SHARD_SUFFIX, ACTIVE_SUFFIX)


def expand(paths: list[str]) -> list[Path]:
    """The existing paths that `paths` stand for, globs expanded, in order, each once.

    Raises UsageError for no path or a glob without a match, NotThere for a name that does not exist.
    """
    if not paths:
        raise UsageError("no input given; name a run, a folder of runs, a shard file or a glob")
    found: list[Path] = []
    for given in paths:
        if os.path.lexists(given):
            found.append(Path(given))
        elif glob.has_magic(given):
            matches = sorted(glob.glob(given, recursive=True))
            if not matches:
                raise UsageError(f"nothing matches '{given}'; check it with: ls -d {given}")
            found += [Path(match) for match in matches]
        else:
            raise NotThere(f"there is no {given}{near(given)}")
    return list(dict.fromkeys(found))


def near(given: str) -> str:
    """`; did you mean …?` with a sibling of similar name, or what to try instead."""
    import difflib

    path = Path(given)
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f"; {path.parent} is not there either, see expkit list"
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else f"; see expkit list {quoted(path.parent)}"


def expand_runs(paths: list[str]) -> list[Path]:
    """Run folders among and below `paths`. Raises UsageError where there is none, NotThere as `expand`."""
    from expkit.runs.layout import find_runs, is_run

    runs: list[Path] = []
    for path in expand(paths):
        if is_run(path):
            runs.append(path)
        elif path.is_dir():
            below = find_runs(path)
            if not below:
                raise UsageError(f"no run in {path}; a run is a folder with run.yaml, see expkit list {quoted(path)}")
            runs += below
        else:
            raise UsageError(f"{path} is not a run; name the folder that holds run.yaml")
    return list(dict.fromkeys(runs))


def one_run_path(given: str) -> Path:
    """The run at `given`. Raises as `expand_runs`, and UsageError when there are several."""
    runs = expand_runs([given])
    if len(runs) > 1:
        raise UsageError(f"{given} holds {len(runs)} runs; name one, like {runs[0]}")
    return runs[0]


def one_run(given: str) -> Run:
    """The opened run at `given`. Raises as `one_run_path`."""
    from expkit.reading.opening import open_run

    return open_run(one_run_path(given))


def input_runs(given: list[str], out: Path) -> list[Path]:
    """Run folders to make `out` of. Raises as `expand_runs`, and UsageError when `out` is one of them."""
    paths = expand_runs(given)
    if out.resolve() in [path.resolve() for path in paths]:
        raise UsageError(f"{out} is one of the inputs; choose another -o")
    return paths


def resolve_for(verb: str, flags: Mapping[str, Any], config: Path | None) -> Resolved:
    """The settings in force, as `expkit.settings.config.resolve`; its warnings are printed."""
    from expkit.commands import output
    from expkit.settings.config import resolve

    resolved = resolve(flags, config)
    for warning in resolved.warnings:
        output.note(f"expkit {verb}: {warning}")
    return resolved
