"""Rows of generals, written straight into the open blocks of a sink, and the log of starts and ends."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from expkit.kernels import inner
from expkit.kernels.generals_state import (
    ALIVE,
    EPISODE,
    OPEN,
    PLAYER,
    PLAYERS,
    ROWS,
    TURN,
    view_of,
)
from expkit.kernels.pointers import clear_at, copy_to, store_f32, store_i64, store_u8, store_u16, store_u32

# control, int64
(
    PHASE,
    MAX_TICKS,
    BUDGET,  # rows in all, -1 for no limit
    TICKS,  # played in this call
    WRITTEN,  # rows so far
    PENDING,  # last rows that open games still need
    OPEN_GAMES,
    EXHAUSTED,  # the counter has no more episodes
    ILLEGAL,
    LOGGED,  # entries in the log
    NOW,  # time stamp of this tick
) = range(11)
CONTROL = 11

# columns, int64: index in the sink of each of these
(
    C_EPISODE,
    C_STEP,
    C_POLICY,
    C_VERSION,
    C_TIME,
    C_FIRST,
    C_LAST,
    C_ACTION,
    C_REWARD,
    C_TERMINATED,
    C_TRUNCATED,
) = range(11)

# copies, int64 (n, 4): column, bytes a row, where from, byte offset there
FROM_VIEW, FROM_GAME, CLEARED = range(3)

# log, int64 (entries, LOG + 2 * P): starts and ends in order; after these, per player, outcomes and then rows
LOG_KIND, LOG_EPISODE, LOG_TIME, LOG_LENGTH = range(4)
LOG = 4
STARTED, TERMINATED, TRUNCATED, INTERRUPTED = range(4)
NO_OUTCOME = 2


class Sink(NamedTuple):
    """Pointers to the parts of a RowSink, to `control` and to the log.

    memory uint8; base int64 (P, width); position, policy int64 (P,), (P, 2); columns, copies, log as above;
    width columns in the sink, copied rows in copies, entry words in a log entry
    """

    memory: Any
    base: Any
    position: Any
    policy: Any
    columns: Any
    copies: Any
    control: Any
    log: Any
    width: Any
    copied: Any
    entry: Any


@inner
def write_row(g, s, player, last):
    """A row with the keys and the observation of one player; returns its index. The rest of it is left zero."""
    row = s.position[player]
    s.position[player] += 1
    s.control[WRITTEN] += 1
    base = player * s.width
    store_i64(s.memory, s.base[base + s.columns[C_EPISODE]] + 8 * row, g.one[EPISODE])
    store_u32(s.memory, s.base[base + s.columns[C_STEP]] + 4 * row, np.uint32(g.one[TURN]))
    store_u16(s.memory, s.base[base + s.columns[C_POLICY]] + 2 * row, np.uint16(s.policy[2 * player]))
    store_u32(s.memory, s.base[base + s.columns[C_VERSION]] + 4 * row, np.uint32(s.policy[2 * player + 1]))
    store_i64(s.memory, s.base[base + s.columns[C_TIME]] + 8 * row, s.control[NOW])
    rows = g.players[player * PLAYER + ROWS]
    store_u8(s.memory, s.base[base + s.columns[C_FIRST]] + row, np.uint8(rows == 0))
    store_u8(s.memory, s.base[base + s.columns[C_LAST]] + row, np.uint8(last))
    g.players[player * PLAYER + ROWS] = rows + 1
    view = view_of(g, player)
    for index in range(0, 4 * s.copied, 4):
        width, source = s.copies[index + 1], s.copies[index + 2]
        to = s.base[base + s.copies[index]] + width * row
        if source == FROM_VIEW:
            copy_to(s.memory, to, view, s.copies[index + 3], width)
        elif source == FROM_GAME:
            copy_to(s.memory, to, g.one, s.copies[index + 3], width)
        else:
            clear_at(s.memory, to, width)
    write_result(s, player, row, np.int64(0), 0.0, False, False)
    return row


@inner
def write_result(s, player, row, action, reward, terminated, truncated):
    """Action, reward and flags of a row whose observation stands there already."""
    base = player * s.width
    store_u32(s.memory, s.base[base + s.columns[C_ACTION]] + 4 * row, np.uint32(action))
    store_f32(s.memory, s.base[base + s.columns[C_REWARD]] + 4 * row, np.float32(reward))
    store_u8(s.memory, s.base[base + s.columns[C_TERMINATED]] + row, np.uint8(terminated))
    store_u8(s.memory, s.base[base + s.columns[C_TRUNCATED]] + row, np.uint8(truncated))


@inner
def log_episode(g, s, kind):
    """One entry of the log: an episode started, or it ended as `kind` says and the game is open no more."""
    count, at = g.rules[PLAYERS], s.control[LOGGED] * s.entry
    s.log[at + LOG_KIND] = kind
    s.log[at + LOG_EPISODE] = g.one[EPISODE]
    s.log[at + LOG_TIME] = s.control[NOW]
    s.log[at + LOG_LENGTH] = g.one[TURN]
    outcome = 1 if kind == TERMINATED else 0 if kind == TRUNCATED else NO_OUTCOME
    for player in range(count):
        me = player * PLAYER
        s.log[at + LOG + player] = outcome if g.players[me + ALIVE] != 0 else -1
        s.log[at + LOG + count + player] = g.players[me + ROWS]
    s.control[LOGGED] += 1
    started = kind == STARTED
    g.one[OPEN] = 1 if started else 0
    s.control[OPEN_GAMES] += 1 if started else -1
