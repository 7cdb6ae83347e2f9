"""Environments by name: `gymnasium:CartPole-v1`, `pettingzoo:classic/connect_four_v3`, `my_module:make_env`."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import warnings
from typing import Any

from expkit.errors import MissingExtra, UsageError
from expkit.system import trust
from expkit.system.extras import require
from expkit.system.plugins import load_callable


def make_environment(source: str) -> Any:
    """A new environment, single, AEC or Parallel. Raises UsageError for a name that is none, MissingExtra."""
    library, _, name = source.partition(":")
    if not name:
        raise UsageError(f"source {source!r}: name the environment after the colon, like {EXAMPLE[library]}")
    if library == "gymnasium":
        return _gymnasium(name)
    if library == "pettingzoo":
        return _pettingzoo(name)
    env = load_callable(source, "source")()
    if hasattr(env, "single_observation_space"):
        raise UsageError(f"source {source!r}: a vector environment; give one that makes a single one, and --num-envs")
    return env


EXAMPLE = {"gymnasium": "gymnasium:CartPole-v1", "pettingzoo": "pettingzoo:classic/connect_four_v3"}


def _gymnasium(name: str) -> Any:
    if ":" in name:  # Gymnasium imports the module before the colon
        trust.check(f"gymnasium:{name}", "source")
    gymnasium = require("gymnasium", "gym", f"gymnasium:{name}")
    try:
        return gymnasium.make(name)
    except gymnasium.error.DependencyNotInstalled as error:
        raise MissingExtra(f"gymnasium:{name}: {_line(error)}") from None
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise UsageError(f"gymnasium:{name}: {_line(error)}") from None


def _pettingzoo(name: str) -> Any:
    """By the path of its module; the Parallel form where there is one, for agents who act at once."""
    require("pettingzoo", "zoo", f"pettingzoo:{name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # these modules tell of a registry, new in 1.27
        path = f"pettingzoo.{name.replace('/', '.')}"
        try:
            module = importlib.import_module(path)
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and error.name and path.startswith(error.name):
                raise UsageError(f"pettingzoo:{name}: there is no such environment{_near(name)}") from None
            raise MissingExtra(f"pettingzoo:{name}: {_line(error)}") from None
    make = getattr(module, "parallel_env", None) or getattr(module, "env", None)
    if make is None:
        raise UsageError(f"pettingzoo:{name}: there is no environment in {path}{_near(name)}")
    return make()


def _near(name: str) -> str:
    """What may have been meant, among the modules that come with PettingZoo."""
    known = []
    for family in ("classic", "butterfly", "sisl", "atari"):
        try:
            package = importlib.import_module(f"pettingzoo.{family}")
        except ImportError:
            continue
        known += [f"{family}/{one.name}" for one in pkgutil.iter_modules(package.__path__) if "_v" in one.name]
    last = name.rpartition("/")[2]
    same = [one for one in known if one.rpartition("/")[2] == last]
    near = same or difflib.get_close_matches(name, known, 1, 0.5)
    return f"; did you mean {near[0]}?" if near else f"; like {EXAMPLE['pettingzoo'].partition(':')[2]}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
