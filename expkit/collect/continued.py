"""Settings for going on with a run: what decides its games and its rows is the run's, the rest is today's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from expkit.errors import SchemaError, UsageError
from expkit.runs.layout import RunInfo
from expkit.settings.config import SETTINGS, Config, Resolved, RewardSettings, links_of

# A change of one of these would be another game, or rows of another schema.
OF_THE_RUN = (
    "game.source",
    "game.players",
    "game.size",
    "game.max_steps",
    "game.capacity",
    "game.ruleset",
    "game.state",
    "game.seed",
    "recording.representation",
    "pipeline.processors",
    "rewards.reward",
    "rewards.columns",
)
TAKEN_OVER = (*OF_THE_RUN, "game.policy")
_FLAGS = {setting.key: "SOURCE" if setting.flag == "SOURCE" else setting.flag for setting in SETTINGS}


def continued_settings(resolved: Resolved, run: Path, info: RunInfo) -> Config:
    """`resolved` with the run's own game in place of defaults; a policy that is named may be another one.

    Raises SchemaError for a setting that contradicts the run, UsageError for a run that `Session` did not make.
    """
    stored = stored_settings(run, info)
    sections: dict[str, dict[str, Any]] = {"game": {}, "recording": {}, "pipeline": {}, "rewards": {}}
    for key in TAKEN_OVER:
        origin = resolved.origins[key]
        if origin.source == "default" and key in stored:
            section, _, name = key.partition(".")
            sections[section][name] = stored[key]
        elif key in OF_THE_RUN and key in stored and resolved.config.value(key) != stored[key]:
            raise _contradiction(run, key, resolved.config.value(key), stored[key], str(origin))
    config = resolved.config
    taken = {name: msgspec.structs.replace(getattr(config, name), **values) for name, values in sections.items()}
    return msgspec.structs.replace(config, **taken)


def check_continued(config: Config, run: Path, info: RunInfo) -> None:
    """Raises SchemaError when `config` would play another game than the run holds; a seed left out is the run's."""
    for key, value in stored_settings(run, info).items():
        if key in OF_THE_RUN and config.value(key) not in (value, None):
            raise _contradiction(run, key, config.value(key), value, "given")


def stored_settings(run: Path, info: RunInfo) -> dict[str, Any]:
    """Settings by key as the run was recorded with. Raises UsageError for a run of another origin."""
    game = info.config.get("game")
    if not isinstance(game, dict) or game.get("source") != info.source:
        raise UsageError(
            f"{run} was not made by expkit record (source {info.source}); go on with it by Recorder(mode='a')"
        )
    links = (info.config.get("pipeline") or {}).get("processors")
    tree = {
        "game": {**game, "seed": info.seed},
        "recording": info.config.get("recording") or {},
        "pipeline": {"processors": links_of(links, f"{run}: pipeline")},
        "rewards": msgspec.to_builtins(RewardSettings()) | (info.config.get("rewards") or {}),
    }
    found = {key: tree[key.partition(".")[0]].get(key.partition(".")[2]) for key in TAKEN_OVER}
    return {key: value for key, value in found.items() if value is not None}


def _contradiction(run: Path, key: str, given: Any, stored: Any, origin: str) -> SchemaError:
    return SchemaError(
        f"{_FLAGS[key]} is {_text(given)} ({origin}), but {run} was recorded with {_text(stored)}; "
        "leave it out, or record into a new run"
    )


def _text(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
