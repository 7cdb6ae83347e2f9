"""The built-in players: legal, and as strong as promised."""

from __future__ import annotations

from collections import Counter

import pytest
from generals_games import outcomes, play_episodes

from expkit.games.generals import GeneralsConfig


def test_hunter_beats_expander_in_95_of_100_games() -> None:
    for policies, winner in ((["hunter", "expander"], "0"), (["expander", "hunter"], "1")):
        ends, _ = outcomes(GeneralsConfig(), policies, 100, seed=11)
        assert sum(end.outcome[winner] == 1 for end in ends) >= 95


def test_default_games_end_by_capture() -> None:
    ends, _ = outcomes(GeneralsConfig(), ["hunter"], 200, seed=5)
    kinds = Counter(end.ended for end in ends)
    assert kinds["terminated"] >= 180
    lengths = sorted(end.length for end in ends)
    assert lengths[100] < 300
    assert len({end.outcome["0"] for end in ends}) >= 2


def test_more_players_are_eliminated_one_after_the_other() -> None:
    ends, _ = outcomes(GeneralsConfig(players=4), ["hunter"], 60, seed=5)
    out = [sum(outcome == -1 for outcome in end.outcome.values()) for end in ends]
    assert sum(out) > 60
    assert {len(set(end.rows.values())) > 1 for end in ends} >= {True}
    assert any(end.ended == "terminated" for end in ends)


@pytest.mark.parametrize("policy", ["random", "expander", "hunter"])
@pytest.mark.parametrize("players", [2, 16])
def test_actions_are_legal_on_any_board(policy: str, players: int) -> None:
    for height, width, ruleset in ((12, 12, "generals.io"), (5, 64, "go-system"), (64, 5, "generals.io")):
        config = GeneralsConfig(players=players, height=height, width=width, max_steps=120, ruleset=ruleset)
        game, tables, *_ = play_episodes(config, [policy], 2)
        for table in tables:
            acted = ~table["is_last"]
            masks = game.schema.unpack("action_mask", table["action_mask"][acted])
            assert masks[range(len(masks)), table["action"][acted]].all()


def test_on_the_largest_board_too() -> None:
    config = GeneralsConfig(players=16, height=64, width=64, max_steps=300)
    ends, _ = outcomes(config, ["hunter"], 2, seed=1)
    assert [end.length for end in ends] == [300, 300]
