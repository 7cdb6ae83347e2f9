"""Whole ticks of many games: rows written, actions chosen, moves applied, ended games replaced.

One compiled kernel serves all phases, so that games with Python policies and games without run the same code:
BOTH plays many ticks in one call; OBSERVE and APPLY are the halves of one tick, between which Python chooses;
FINISH writes the last rows of open games.
"""

from __future__ import annotations

import numpy as np

from expkit.kernels import inner, kernel
from expkit.kernels.atomics import atomic_add, load_acquire
from expkit.kernels.clock import realtime_ns
from expkit.kernels.generals_map import make_map, set_up
from expkit.kernels.generals_observe import fog_all, show_changes
from expkit.kernels.generals_policy import USER, choose
from expkit.kernels.generals_rows import (
    BUDGET,
    EXHAUSTED,
    ILLEGAL,
    INTERRUPTED,
    LOGGED,
    MAX_TICKS,
    NOW,
    OPEN_GAMES,
    PENDING,
    PHASE,
    STARTED,
    TERMINATED,
    TICKS,
    TRUNCATED,
    WRITTEN,
    Sink,
    log_episode,
    write_result,
    write_row,
)
from expkit.kernels.generals_rules import apply_all
from expkit.kernels.generals_state import (
    ACTION,
    ACTIVE,
    ALIVE,
    DIED,
    EPISODE,
    KEY,
    LIVING,
    MAX_STEPS,
    NOTES,
    OPEN,
    PLAYER,
    PLAYERS,
    ROW,
    SEES_MASK,
    TILES,
    TURN,
    game_at,
    start_draws,
    view_of,
)
from expkit.kernels.pointers import clear_at, i32_at, i64_at, i64_in, u8_at, u8_in

BOTH, OBSERVE, APPLY, FINISH = range(4)


@inner
def start_game(g):
    """Turn 0 of the game EPISODE on its own map."""
    start_draws(g)
    make_map(g)
    set_up(g)
    fog_all(g)
    clear_at(g.notes, 0, 4 * g.rules[PLAYERS] * g.rules[NOTES])


@inner
def is_legal(g, player, action):
    """Whether the mask that the player sees allows `action`, a pass included."""
    moves = 4 * g.rules[TILES]
    if action >= 2 * moves:
        return action == 2 * moves
    bit = action - moves if action >= moves else action
    return (view_of(g, player)[g.rules[SEES_MASK] + (bit >> 3)] >> (bit & 7)) & 1 == 1


@inner
def _joins(g, s, counter):
    """Whether this game plays in this tick. One that is not open first gets an episode of `counter`
    (next, limit, prefix), if there is one left and the rows of a start can be afforded."""
    control, players = s.control, g.rules[PLAYERS]
    left = control[BUDGET] - control[WRITTEN] - control[PENDING] if control[BUDGET] >= 0 else 1 << 60
    if left <= 0 or g.one[OPEN] != 0:
        return left > 0
    # A new game costs its last rows and its first ones at once: with less left, open games use it up exactly.
    if left < 2 * players and control[OPEN_GAMES] > 0:
        return False
    limit = counter[1]
    number = limit if limit >= 0 and load_acquire(counter, 0) >= limit else atomic_add(counter, 0, 1)
    if limit >= 0 and number >= limit:
        control[EXHAUSTED] = 1
        return False
    g.one[EPISODE] = counter[2] | number
    control[PENDING] += players
    start_game(g)
    log_episode(g, s, np.int64(STARTED))
    return left > players


@inner
def _begin_turn(g, s, kinds):
    """Rows of all living players, without their results; the actions of built-in players."""
    for player in range(g.rules[PLAYERS]):
        me = player * PLAYER
        if g.players[me + ALIVE] == 0:
            g.players[me + ROW] = -1
            continue
        if kinds[player] != USER:
            g.players[me + ACTION] = choose(
                kinds[player], g.rules, view_of(g, player), i32_at(g.notes, 4 * player * g.rules[NOTES]), g.scratch,
                g.one[KEY], g.one[TURN], player,
            )  # fmt: skip
        g.players[me + ROW] = write_row(g, s, player, False)


@inner
def _end_turn(g, s, kinds, actions):
    """Apply the actions, complete the waiting rows, write the last rows of those who are out."""
    count = g.rules[PLAYERS]
    for player in range(count):
        me = player * PLAYER
        if kinds[player] == USER and g.players[me + ROW] >= 0:
            g.players[me + ACTION] = actions[player]
            if not is_legal(g, player, actions[player]):
                s.control[ILLEGAL] += 1
    apply_all(g)
    show_changes(g)
    won = g.one[LIVING] <= 1
    over = won or g.one[TURN] >= g.rules[MAX_STEPS]
    for player in range(count):
        me = player * PLAYER
        if g.players[me + ROW] < 0:
            continue
        died = g.players[me + DIED] != 0
        g.players[me + DIED] = 0
        reward = -1.0 if died else 1.0 if won else 0.0
        action, truncated = g.players[me + ACTION], over and not won and not died
        write_result(s, player, g.players[me + ROW], action, reward, died or won, truncated)
        if died or over:
            write_row(g, s, player, True)
            s.control[PENDING] -= 1
    if over:
        log_episode(g, s, np.int64(TERMINATED if won else TRUNCATED))


@inner
def _interrupt(g, s):
    """Write the last rows of a game that is stopped from outside."""
    for player in range(g.rules[PLAYERS]):
        if g.players[player * PLAYER + ALIVE] != 0:
            write_row(g, s, player, True)
            s.control[PENDING] -= 1
    log_episode(g, s, np.int64(INTERRUPTED))


@inner
def _has_room(s, capacity, players, needed, entries, log_entries):
    """Whether every block has room for `needed` rows and the log for `entries` entries."""
    for player in range(players):
        if s.position[player] + needed > capacity[player]:
            return False
    return s.control[LOGGED] + entries <= log_entries


@kernel
def play(rules, games, scratch, kinds, actions, counter, control, log, memory, base, position, capacity, policy,
         columns, copies):  # fmt: skip
    """Advance all games by up to control[MAX_TICKS] ticks, or by half a tick, or write their last rows.

    rules       int64 (RULES,), games uint8 (slots, rules[GAME_BYTES]), scratch int32: generals_state
    kinds       int64 (P,) of players; actions int64 (slots, P), read where the kind is USER
    counter     int64 (3,): next episode, limit (-1 none), writer bits
    control, log, columns, copies: generals_rows; memory to policy as in RowSink

    Stops before a tick for which a block or the log might lack room, and within one when the budget is used up.
    """
    slots, players, phase = games.shape[0], rules[PLAYERS], control[PHASE]
    r, all_games, all_actions, kind = i64_in(rules, 0), u8_in(games, 0), i64_in(actions, 0), i64_in(kinds, 0)
    free = i64_in(capacity, 0)
    s = Sink(
        u8_in(memory, 0), i64_in(base, 0), i64_in(position, 0), i64_in(policy, 0), i64_in(columns, 0),
        i64_in(copies, 0), i64_in(control, 0), i64_in(log, 0), base.shape[1], copies.shape[0], log.shape[1],
    )  # fmt: skip
    control[TICKS] = 0
    active = 1
    while active and control[TICKS] < control[MAX_TICKS]:
        if phase != APPLY:
            if not _has_room(s, free, players, slots if phase == FINISH else 2 * slots, 2 * slots, log.shape[0]):
                return
            control[NOW] = realtime_ns()
        active = 0
        for slot in range(slots):
            g = game_at(r, u8_at(all_games, slot * games.shape[1]), i32_at(i64_in(scratch, 0), 0))
            if phase == FINISH:
                if g.one[OPEN] != 0:
                    _interrupt(g, s)
                continue
            if phase != APPLY:
                g.one[ACTIVE] = 1 if _joins(g, s, counter) else 0
                if g.one[ACTIVE] != 0:
                    _begin_turn(g, s, kind)
            if g.one[ACTIVE] != 0:
                active = 1
                if phase != OBSERVE:
                    _end_turn(g, s, kind, i64_at(all_actions, 8 * slot * players))
        control[TICKS] += active
