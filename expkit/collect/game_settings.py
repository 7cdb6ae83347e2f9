"""Settings as the game that is recorded wants them, where the user said nothing."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from expkit.errors import UsageError
from expkit.games import find_source
from expkit.settings.config import SETTINGS, Config, Resolved

# Of environments, which are played by one thread of Python: hundreds of games at once would not be faster.
_OF_ENVIRONMENTS = {"game.policy": "random", "game.max_steps": None, "recording.num_envs": 8}
_OF_GENERALS = ("game.players", "game.size", "game.ruleset", "game.state", "recording.threads")
_NOT_OF_GENERALS = ("game.capacity",)
_FLAGS = {setting.key: setting.flag for setting in SETTINGS}


def fitted_settings(resolved: Resolved, config: Config, fixed: Collection[str] = ()) -> Config:
    """`config` with what suits its game in place of defaults that are those of generals; `fixed` keys stay.

    Raises UsageError for an unknown game, and for a setting that it does not have.
    """
    source = find_source(config.game.source)
    if source.embedded:
        for key in _NOT_OF_GENERALS:
            if resolved.origins[key].source == "flag" and key not in fixed:
                raise UsageError(f"{_FLAGS[key]} is of environments; {config.game.source} has no such setting")
        return config
    for key in _OF_GENERALS:
        if resolved.origins[key].source == "flag" and key not in fixed:
            raise UsageError(f"{_FLAGS[key]} is of generals; {config.game.source} has no such setting, leave it out")
    for key, value in _OF_ENVIRONMENTS.items():
        if resolved.origins[key].source == "default" and key not in fixed:
            section, _, name = key.partition(".")
            changed = msgspec.structs.replace(getattr(config, section), **{name: value})
            config = msgspec.structs.replace(config, **{section: changed})
    return config
