"""One game of generals played again: stepped from outside, its map drawn or given, its moves in an order that is given
too; or all of it at once, for the rewards alone."""

from __future__ import annotations

import numpy as np

from expkit.kernels import kernel
from expkit.kernels.generals_map import set_up
from expkit.kernels.generals_observe import fog_all, show_changes
from expkit.kernels.generals_play import is_legal, start_game
from expkit.kernels.generals_rules import apply_all, apply_move, eliminate, grow
from expkit.kernels.generals_state import (
    ACTION,
    ALIVE,
    CHANGES,
    DIED,
    GENERAL_TILE,
    LIVING,
    NEUTRAL,
    PLAYER,
    PLAYERS,
    game_at,
)
from expkit.kernels.pointers import i32_at, i64_in, u8_in

DRAW_MAP, TAKE_MAP, STEP = range(3)
PLAYED, FIZZLED, ILLEGAL = range(3)


@kernel
def replay(rules, games, scratch, phase, moves, checked, leaving, result):
    """Advance the one game in `games` by a phase.

    DRAW_MAP  turn 0 of the episode in ONE, on the map that its seed gives
    TAKE_MAP  turn 0 on the terrain, armies and general tiles that stand in the game
    STEP      one tick: moves, then those who leave, then growth

    rules int64, games uint8 (1, bytes), scratch int32 (planes, N): as GeneralsArrays has them
    moves    int64 (n, 2): player and action, played in this order; the first `checked` of them are refused when the
             player's mask does not allow them: then nothing is played
    leaving  int64 (m,): players; for the first time they stop playing, for the second their land turns neutral
    result   int64 (n,) out, of each move: PLAYED; FIZZLED, it was no longer possible when its turn came; ILLEGAL
    """
    g = game_at(i64_in(rules, 0), u8_in(games, 0), i32_at(i64_in(scratch, 0), 0))
    if phase == DRAW_MAP:
        start_game(g)
        return
    if phase == TAKE_MAP:
        set_up(g)
        fog_all(g)
        return
    refused = False
    for index in range(checked):
        result[index] = PLAYED if is_legal(g, moves[index, 0], moves[index, 1]) else ILLEGAL
        refused = refused or result[index] == ILLEGAL
    if refused:
        return
    for index in range(moves.shape[0]):
        result[index] = PLAYED if apply_move(g, moves[index, 0], moves[index, 1]) else FIZZLED
    for index in range(leaving.shape[0]):
        player = leaving[index]
        if g.players[player * PLAYER + ALIVE] != 0:
            g.players[player * PLAYER + ALIVE] = 0
        elif g.owner[g.players[player * PLAYER + GENERAL_TILE]] == player:
            eliminate(g, player, np.int64(NEUTRAL))
    # Counted anew: whoever is captured after he left is out only once.
    g.one[LIVING] = 0
    for player in range(g.rules[PLAYERS]):
        g.one[LIVING] += g.players[player * PLAYER + ALIVE]
    grow(g)
    show_changes(g)


@kernel
def replay_rewards(rules, games, scratch, actions, rewards):
    """Play the episode in ONE from its drawn map to the end of `actions`, or until one player is left.

    rules int64, games uint8 (1, bytes), scratch int32 (planes, N): as GeneralsArrays has them
    actions  int64 (T, P), none below 0; what the rules do not allow is played as a pass
    rewards  float32 (T, P) out: -1 for who went out in a step, 1 for who is left alone by it, else 0

    Nobody looks on, so views are not kept up to date, which is most of what a step costs.
    """
    g = game_at(i64_in(rules, 0), u8_in(games, 0), i32_at(i64_in(scratch, 0), 0))
    start_game(g)
    rewards[:] = 0.0
    for turn in range(actions.shape[0]):
        for player in range(g.rules[PLAYERS]):
            g.players[player * PLAYER + ACTION] = actions[turn, player]
            rewards[turn, player] = g.players[player * PLAYER + ALIVE]
        apply_all(g)
        for index in range(g.one[CHANGES]):
            g.touched[np.int64(g.changed[index])] = 0
        g.one[CHANGES] = 0
        won = g.one[LIVING] <= 1
        for player in range(g.rules[PLAYERS]):
            died = g.players[player * PLAYER + DIED] != 0
            g.players[player * PLAYER + DIED] = 0
            if rewards[turn, player] != 0.0:
                rewards[turn, player] = -1.0 if died else 1.0 if won else 0.0
        if won:
            return
