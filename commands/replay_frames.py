"""A frame of a replay as lines of styled pieces, for the terminal, for a pipe and for JSON alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from expkit.commands import output
from expkit.commands.inspect_row import counted, keys_as_json, move_of
from expkit.commands.streams import one_line
from expkit.games.generals import draw
from expkit.reading.run import Run
from expkit.resimulation.playback import Frame, Playback

Line = list[output.Piece]
_NAME_ROOM = 16
_NO_TERMINAL = 1000  # as many lines mean a pipe, where a legend under every frame is noise


def board_of(frame: Frame, player: int | None) -> draw.View | None:
    """What `player` saw; for None the recorded truth, else what all players together saw."""
    if player is not None:
        return draw.view_of(frame.rows[player]) if player in frame.rows else None
    for row in frame.rows.values():
        truth = draw.view_of(row, "state")
        if truth is not None:
            return truth
    views = [view for row in frame.rows.values() if (view := draw.view_of(row)) is not None]
    return draw.join_views(views) if views else None


def frame_lines(run: Run, playback: Playback, index: int, player: int | None, columns: int, rows: int) -> list[Line]:
    """Everything of a frame below its title: the board, who stands where, what each player does now."""
    frame = playback.frame(index)
    view = board_of(frame, player)
    lines: list[Line] = []
    acting = frame.rows.get(player) if player is not None else None
    if view is not None:
        move = move_of(acting, view) if acting is not None else None
        below = 2 + len(frame.rows)
        lines += [list(line) for line in draw.draw(view, move, columns, max(rows - below, 4))]
    elif player is not None and player not in frame.rows:
        lines.append([(f"player {player} has no row at this step", "yellow")])
    else:
        for number, row in frame.rows.items():
            if player in (None, number):
                lines += _field_lines(run, row)
    lines.append([])
    names = {
        number: f"{draw.letter(number) if view is not None else number} {_policy(run, row)}"
        for number, row in frame.rows.items()
    }
    room = max((len(name) for name in names.values()), default=0)
    for number, row in frame.rows.items():
        lines.append(_player_line(number, row, names[number].ljust(room + 1)))
    if view is not None and len(lines) + 2 <= rows < _NO_TERMINAL:
        lines += [[], [(draw.LEGEND, "dim")]]
    return lines


def _policy(run: Run, row: dict[str, Any]) -> str:
    """Name and version, with nothing in it that a terminal would obey."""
    policy = int(row["policy"])
    name = run.policies[policy].name if policy < len(run.policies) else f"policy {policy}"
    name = one_line(name)
    short = name if len(name) <= _NAME_ROOM else f"{name[: _NAME_ROOM - 1]}…"
    return f"{short} v{int(row['policy_version'])}"


def _player_line(player: int, row: dict[str, Any], name: str) -> Line:
    """`a hunter v0  24 tiles 310 armies  (5,3) right, full  reward 0`."""
    line: Line = [(name, draw.color_of(player))]
    army, land = row.get("observation/total_army"), row.get("observation/total_land")
    if army is not None and land is not None and player < len(army):
        line.append(f"{int(land[player]):>3} tiles {int(army[player]):>5,} armies  ")
    view = draw.view_of(row)
    move = move_of(row, view)
    if bool(row["is_last"]):
        line.append(("last row", "dim"))
        return line
    if move is not None:
        line.append(str(move).ljust(18))
    elif "action" in row and np.size(row["action"]) <= 12:
        action = np.array2string(np.asarray(row["action"]), precision=4, max_line_width=10_000).replace("\n", " ")
        line.append(f"action {action}  ")
    line.append((f" reward {float(row['reward']):g}", "" if row["reward"] else "dim"))
    line += [(f"  {name}", "bold yellow") for name in ("terminated", "truncated") if row[name]]
    return line


def _field_lines(run: Run, row: dict[str, Any]) -> list[Line]:
    """Observations of a game without a board: scalars and short vectors as they are, others by their shape."""
    lines: list[Line] = []
    for field in run.schema.fields:
        if field.belongs != "observation" or field.name not in row:
            continue
        told = counted(field, row)
        value = np.asarray(told)
        if isinstance(told, str):
            shown = one_line(repr(told))
        elif value.size <= 12:
            shown = np.array2string(value, precision=4, suppress_small=True, max_line_width=10_000).replace("\n", " ")
        else:
            shown = f"{'x'.join(map(str, value.shape))}, {value.min():g} to {value.max():g}"
        lines.append([(f"{field.name}  ", "dim"), shown])
    return lines


def frame_as_json(run: Run, playback: Playback, index: int, player: int | None) -> dict[str, Any]:
    """The step, each player's row without what has a shape, and the board as lines of text."""
    frame = playback.frame(index)
    rows = []
    for row in frame.rows.values():
        last = bool(row["is_last"])
        move = move_of(row, draw.view_of(row))
        action = row.get("action")
        rows.append(
            {
                **keys_as_json(run, row),
                "action": None if last else action,
                "action_text": None if move is None else str(move),
                "reward": None if last else row["reward"],
                "terminated": bool(row["terminated"]) and not last,
                "truncated": bool(row["truncated"]) and not last,
            }
        )
    view = board_of(frame, player)
    board = None if view is None else ["".join(text for text, _ in line) for line in draw.draw(view, None, 2000, 2000)]
    return {"step": frame.step, "rows": rows, "board": board}
