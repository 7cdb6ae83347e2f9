"""A board of generals as text: cells with a style each, for whoever prints them. Pure functions over arrays, no
terminal and no colour library here.

    .      plain, nobody's      a12   player a's land, 12 armies      A21   a general      ^   mountain
    +44    city, nobody's       a+44  player a's city                 ?     fog            #   obstacle in the fog
    a9>    the tile this row's action moves from, and where to
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# Values of observation/terrain and observation/owner, as the engine stores them.
PLAIN, CITY, GENERAL, MOUNTAIN, FOG, OBSTACLE = range(6)
NEUTRAL, UNKNOWN = -1, -2

DIRECTIONS = ("up", "down", "left", "right")
_ARROWS = "^v<>"

# One colour per player, told apart also by those who see no difference between red and green.
_COLORS = ("cyan", "red", "yellow", "magenta", "green", "blue", "bright_cyan", "bright_red")

Cell = tuple[str, str]
LEGEND = "A general  a own  + city  ^ mountain  # obstacle  ? fog"


class Move(NamedTuple):
    """A decoded action. `kind` is `move`, `pass` or `illegal` (outside the action space); x, y, direction and half
    hold for a move."""

    kind: str
    x: int = 0
    y: int = 0
    direction: int = 0
    half: bool = False

    def __str__(self) -> str:
        if self.kind != "move":
            return self.kind
        return f"({self.x},{self.y}) {DIRECTIONS[self.direction]}, {'half' if self.half else 'full'}"


class View(NamedTuple):
    """What is seen of a board: army int, owner and terrain int8, each (H, W)."""

    army: np.ndarray
    owner: np.ndarray
    terrain: np.ndarray

    @property
    def height(self) -> int:
        return int(self.army.shape[0])

    @property
    def width(self) -> int:
        return int(self.army.shape[1])


def decode_action(action: int, height: int, width: int) -> Move:
    """Action 0..4HW-1: tile * 4 + direction, all but one army; the next 4HW: half; 8HW: pass."""
    full = 4 * height * width
    if action == 2 * full:
        return Move("pass")
    if not 0 <= action < 2 * full:
        return Move("illegal")
    tile, direction = divmod(action % full, 4)
    return Move("move", tile % width, tile // width, direction, action >= full)


def view_of(row: Mapping[str, Any], group: str = "observation") -> View | None:
    """The view stored in one row's fields `GROUP/army`, `/owner`, `/terrain`, or None when they are not there or not
    boards."""
    parts = [row.get(f"{group}/{name}") for name in ("army", "owner", "terrain")]
    if any(part is None for part in parts):
        return None
    arrays = [np.asarray(part) for part in parts]
    if arrays[0].ndim != 2 or any(array.shape != arrays[0].shape for array in arrays):
        return None
    return View(*arrays)


def join_views(views: Sequence[View]) -> View:
    """What all players together see: each tile as someone sees it, fog where nobody does."""
    army, owner, terrain = (np.array(part) for part in views[0])
    for view in views[1:]:
        seen = np.isin(terrain, (FOG, OBSTACLE)) & ~np.isin(view.terrain, (FOG, OBSTACLE))
        army[seen], owner[seen], terrain[seen] = view.army[seen], view.owner[seen], view.terrain[seen]
    return View(army, owner, terrain)


def letter(player: int) -> str:
    """a for player 0, b for player 1, …"""
    return chr(ord("a") + player % 26)


def color_of(player: int) -> str:
    return _COLORS[player % len(_COLORS)]


def armies(count: int) -> str:
    """`37`, `1.2k`, `15k`, `2.1M`: at most four characters."""
    for limit, unit in ((1_000_000, "M"), (1000, "k")):
        if count >= limit:
            scaled = count / limit
            return f"{scaled:.1f}{unit}" if scaled < 9.95 else f"{scaled:.0f}{unit}"
    return str(count)


def cell(view: View, y: int, x: int) -> Cell:
    """Text and style of one tile."""
    terrain, owner, army = int(view.terrain[y, x]), int(view.owner[y, x]), int(view.army[y, x])
    if terrain == FOG:
        return "?", "dim"
    if terrain == OBSTACLE:
        return "#", "dim"
    if terrain == MOUNTAIN:
        return "^", "dim"
    city = "+" if terrain == CITY else ""
    if owner < 0:
        return (f"{city}{armies(army)}", "bold") if city or army else (".", "dim")
    name = letter(owner).upper() if terrain == GENERAL else letter(owner)
    style = color_of(owner)
    if terrain == GENERAL:
        style = f"bold reverse {style}"
    elif city:
        style = f"bold {style}"
    return f"{name}{city}{armies(army)}", style


def window(size: int, room: int, center: int) -> range:
    """`room` of `size` positions, as much round `center` as there is."""
    if room >= size:
        return range(size)
    start = min(max(center - room // 2, 0), size - room)
    return range(start, start + room)


def draw(view: View, action: Move | None = None, columns: int = 200, rows: int = 200) -> list[list[Cell]]:
    """The board as lines of cells, each already padded: a line of x numbers, then one line per y.

    At most `columns` characters and `rows` lines are used. Where the numbers of the lines are what does not fit, they
    are left out: 20x20 then takes 80 columns. A larger board is cut to the part round the action, or round the
    largest army.
    """
    texts = [[cell(view, y, x) for x in range(view.width)] for y in range(view.height)]
    across = max(max(len(text) for line in texts for text, _ in line), len(f"x{view.width - 1}")) + 1
    margin = len(f"y{view.height - 1}")
    if margin + across * view.width > columns >= across * view.width:
        margin = 0
    center = _center(view, action)
    shown_x = window(view.width, max((columns - margin) // across, 1), center[0])
    shown_y = window(view.height, max(rows - 1, 1), center[1])
    lines: list[list[Cell]] = [[(" " * margin, ""), *((f"x{x}".rjust(across), "dim") for x in shown_x)]]
    for y in shown_y:
        line: list[Cell] = [(f"y{y}".ljust(margin) if margin else "", "dim")]
        arrow = ""
        for x in shown_x:
            text, style = texts[y][x]
            gap = " " * (across - len(text))
            if arrow:  # of the cell to the left: it stands in the gap between the two
                line.append((arrow, "bold"))
                gap, arrow = gap[1:], ""
            if action is not None and action.kind == "move" and (x, y) == (action.x, action.y):
                style = f"{style} underline"
                arrow = _ARROWS[action.direction]
                if x == shown_x[-1]:
                    gap, arrow = gap[1:] + arrow, ""
            line += [(gap, ""), (text, style)]
        lines.append(line)
    return lines


def _center(view: View, action: Move | None) -> tuple[int, int]:
    """(x, y) that a cut board has to show."""
    if action is not None and action.kind == "move" and action.x < view.width and action.y < view.height:
        return action.x, action.y
    at = int(np.argmax(np.where(view.owner >= 0, view.army, -1)))
    return at % view.width, at // view.width


def standing(view: View) -> list[tuple[int, int, int]]:
    """(player, tiles, armies) of every player of whom a tile is seen, by player."""
    owners = sorted(int(owner) for owner in np.unique(view.owner) if owner >= 0)
    return [
        (owner, int((view.owner == owner).sum()), int(view.army[view.owner == owner].sum(dtype=np.int64)))
        for owner in owners
    ]
