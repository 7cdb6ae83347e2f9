"""Processors by name: those of expkit, those of installed packages, and the user's own as `module:callable`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from expkit.errors import ConfigError, ExpkitError, did_you_mean
from expkit.pipeline.processor import FunctionProcessor, Options, Processor
from expkit.system.plugins import known_names, load_callable, load_installed

GROUP = "expkit.processors"

_BUILT_IN = {
    "validate": "Validate",
    "sanitize": "Sanitize",
    "filter": "Filter",
    "redact": "Redact",
    "n_step": "NStep",
    "discounted_return": "DiscountedReturn",
    "gae": "Gae",
    "frame_stack": "FrameStack",
    "sample_weights": "SampleWeights",
}
# As it stands in a pipeline: a name, a mapping of `kind` and options, or the processor itself.
Given = str | Mapping[str, Any] | Processor


def processor_names() -> list[str]:
    """Names that a pipeline may use: the built-in ones, then those of installed packages."""
    return known_names(GROUP, _BUILT_IN)


def options_of(kind: str) -> type[Options]:
    """The options of a built-in processor, which are the processor."""
    found: type[Options] = getattr(importlib.import_module(f"expkit.pipeline.{kind}"), _BUILT_IN[kind])
    return found


def built_in() -> dict[str, type[Options]]:
    """All built-in processors by kind."""
    return {kind: options_of(kind) for kind in _BUILT_IN}


def find_processor(given: Given, where: str = "pipeline") -> tuple[str, Processor]:
    """The name and the processor that a link of a pipeline stands for; `where` begins the messages.

    Raises ConfigError for a name or an option that is not there or is wrong, UsageError for a module that is not there.
    """
    if isinstance(given, Processor):
        return _name_of(given), given
    kind, options = _parts(given, where)
    return kind, _built_in(kind, options, where) if kind in _BUILT_IN else _others(kind, options, where)


def _name_of(made: Processor) -> str:
    """The kind of a processor that was made already, or what errors are to call it."""
    name = type(made).__name__
    if isinstance(made, Options):
        return next((kind for kind, built in _BUILT_IN.items() if built == name), name)
    return made.name if isinstance(made, FunctionProcessor) else name


def check_link(given: Any, where: str) -> None:
    """Raises ConfigError for what is no kind or mapping of a kind, and for wrong options of expkit's own. Other
    people's code is not looked for."""
    kind, options = _parts(given, where)
    if kind in _BUILT_IN:
        _built_in(kind, options, where)


def _parts(given: Any, where: str) -> tuple[str, dict[str, Any]]:
    """Kind and options. Raises ConfigError."""
    if isinstance(given, str):
        return given, {}
    if not isinstance(given, Mapping) or not isinstance(given.get("kind"), str):
        raise ConfigError(f"{where}: a link is a kind, or a mapping with a kind and its options, like 'kind: sanitize'")
    return given["kind"], {str(name): value for name, value in given.items() if name != "kind"}


def _built_in(kind: str, options: Mapping[str, Any], where: str) -> Processor:
    made = options_of(kind)
    unknown = [name for name in options if name not in made.__struct_fields__]
    if unknown:
        known = made.__struct_fields__
        hint = did_you_mean(unknown[0], known, f"it has {', '.join(known) or 'none'}", 0.5)
        raise ConfigError(f"{where}: {kind} has no option {str(unknown[0])!r}; {hint}")
    try:
        return cast(Processor, msgspec.convert(options, made))
    except msgspec.ValidationError as error:
        said = str(error).replace(" - at `$.", " at `").rstrip()
        raise ConfigError(f"{where}: {kind}: {said}") from None


def _others(kind: str, options: Mapping[str, Any], where: str) -> Processor:
    if ":" in kind:
        found: Any = load_callable(kind, "processor")
    else:
        found = load_installed(GROUP, kind)
        if found is None:
            known = processor_names()
            hint = did_you_mean(kind, known, f"there are {', '.join(known)}", 0.5)
            raise ConfigError(f"{where}: no processor is called {str(kind)!r}; {hint}, or your own as module:callable")
    if isinstance(found, Processor) and not isinstance(found, type):
        if options:
            raise ConfigError(f"{where}: {kind} takes no options, but is given {', '.join(options)}")
        return found
    try:
        made = found(**options)
    except ExpkitError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {kind} could not be made: {error}") from None
    if not isinstance(made, Processor):
        raise ConfigError(
            f"{where}: {kind} gives a {type(made).__name__}, which is no processor; "
            "decorate a function with expkit.pipeline.processor"
        )
    return made
