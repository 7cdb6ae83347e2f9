"""One row in full, its board drawn; and the rows of an episode as a table."""

from __future__ import annotations

from typing import Any

import numpy as np

from expkit.commands import output
from expkit.errors import NotThere
from expkit.games.generals import draw
from expkit.reading.run import Run
from expkit.row.episodes import Episode
from expkit.row.schema import TEXT, Field
from expkit.rules.values import first_action
from expkit.system.odd_floats import named

_BOARD_FIELDS = ("army", "owner", "terrain", "visible")


def show_row(run: Run, episode: int, player: int, step: int, fog: bool) -> None:
    """The row at an address: what is known of it, its board, its other fields. Raises NotThere."""
    row = run.row(episode, player, step)
    shard, block = run.locate(episode, player, step)
    policy = _policy_name(run, int(row["policy"]), int(row["policy_version"]))
    output.line(
        (f"episode {episode} player {player} step {step}", "bold"), f" · {policy} · ", (f"{shard} block {block}", "dim")
    )
    view = draw.view_of(row) if fog else _unfogged(run, episode, step, row)
    move = move_of(row, view)
    output.line(*_happened(run, row, move))
    if view is not None:
        show_board(view, move)
    _show_fields(run, row, drawn=view is not None)
    steps = [] if bool(row["is_last"]) else [f"--step {step + 1}"]
    other = ["--fog off" if fog else "--fog on"] if view is not None else []
    output.hint(
        " · ".join([*steps, *other, f"expkit replay {output.quoted(run.path)} --episode {episode} --step {step}"])
    )


def row_as_json(run: Run, episode: int, player: int, step: int) -> dict[str, Any]:
    """Every column of a row, nulls as null, and its action in words where the game is known."""
    row = run.row(episode, player, step)
    shard, block = run.locate(episode, player, step)
    last = bool(row["is_last"])
    values: dict[str, Any] = {}
    for field in run.schema.fields:
        absent = (last and field.belongs != "observation") or not bool(row.get(f"valid:{field.name}", True))
        values[field.name] = None if absent else row[field.name]
    move = move_of(row, draw.view_of(row))
    return {
        "run": run.path,
        "shard": shard,
        "block": block,
        **keys_as_json(run, row),
        "action_text": None if move is None else str(move),
        "values": values,
    }


def keys_as_json(run: Run, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "episode": output.wide_integer(row["episode"]),
        "player": int(row["player"]),
        "step": int(row["step"]),
        "policy": _policy_name(run, int(row["policy"]), None),
        "policy_version": int(row["policy_version"]),
        "time_ns": output.wide_integer(row["time_ns"]),
        "is_first": bool(row["is_first"]),
        "is_last": bool(row["is_last"]),
    }


def episode_as_json(run: Run, episode: Episode, player: int | None) -> dict[str, Any]:
    """An episode's records and its rows without what has a shape."""
    end = episode.end
    rows = []
    for number in _players_of(run, episode, player):
        table = run.rows(episode.number, number, _scalar_names(run))
        for at in range(len(table["step"])):
            row = {name: values[at] for name, values in table.items()}
            last = bool(row["is_last"])
            body = keys_as_json(run, row)
            for name in _scalar_names(run):
                absent = (last and run.schema[name].belongs != "observation") or not row.get(f"valid:{name}", True)
                body[name] = None if absent else row[name]
            rows.append(body)
    return {
        "episode": output.wide_integer(episode.number),
        "ended": episode.ended,
        "length": episode.length,
        "outcome": {str(number): value for number, value in episode.outcome.items()},
        "start_ns": output.wide_integer(episode.start.time_ns) if episode.start else None,
        "end_ns": output.wide_integer(end.time_ns) if end else None,
        "seeds": {k: output.wide_integer(v) for k, v in episode.start.seeds.items()} if episode.start else {},
        "origin": _origin_as_json(episode),
        "metadata": episode.metadata,
        "rows_by_player": {str(number): count for number, count in episode.rows.items()},
        "rows": rows,
    }


def _origin_as_json(episode: Episode) -> dict[str, Any] | None:
    """The run and number that a merged episode was recorded under."""
    origin = episode.start.origin if episode.start else None
    return None if origin is None else {"run": origin.run, "episode": output.wide_integer(origin.episode)}


def show_episode(run: Run, episode: Episode, player: int | None) -> None:
    """What is known of an episode, then a line per row: what was done and what came of it."""
    output.line((f"episode {episode.number}", "bold"), f" · {describe_end(episode)} · {episode.length} steps")
    if episode.start is not None:
        seeds = ", ".join(f"{use} {seed}" for use, seed in episode.start.seeds.items())
        output.line(f"{episode.start.game}", f" · seeds: {seeds}" if seeds else "", indent=2)
        origin = episode.start.origin
        if origin is not None:
            output.line(f"recorded as episode {origin.episode} of run {origin.run}", indent=2)
    if episode.metadata:
        shown = ", ".join(f"{key} {value}" for key, value in episode.metadata.items())
        output.line(shown if len(shown) <= 400 else f"{shown[:397]}...", indent=2)
    boards = "observation/army" in run.schema and "action" in run.schema
    scalars = _scalar_names(run)
    columns = [output.Column("step", right=True), output.Column("player", right=True)]
    columns += [output.Column("move")] if boards else []
    columns += [output.Column(name, right=True) for name in scalars if name not in ("terminated", "truncated")]
    columns += [output.Column("policy"), output.Column("")]
    shown_rows: list[tuple[int, int, list[output.Piece]]] = []
    for number in _players_of(run, episode, player):
        table = run.rows(episode.number, number, scalars)
        for at in range(len(table["step"])):
            row = {name: values[at] for name, values in table.items()}
            shown_rows.append((int(row["step"]), number, _episode_line(run, row, scalars, boards)))
    shown_rows.sort(key=lambda item: item[:2])
    output.table(columns, [line for _, _, line in shown_rows])
    some = player if player is not None else min(episode.rows, default=0)
    output.hint(
        f"expkit inspect {output.quoted(run.path)} --episode {episode.number} --player {some} --step {shown_rows[0][0]}"
    )


def _episode_line(run: Run, row: dict[str, Any], scalars: list[str], boards: bool) -> list[output.Piece]:
    last = bool(row["is_last"])
    line: list[output.Piece] = [str(row["step"]), str(row["player"])]
    if boards:
        height, width = run.schema["observation/army"].shape
        line.append("" if last else str(draw.decode_action(int(row["action"]), height, width)))
    for name in scalars:
        if name in ("terminated", "truncated"):
            continue
        absent = (last and run.schema[name].belongs != "observation") or not row.get(f"valid:{name}", True)
        line.append("" if absent else _number(row[name]))
    line.append(_policy_name(run, int(row["policy"]), int(row["policy_version"])))
    flags: list[str] = [name for name in ("terminated", "truncated") if name in row and row[name] and not last]
    flags += ["last row"] if last else ["first row"] if row["is_first"] else []
    line.append((", ".join(flags), "yellow" if "terminated" in flags else "dim"))
    return line


def describe_end(episode: Episode) -> str:
    """`won by player 1`, `truncated`, `interrupted`, `terminated without a winner`."""
    outcomes = {player: value for player, value in episode.outcome.items() if value is not None}
    if episode.ended != "terminated" or not outcomes:
        return episode.ended
    best = max(outcomes.values())
    winners = [player for player, value in outcomes.items() if value == best]
    return f"won by player {winners[0]}" if len(winners) == 1 and best > 0 else "terminated without a winner"


def move_of(row: dict[str, Any], view: draw.View | None) -> draw.Move | None:
    """The action of a generals row, None where there is no board or no action."""
    if view is None or "action" not in row or bool(row["is_last"]) or np.ndim(row["action"]):
        return None
    return draw.decode_action(int(row["action"]), view.height, view.width)


def show_board(view: draw.View, move: draw.Move | None) -> None:
    """The board, as much of it as the terminal is wide, with a legend."""
    room = output.width() if output.has_ansi_terminal() else 400
    lines = draw.draw(view, move, columns=room - 2)
    legend = [*draw.LEGEND.split("  "), *_standing_lines(view)]
    across = sum(len(text) for text, _ in lines[0])
    beside = across + 4 + max(len(text) for text in legend) <= room
    for number, line in enumerate(lines):
        extra = [("    " + legend[number], "dim")] if beside and number < len(legend) else []
        output.line(*line, *extra)
    if not beside:
        output.line((draw.LEGEND, "dim"))
        output.line((" · ".join(_standing_lines(view)), "dim"))


def _standing_lines(view: draw.View) -> list[str]:
    return [f"{draw.letter(player)}: {land} tiles, {army:,} armies seen" for player, land, army in draw.standing(view)]


def _unfogged(run: Run, episode: int, step: int, row: dict[str, Any]) -> draw.View | None:
    """The true board where it was recorded, else what all players together see."""
    truth = draw.view_of(row, "state")
    if truth is not None:
        return truth
    views = []
    for player in run.find_episode(episode).rows:
        try:
            view = draw.view_of(run.row(episode, player, step))
        except NotThere:
            continue
        if view is not None:
            views.append(view)
    return draw.join_views(views) if views else None


def _happened(run: Run, row: dict[str, Any], move: draw.Move | None) -> list[output.Piece]:
    """`action 263 = (5,3) right, full, legal · reward 0 · continues`."""
    if bool(row["is_last"]):
        return [("last row", "bold"), ": the final observation, nothing was done after it"]
    parts: list[output.Piece] = []
    if "action" in row and not np.ndim(row["action"]):
        action = int(row["action"])
        parts.append((f"action {action}", "bold"))
        if move is not None:
            parts.append(f" = {move}")
        mask = row.get("action_mask")
        if mask is not None and np.ndim(mask) == 1 and bool(row.get("valid:action_mask", True)):
            place = action - first_action(run.schema)
            legal = 0 <= place < len(mask) and bool(mask[place])
            parts += [", ", ("legal", "green") if legal else ("not legal", "bold red")]
        parts.append(" · ")
    parts.append(f"reward {_number(row['reward'])} · ")
    ends = [name for name in ("terminated", "truncated") if row.get(name)]
    parts.append((", ".join(ends), "bold yellow") if ends else "continues")
    return parts


def _show_fields(run: Run, row: dict[str, Any], drawn: bool) -> None:
    """Every field that is not told already."""
    told = {"reward", "terminated", "truncated"}
    told |= set() if np.ndim(row.get("action", 0)) else {"action"}
    if drawn:
        told |= {f"{group}/{name}" for group in ("observation", "state") for name in _BOARD_FIELDS}
    rows: list[list[output.Piece]] = []
    for field in run.schema.fields:
        if field.name in told or (bool(row["is_last"]) and field.belongs != "observation"):
            continue
        given = bool(row.get(f"valid:{field.name}", True))
        rows.append([field.name, (_value(field, counted(field, row)), "") if given else ("null", "dim")])
    if rows:
        output.table([output.Column("field", style="dim"), output.Column("value", fold=True)], rows)


def counted(field: Field, row: dict[str, Any]) -> Any:
    """The value of a field; of a ragged one the entries that count, as text where they are characters."""
    value = row[field.name]
    if not field.ragged or field.ragged not in row:
        return value
    entries = value[: int(row[field.ragged])]
    if field.unit == TEXT and entries.ndim == 1:
        return "".join(map(chr, entries.tolist()))
    return entries


def _value(field: Field, value: Any) -> str:
    """A scalar or a short vector as it is, what is larger by its extremes."""
    if isinstance(value, str):
        return repr(value)
    array = np.asarray(value)
    if array.ndim == 0:
        return _number(array[()])
    if array.dtype == bool:
        return f"{int(array.sum()):,} of {array.size:,} true"
    if array.size <= 16:
        inside = ", ".join(_number(item) for item in array.reshape(-1))
        return f"[{inside}]" + (f" as {_shape(array.shape)}" if array.ndim > 1 else "")
    spread = f"{_number(array.min())} to {_number(array.max())}, mean {array.mean(dtype=np.float64):.4g}"
    return f"{_shape(array.shape)} {field.dtype}: {spread}, {int(np.count_nonzero(array)):,} not zero"


def _number(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        return f"{float(value):.6g}" if np.isfinite(value) else str(named(float(value)))
    return str(value)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)


def _scalar_names(run: Run) -> list[str]:
    return [field.name for field in run.schema.fields if not field.shape]


def _players_of(run: Run, episode: Episode, player: int | None) -> list[int]:
    """The players to show. Raises NotThere for one without rows in the episode."""
    if player is None:
        return sorted(episode.rows)
    if player not in episode.rows:
        have = ", ".join(str(number) for number in sorted(episode.rows)) or "none"
        raise NotThere(f"{run.path}: episode {episode.number} has no rows of player {player}; it has players {have}")
    return [player]


def _policy_name(run: Run, policy: int, version: int | None) -> str:
    name = run.policies[policy].name if policy < len(run.policies) else f"policy {policy}"
    return name if version is None else f"{name} v{version}"
