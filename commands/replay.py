"""`expkit replay`: watch an episode again, or re-simulate it and report the first step that differs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from expkit.commands import output, session
from expkit.commands.options import Episode, Json, Partial, RunPath, Step, one_run
from expkit.errors import NotThere, UsageError, quoted
from expkit.system.units import parse_rate

if TYPE_CHECKING:
    from expkit.reading.run import Run
    from expkit.resimulation.playback import Moment, Playback

EXAMPLES = (
    ("expkit replay sample_data/run", "watch it; keys are shown below the board"),
    ("expkit replay sample_data/run --episode 0 --player 1 --rate 4x", "as player 1 saw it, faster"),
    ("expkit replay sample_data/run --episode 0 --step 20", "one frame, also into a pipe"),
    ("expkit replay sample_data/run --where 'reward > 0'", "from one row that matches to the next, with j and J"),
    ("expkit replay sample_data/run --verify", "play every episode again and compare every row"),
)

# Columns and lines of a frame where there is no terminal to fit.
_WIDE, _TALL = 2000, 2000


def replay(
    run: RunPath,
    episode: Episode = None,
    player: Annotated[
        int | None, typer.Option("--player", metavar="P", help="See what this player saw; without, what all saw.")
    ] = None,
    step: Step = None,
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="EXPR", help="Jump from match to match, as 'player == 1 and reward > 0'."),
    ] = None,
    rate: Annotated[str | None, typer.Option("--rate", metavar="2x", help="1x is 4 steps a second.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Re-simulate from seeds and actions, compare all.")] = False,
    partial: Partial = False,
    json: Json = False,
) -> None:
    """Watch an episode again, or prove that it plays out the same."""
    from expkit.resimulation.playback import Playback

    speed = parse_rate(rate) if rate is not None else 1.0
    with one_run(run) as opened:
        if verify:
            if step is not None or player is not None or rate is not None or where is not None:
                raise UsageError(
                    "--verify compares every player and step of an episode; leave out --player, --step, --where, --rate"
                )
            from expkit.commands.replay_verify import verify_run

            if not partial:
                opened.check_whole()
            raise typer.Exit(verify_run(opened, episode, json))
        numbers = [found.number for found in opened.episodes() if found.rows]
        if not numbers:
            raise NotThere(f"{opened.path}: no episode with rows to replay; see expkit inspect {quoted(opened.path)}")
        found = None if where is None else _matches(opened, where, episode, step)
        if found is not None:
            numbers = [number for number in numbers if number in found]
        number = episode if episode is not None else numbers[0]
        playback = Playback(opened, number, None if found is None else found[number])
        start = _start(opened, playback, player, step)
        shown: Sequence[int] = range(start, start + 1 if step is not None else len(playback))
        if found is not None:
            places = {playback.steps.index(moment.step): None for moment in playback.moments}
            shown, start = list(places), min(places)
        if json:
            _write_json(opened, playback, player, shown)
        elif output.has_ansi_terminal() and not (step is not None and not sys.stdin.isatty()):
            from expkit.commands.replay_player import Watcher

            paused = step is not None or found is not None
            Watcher(opened, numbers, playback, player, speed, paused, follow=episode is None, moments=found).run(start)
        else:
            _print_frames(opened, playback, player, shown, only=step is not None, pace=speed if rate else None)


def _matches(run: Run, where: str, episode: int | None, step: int | None) -> dict[int, list[Moment]]:
    """By episode what `--where` matches. Raises UsageError, NotThere when that is nothing, in the run or the episode
    asked for."""
    from expkit.resimulation.playback import matches

    if step is not None:
        raise UsageError("--where finds the steps to show; leave out --step")
    found = matches(run, where)
    if not found:
        raise NotThere(f"{run.path}: no row for which {where} holds")
    if episode is not None and episode not in found:
        run.find_episode(episode)
        raise NotThere(f"{run.path}: episode {episode} has no row for which {where} holds; try {next(iter(found))}")
    return found


def _start(run: Run, playback: Playback, player: int | None, step: int | None) -> int:
    """The frame to begin with. Raises NotThere for a player or step that the episode does not have."""
    number = playback.episode.number
    if player is not None and player not in playback.players:
        have = ", ".join(map(str, playback.players))
        raise NotThere(f"{run.path}: episode {number} has no rows of player {player}; it has players {have}")
    if not len(playback):
        raise NotThere(f"{run.path}: episode {number} has no rows; see expkit inspect {quoted(run.path)}")
    if step is None:
        return 0
    index = playback.index_of(step)
    if index is None:
        first, last = playback.steps[0], playback.steps[-1]
        raise NotThere(f"{run.path}: episode {number} has no step {step}; it has steps {first} to {last}")
    return index


def _write_json(run: Run, playback: Playback, player: int | None, indices: Sequence[int]) -> None:
    from expkit.commands.replay_frames import frame_as_json

    output.write_json(
        {
            "schema": "expkit.replay/1",
            "run": run.path,
            "episode": output.wide_integer(playback.episode.number),
            "ended": playback.episode.ended,
            "outcome": {str(p): value for p, value in playback.episode.outcome.items()},
            "player": player,
            "moments": [moment._asdict() for moment in playback.moments],
            "frames": [frame_as_json(run, playback, index, player) for index in indices],
        }
    )


def _print_frames(
    run: Run, playback: Playback, player: int | None, indices: Sequence[int], only: bool, pace: float | None
) -> None:
    """Plain frames, one below the other; at a pace only when a rate was asked for."""
    from expkit.commands.inspect_row import describe_end
    from expkit.commands.replay_frames import frame_lines
    from expkit.commands.replay_player import STEPS_PER_SECOND

    moments: dict[int, list[str]] = {}
    for moment in playback.moments:
        moments.setdefault(moment.step, []).append(moment.what)
    for index in indices:
        frame = playback.steps[index]
        told = f" · {', '.join(moments[frame])}" if frame in moments else ""
        output.line((f"episode {playback.episode.number} step {frame} of {playback.steps[-1]}", "bold"), told)
        columns, rows = (output.width(), 60) if output.has_ansi_terminal() else (_WIDE, _TALL)
        for pieces in frame_lines(run, playback, index, player, columns, rows):
            output.line(*pieces)
        if not only:
            output.blank()
        if pace is not None:
            sys.stdout.flush()
            time.sleep(1 / (STEPS_PER_SECOND * pace))
    if not only and not session.current().quiet:
        output.line((describe_end(playback.episode), "bold"))
