"""Importing: recordings of other programs, and exports, become runs. The format is found by name, by the suffix of a
file, or by what a folder holds.

Of tables of rows see `expkit.exchange`. A recorded game is played again by its rules and written by the `Recorder`: it
is like one recorded live, and `expkit replay --verify` holds for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expkit.errors import NotThere, UsageError, did_you_mean, quoted
from expkit.recorder import Mode, Recorder
from expkit.row.episodes import PolicyInfo

GIOR = "gior"


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import wrote. `notes` say in words what the source had that a run does not hold."""

    run: Path
    format: str
    episodes: int
    rows: int
    steps: int
    players: int
    notes: tuple[str, ...] = ()


def import_recording(
    source: Path,
    run: Path,
    *,
    format: str | None = None,
    state: bool = False,
    force: bool = False,
    on_rows: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Imported:
    """Import `source`, a file or a folder, into a new run.

    format   `gior`, or what `expkit.exchange.registry.find_format` takes; from what is there when left out
    state    record the whole truth, too, as state/…, of a game that is played again
    force    replace a run that is there
    on_rows  rows done since the last call;  stop: asked between batches; raises `expkit.rewrite.engine.Stopped` then

    Raises NotThere, UsageError for an unknown format, ShardError and GameError for a file that is not sound,
    OutputExists. Nothing is written unless the whole file can be imported.
    """
    name = source_format(source, format)
    if name == GIOR:
        return _import_gior(source, run, state, "w" if force else "x")
    if state:
        raise UsageError(f"the truth of a game is had by playing it again, which {name} does not do; leave out --state")
    from expkit.exchange.importing import import_table
    from expkit.exchange.registry import find_format

    found = find_format(name)
    done = import_table(source, run, found, force=force, on_rows=on_rows, stop=stop)
    notes = tuple(done.notes)
    if done.odd_values:
        notes += (f"{done.odd_values:,} findings about what the rows say; see expkit validate {quoted(run)}",)
    return Imported(run, found.name, done.episodes, done.rows, done.rows - done.last_rows, done.players, notes)


def source_format(source: Path, format: str | None = None) -> str:
    """The name of the format asked for, else the one that the suffix of a file, or what is in a folder, tells. Raises
    NotThere, UsageError."""
    if not source.exists():
        raise NotThere(f"{source}: no such file")
    if format is not None:
        return format
    if source.suffix.lower() == ".gior":
        return GIOR
    from expkit.exchange.registry import find_format, format_names, format_of

    if source.is_file():
        try:
            return format_of(source).name
        except UsageError:
            known = [GIOR, *format_names()]
            name = source.suffix.lstrip(".").lower()
            hint = did_you_mean(name, known, f"there is {', '.join(known)}; choose one with --format")
            raise UsageError(f"no format '{name}' to import {source} by; {hint}") from None
    for name in format_names():
        one = find_format(name)
        recognises = getattr(one, "recognises", None)
        if recognises is not None and recognises(source):
            return name
    names = [path.name.lower() for path in source.rglob("*") if path.is_file()]
    for name in format_names():
        if any(given.endswith(suffix) for suffix in find_format(name).suffixes for given in names):
            return name
    raise UsageError(f"{source}: nothing in this folder tells its format; choose one with --format")


def _import_gior(source: Path, run: Path, state: bool, mode: Mode) -> Imported:
    """A generals.io replay: one game, played again by the rules; a move they do not allow refuses the file."""
    from expkit.games.generals.gior import import_gior
    from expkit.games.generals.source import GeneralsSource

    game = import_gior(source, state=state)
    # Played once without recording: a file that turns out unsound at its last move leaves nothing behind.
    length = sum(1 for _ in game.play())
    outcomes: dict[int, float | None] = {}
    with Recorder(
        run,
        game.schema,
        mode=mode,
        players=[f"player{i}" for i in range(game.config.players)],
        source="generals",
        policies=[PolicyInfo("human")],
        metadata={"game": GeneralsSource().to_builtins(game.config), "imported": "gior"},
        concurrent_episodes=1,
    ) as recorder:
        episode = recorder.new_episode(**game.metadata)
        rows = steps = 0
        for tick in game.play(episode):
            for player, fields in tick.rows.items():
                recorder.add(player=player, episode=episode, step=tick.step, **fields)
                steps += 1
            for player, seen in tick.last.items():
                outcomes[player] = tick.outcome[player]
                observation: dict[str, Any] = {**seen}
                recorder.end(episode=episode, player=player, outcome=tick.outcome[player], **observation)
                rows += 1
    notes = []
    if game.extra_moves:
        notes.append(f"{game.extra_moves} further moves of a player in one tick stand in the episode's metadata only")
    if not any(value == 1 for value in outcomes.values()):
        notes.append(f"the file ends at tick {length} before anybody has won; the game is interrupted there")
    return Imported(run, "gior", 1, rows + steps, steps, game.config.players, tuple(notes))
