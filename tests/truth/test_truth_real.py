"""Real environments, those that are installed (extra `envs`), through the harness: 0 differences."""

from __future__ import annotations

from pathlib import Path

import pytest
from truth_real import FAMILIES, NotMade, compare

from expkit.errors import SchemaError

# Of several agents in one Gymnasium environment, whose rewards are a tuple.
REFUSED = {"intersection-multi-agent": "not one number"}
# Of families that take long: every which environment, and steps of each. All of them were compared once.
EVERY = {"atari": 32, "highway": 2, "minigrid": 3, "openspiel": 2}
STEPS = {"atari": 10, "highway": 10, "zoo_butterfly": 4}


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("family", FAMILIES)
def test_real_environments(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where MuJoCo writes a log
    try:
        games = FAMILIES[family]()
    except ImportError as error:
        pytest.skip(f"{error}; pip install 'expkit[envs]'")
    compared, not_made, different = 0, [], []
    for place, (name, make) in enumerate(games.items()):
        if place % EVERY.get(family, 1):
            continue
        refusal = next((words for beginning, words in REFUSED.items() if name.startswith(beginning)), None)
        try:
            if refusal is None:
                compared += bool(compare(make, STEPS.get(family, 24), compacted=place % 8 == 0))
                continue
            with pytest.raises(SchemaError, match=refusal):
                compare(make)
        except NotMade as error:
            not_made.append(f"{name}: {error}")
        except Exception as error:
            different.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
    assert not different
    if not compared:
        pytest.skip("; ".join(not_made)[:300])
