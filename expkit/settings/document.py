"""Settings written out: the commented default file, and the JSON Schema that editors check a file against."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from expkit.settings.config import SECTIONS, SETTINGS, BoardSize, Config, Duration, Links, RuleSettings, Size, expected
from expkit.system.units import format_size, parse_size


def written(value: Any) -> str:
    """A value as a settings file has it: `256MiB`, `90s`, `true`, `null`; reading it back gives the same value."""
    if isinstance(value, Size):
        text = format_size(value).replace(".0 ", "").replace(" ", "")
        return text if value and parse_size(text) == value else str(int(value))
    if isinstance(value, Duration):
        for unit, seconds in (("d", 86400), ("h", 3600), ("m", 60)):
            if value and value % seconds == 0:
                return f"{value / seconds:g}{unit}"
        return f"{float(value)!r}s".replace(".0s", "s")
    if isinstance(value, str):
        return str(value) or '""'
    return json.dumps(value)


def default_yaml() -> str:
    """Every setting with its default, meaning, flag and variable; loads as the defaults."""
    lines = [
        "# Settings of expkit. Read with --config FILE, or by EXPKIT_CONFIG=FILE.",
        "# A flag wins over a variable EXPKIT_*, that over this file, and this file over the default.",
    ]
    for section in SECTIONS:
        about = (type(getattr(Config(), section)).__doc__ or "").splitlines()[0]
        lines += ["", f"# {about}", f"{section}:"]
        for setting in SETTINGS:
            if setting.key.startswith(f"{section}."):
                name = setting.key.partition(".")[2]
                flag = "" if setting.flag == "SOURCE" else f"; {setting.flag}"
                lines.append(f"  # {setting.meaning}{flag}; {setting.variable}; {expected(setting)}")
                lines.append(f"  {name}: {written(setting.default)}")
    return "\n".join(lines) + "\n"


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a settings file. Sizes and durations are numbers or text with a unit."""
    sections: dict[str, Any] = {}
    for section in SECTIONS:
        about = (type(getattr(Config(), section)).__doc__ or "").splitlines()[0]
        sections[section] = _object(about)
    for setting in SETTINGS:
        section, _, name = setting.key.partition(".")
        leaf = msgspec.json.schema(setting.kind, schema_hook=_schema_of)
        default = list(setting.default) if isinstance(setting.default, Links) else setting.default
        plain = default is None or type(default) in (bool, int, str, list, RuleSettings)
        sections[section]["properties"][name] = {**leaf, "default": default if plain else written(default)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "settings of expkit",
        **_object("A YAML or JSON file read with --config."),
        "properties": sections,
    }


def _object(description: str) -> dict[str, Any]:
    return {"type": "object", "description": description, "additionalProperties": False, "properties": {}}


def _schema_of(kind: type) -> dict[str, Any]:
    if kind is Size:
        return {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9.eE_]+ *[A-Za-z]*$"}]}
    if kind is Duration:
        return {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": "^[0-9.eE_]+ *[A-Za-z]*$"}]}
    if kind is RuleSettings:
        thresholds = {"type": "object", "additionalProperties": {"type": ["number", "string"]}}
        by_rule = {"type": "object", "additionalProperties": {"anyOf": [{"type": "string"}, thresholds]}}
        return {"anyOf": [by_rule, {"type": "string"}]}
    if kind is BoardSize:
        return {"type": "string", "pattern": "^[0-9]{1,4}[xX][0-9]{1,4}$"}
    if kind is Links:
        return {"type": "array", "items": {"anyOf": _link_schemas()}}
    raise TypeError(f"no JSON Schema for {kind.__name__}")


def _link_schemas() -> list[dict[str, Any]]:
    """A link of a pipeline: a name, a processor of expkit with its options, or somebody else's."""
    from expkit.pipeline.kinds import built_in

    known = built_in()
    out: list[dict[str, Any]] = [{"type": "string"}]
    for kind, options in known.items():
        tree = msgspec.json.schema(options)["$defs"][options.__name__]
        properties = {"kind": {"const": kind}, **tree["properties"]}
        about = str(tree["description"]).splitlines()[0]
        required = ["kind", *tree.get("required", [])]
        out.append({**_object(about), "properties": properties, "required": required})
    others = {"type": "string", "not": {"enum": list(known)}}
    return [*out, {"type": "object", "properties": {"kind": others}, "required": ["kind"]}]
