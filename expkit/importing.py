"""Importing: recordings of other programs become runs. One function per format, found by name or by file suffix.

`formats` decodes the file, `games` plays it again by its rules, the `Recorder` writes it: an imported run is like
one recorded live, and `expkit replay --verify` holds for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expkit.episodes import PolicyInfo
from expkit.errors import NotThere, UsageError
from expkit.recorder import Mode, Recorder


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
    source: Path, run: Path, *, format: str | None = None, state: bool = False, force: bool = False
) -> Imported:
    """Import the file `source` into a new run.

    format   `gior`; from the suffix when left out
    state    record the whole truth, too, as state/…
    force    replace a run that is there

    Raises NotThere, UsageError for an unknown format, ShardError and GameError for a file that is not sound,
    OutputExists. Nothing is written unless the whole file can be imported.
    """
    if not source.exists():
        raise NotThere(f"{source}: no such file")
    name = format or source.suffix.lstrip(".").lower()
    importer = _FORMATS.get(name)
    if importer is None:
        near = difflib.get_close_matches(name, _FORMATS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(_FORMATS)}; choose one with --format"
        raise UsageError(f"no format '{name}' to import {source} by; {hint}")
    return importer(source, run, state, "w" if force else "x")


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


_FORMATS: dict[str, Callable[[Path, Path, bool, Mode], Imported]] = {"gior": _import_gior}
