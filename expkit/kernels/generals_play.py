"""Whole ticks of many games: rows written, actions chosen, moves applied, ended games replaced.

One compiled kernel serves three phases, so that games with Python policies and games without run the same code:
BOTH plays many ticks in one call; OBSERVE and APPLY are the halves of one tick, between which Python chooses.
"""

from __future__ import annotations

import numpy as np

from expkit.kernels import kernel
from expkit.kernels.atomics import atomic_add, copy_bytes, load_acquire
from expkit.kernels.clock import realtime_ns
from expkit.kernels.generals_map import make_map, set_up
from expkit.kernels.generals_observe import fog_all, show_changes
from expkit.kernels.generals_policy import USER, choose
from expkit.kernels.generals_rules import (
    ACTION,
    ACTIVE,
    ALIVE,
    ARMY,
    AT_MASK,
    AT_OWNER,
    AT_TERRAIN,
    AT_VISIBLE,
    DIED,
    EPISODE,
    KEY,
    LIVING,
    MAX_STEPS,
    OPEN,
    OWNER,
    PLAYERS,
    ROW,
    ROWS,
    SEED,
    TERRAIN,
    TILES,
    TOTAL_ARMY,
    TOTAL_LAND,
    TURN,
    apply_all,
    episode_key,
    mix,
)
from expkit.kernels.memory import clear_bytes, store_f32, store_i32, store_i64, store_u16, store_u32

BOTH, OBSERVE, APPLY, FINISH = range(4)

# control, int64
(
    PHASE,
    MAX_TICKS,
    BUDGET,  # rows in all, -1 for no limit
    TICKS,  # played in this call
    WRITTEN,  # rows so far
    PENDING,  # final rows that open games still need
    OPEN_GAMES,
    EXHAUSTED,  # the counter has no more episodes
    ILLEGAL,
    LOGGED,  # entries in the log
    NOW,
) = range(11)
CONTROL = 11

# log, int64 (entries, LOG + 2 * P): starts and ends in order, then per player outcome and rows
LOG_KIND, LOG_EPISODE, LOG_TIME, LOG_LENGTH = range(4)
LOG = 4
STARTED, TERMINATED, TRUNCATED, INTERRUPTED = range(4)
NO_OUTCOME = 2

# columns, int64: the index in the sink of what a row holds, -1 where the sink lacks it; from C_OTHERS on the
# indices of columns that the game does not know, which are cleared
(
    C_EPISODE,
    C_STEP,
    C_POLICY,
    C_VERSION,
    C_TIME,
    C_FIRST,
    C_LAST,
    C_ARMY,
    C_OWNER,
    C_TERRAIN,
    C_VISIBLE,
    C_TOTAL_ARMY,
    C_TOTAL_LAND,
    C_STATE_ARMY,
    C_STATE_OWNER,
    C_STATE_TERRAIN,
    C_MASK,
    C_ACTION,
    C_REWARD,
    C_TERMINATED,
    C_TRUNCATED,
    C_OTHERS,
) = range(22)


@kernel
def _write_row(rules, game, players, army, board, view, player, last, now, memory, base, row, widths, policy, columns):
    """The keys and the observation of one player as row `row`; action, reward and flags are left zero."""
    tiles = rules[TILES]
    store_i64(memory, base[columns[C_EPISODE]] + 8 * row, game[EPISODE])
    store_u32(memory, base[columns[C_STEP]] + 4 * row, np.uint32(game[TURN]))
    store_u16(memory, base[columns[C_POLICY]] + 2 * row, np.uint16(policy[0]))
    store_u32(memory, base[columns[C_VERSION]] + 4 * row, np.uint32(policy[1]))
    store_i64(memory, base[columns[C_TIME]] + 8 * row, now)
    memory[base[columns[C_FIRST]] + row] = 1 if players[player, ROWS] == 0 else 0
    memory[base[columns[C_LAST]] + row] = 1 if last else 0
    if columns[C_ARMY] >= 0:
        copy_bytes(memory, base[columns[C_ARMY]] + 4 * tiles * row, view, 0, 4 * tiles)
    if columns[C_OWNER] >= 0:
        copy_bytes(memory, base[columns[C_OWNER]] + tiles * row, view, rules[AT_OWNER], tiles)
    if columns[C_TERRAIN] >= 0:
        copy_bytes(memory, base[columns[C_TERRAIN]] + tiles * row, view, rules[AT_TERRAIN], tiles)
    if columns[C_VISIBLE] >= 0:
        width = (tiles + 7) >> 3
        copy_bytes(memory, base[columns[C_VISIBLE]] + width * row, view, rules[AT_VISIBLE], width)
    if columns[C_MASK] >= 0:
        width = (tiles + 1) >> 1
        copy_bytes(memory, base[columns[C_MASK]] + width * row, view, rules[AT_MASK], width)
    for column, what in ((columns[C_TOTAL_ARMY], TOTAL_ARMY), (columns[C_TOTAL_LAND], TOTAL_LAND)):
        if column >= 0:
            at = base[column] + 4 * rules[PLAYERS] * row
            for other in range(rules[PLAYERS]):
                store_i32(memory, at + 4 * other, np.int32(players[other, what]))
    if columns[C_STATE_ARMY] >= 0:
        copy_bytes(memory, base[columns[C_STATE_ARMY]] + 4 * tiles * row, army[ARMY].view(np.uint8), 0, 4 * tiles)
    if columns[C_STATE_OWNER] >= 0:
        copy_bytes(memory, base[columns[C_STATE_OWNER]] + tiles * row, board[OWNER].view(np.uint8), 0, tiles)
    if columns[C_STATE_TERRAIN] >= 0:
        copy_bytes(memory, base[columns[C_STATE_TERRAIN]] + tiles * row, board[TERRAIN].view(np.uint8), 0, tiles)
    for index in range(C_OTHERS, columns.shape[0]):
        width = widths[columns[index]]
        clear_bytes(memory, base[columns[index]] + width * row, width)
    _write_result(players, player, row, 0.0, False, False, memory, base, columns, not last)
    players[player, ROWS] += 1


@kernel
def _write_result(players, player, row, reward, terminated, truncated, memory, base, columns, acted):
    """Action, reward and flags of a row whose observation stands there already."""
    if columns[C_ACTION] >= 0:
        action = players[player, ACTION] if acted else 0
        store_u32(memory, base[columns[C_ACTION]] + 4 * row, np.uint32(action))
    if columns[C_REWARD] >= 0:
        store_f32(memory, base[columns[C_REWARD]] + 4 * row, np.float32(reward))
    if columns[C_TERMINATED] >= 0:
        memory[base[columns[C_TERMINATED]] + row] = 1 if terminated else 0
    if columns[C_TRUNCATED] >= 0:
        memory[base[columns[C_TRUNCATED]] + row] = 1 if truncated else 0


@kernel
def _log(rules, game, players, control, log, kind):
    """One entry of the log: an episode started, or ended as `kind` says."""
    count = rules[PLAYERS]
    entry = log[control[LOGGED]]
    entry[LOG_KIND] = kind
    entry[LOG_EPISODE] = game[EPISODE]
    entry[LOG_TIME] = control[NOW]
    entry[LOG_LENGTH] = game[TURN]
    for player in range(count):
        outcome = 1 if kind == TERMINATED else 0 if kind == TRUNCATED else NO_OUTCOME
        entry[LOG + player] = outcome if players[player, ALIVE] else -1
        entry[LOG + count + player] = players[player, ROWS]
    control[LOGGED] += 1


@kernel
def start_game(rules, game, players, army, board, view, view_army, memory, scratch, random):
    """Turn 0 of game[EPISODE], all of it from the seed and the episode's whole number."""
    game[KEY] = episode_key(rules[SEED], game[EPISODE])
    random[0] = mix(np.uint64(game[KEY]))
    make_map(rules, players, army, board, random, scratch)
    set_up(rules, game, players, army, board)
    fog_all(rules, game, army, board, view, view_army)
    for player in range(rules[PLAYERS]):
        for word in range(memory.shape[1]):
            memory[player, word] = 0


@kernel
def _claim(counter, control):
    """The next whole episode number of `counter` (next, limit, prefix); -1 and EXHAUSTED when there is none."""
    limit = counter[1]
    if limit >= 0 and load_acquire(counter, 0) >= limit:
        control[EXHAUSTED] = 1
        return -1
    number = atomic_add(counter, 0, 1)
    if limit >= 0 and number >= limit:
        control[EXHAUSTED] = 1
        return -1
    return number


@kernel
def _joins(rules, game, control, counter):
    """Whether this game plays in this tick; gives it an episode if it needs one (OPEN is then 2)."""
    left = control[BUDGET] - control[WRITTEN] - control[PENDING]
    limited = control[BUDGET] >= 0
    if limited and left <= 0:
        return False
    if game[OPEN]:
        return True
    # A new game costs its final rows and its first ones at once: with less left, open games use it up exactly.
    if control[EXHAUSTED] or (limited and left < 2 * rules[PLAYERS] and control[OPEN_GAMES] > 0):
        return False
    number = _claim(counter, control)
    if number < 0:
        return False
    game[EPISODE] = counter[2] | number
    game[OPEN] = 2
    control[PENDING] += rules[PLAYERS]
    control[OPEN_GAMES] += 1
    return not limited or left > rules[PLAYERS]


@kernel
def _is_legal(rules, view, action):
    """Whether the mask in `view` allows `action`, a pass included."""
    moves = 4 * rules[TILES]
    if action >= 2 * moves:
        return action == 2 * moves
    bit = action - moves if action >= moves else action
    return (view[rules[AT_MASK] + (bit >> 3)] >> (bit & 7)) & 1 == 1


@kernel
def play(
    rules,
    kinds,
    game,
    players,
    army,
    board,
    view,
    view_army,
    notes,
    scratch,
    random,
    actions,
    counter,
    control,
    log,
    memory,
    base,
    position,
    capacity,
    widths,
    policy,
    columns,
):
    """Advance all games by up to control[MAX_TICKS] ticks, or by half a tick, or write their last rows.

    The arrays of `generals_rules` with a leading axis of slots; view, view_army, notes (slots, P, …); kinds and
    actions int64 (P,) and (slots, P), the latter read where the kind is USER; memory to policy as in RowSink.
    Stops before a tick for which a block or the log might lack room, and within one when the budget is used.
    """
    slots, count = game.shape[0], rules[PLAYERS]
    phase = control[PHASE]
    control[TICKS] = 0
    while control[TICKS] < control[MAX_TICKS]:
        if phase != APPLY:
            if control[LOGGED] + 2 * slots > log.shape[0]:
                return
            for player in range(count):
                if position[player] + (1 if phase == FINISH else 2) * slots > capacity[player]:
                    return
            control[NOW] = realtime_ns()
        active = 0
        for slot in range(slots):
            g, p = game[slot], players[slot]
            if phase == FINISH:
                if g[OPEN]:
                    for player in range(count):
                        if p[player, ALIVE]:
                            _last_row(
                                rules, g, p, army[slot], board[slot], view[slot], player, control,
                                memory, base, position, widths, policy, columns,
                            )  # fmt: skip
                    _close(rules, g, p, control, log, INTERRUPTED)
                continue
            if phase != APPLY:
                g[ACTIVE] = 1 if _joins(rules, g, control, counter) else 0
                if g[OPEN] == 2:
                    g[OPEN] = 1
                    start_game(
                        rules, g, p, army[slot], board[slot], view[slot], view_army[slot], notes[slot], scratch, random
                    )
                    _log(rules, g, p, control, log, STARTED)
                if g[ACTIVE]:
                    for player in range(count):
                        p[player, ROW] = -1
                        if p[player, ALIVE]:
                            if kinds[player] != USER:
                                p[player, ACTION] = choose(
                                    kinds[player], rules, view[slot, player], view_army[slot, player],
                                    notes[slot, player], scratch, g[KEY], g[TURN], player,
                                )  # fmt: skip
                            p[player, ROW] = position[player]
                            position[player] += 1
                            control[WRITTEN] += 1
                            _write_row(
                                rules, g, p, army[slot], board[slot], view[slot, player], player, False, control[NOW],
                                memory, base[player], p[player, ROW], widths, policy[player], columns,
                            )  # fmt: skip
            active += g[ACTIVE]
            if phase != OBSERVE and g[ACTIVE]:
                _finish_turn(
                    rules, kinds, g, p, army[slot], board[slot], view[slot], view_army[slot], actions[slot], control,
                    log, memory, base, position, widths, policy, columns,
                )  # fmt: skip
        if active == 0:
            return
        control[TICKS] += 1


@kernel
def _last_row(
    rules, game, players, army, board, view, player, control, memory, base, position, widths, policy, columns
):
    row = position[player]
    position[player] += 1
    control[WRITTEN] += 1
    control[PENDING] -= 1
    _write_row(
        rules, game, players, army, board, view[player], player, True, control[NOW],
        memory, base[player], row, widths, policy[player], columns,
    )  # fmt: skip


@kernel
def _close(rules, game, players, control, log, kind):
    game[OPEN] = 0
    control[OPEN_GAMES] -= 1
    _log(rules, game, players, control, log, kind)


@kernel
def _finish_turn(
    rules, kinds, game, players, army, board, view, view_army, actions, control,
    log, memory, base, position, widths, policy, columns,
):  # fmt: skip
    """Apply the actions of one game, complete the waiting rows, write the last rows of those who are out."""
    count = rules[PLAYERS]
    for player in range(count):
        if players[player, ROW] >= 0 and kinds[player] == USER:
            players[player, ACTION] = actions[player]
            if not _is_legal(rules, view[player], actions[player]):
                control[ILLEGAL] += 1
    apply_all(rules, game, players, army, board)
    show_changes(rules, game, army, board, view, view_army)
    won = game[LIVING] <= 1
    over = won or game[TURN] >= rules[MAX_STEPS]
    for player in range(count):
        row = players[player, ROW]
        if row < 0:
            continue
        died = players[player, DIED] == 1
        players[player, DIED] = 0
        reward = -1.0 if died else 1.0 if won else 0.0
        _write_result(
            players, player, row, reward, died or won, over and not won and not died,
            memory, base[player], columns, True,
        )  # fmt: skip
        if died or over:
            _last_row(
                rules, game, players, army, board, view, player, control,
                memory, base, position, widths, policy, columns,
            )  # fmt: skip
    if over:
        _close(rules, game, players, control, log, TERMINATED if won else TRUNCATED)
