"""`expkit config`: show the settings in force and where each comes from, write and check settings files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from expkit.commands import output
from expkit.commands.options import ConfigFile, Force, Json, resolve_for
from expkit.errors import NotTrusted, OutputExists
from expkit.settings.config import SETTINGS, load_file
from expkit.settings.document import default_yaml, json_schema, written
from expkit.system import trust

EXAMPLES = (
    ("expkit config show", "every setting in force"),
    ("expkit config show --origin", "and where each value comes from"),
    ("expkit config init -", "a commented settings file with all defaults, on stdout"),
    ("expkit config init expkit.yaml --force", "the same into a file"),
    ("expkit config check expkit.yaml", "is every key and value of a file understood?"),
    ("expkit config schema", "JSON Schema, for editors that complete and check YAML"),
)

app = typer.Typer(help="Show, write and check settings.", no_args_is_help=False)


@app.command()
def show(
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Show the settings in force: flag, then EXPKIT_* variable, then file, then default."""
    resolved = resolve_for("config", {}, config)
    if json:
        origins = {key: {"source": o.source, "name": o.name or None} for key, o in resolved.origins.items()}
        output.write_json(
            {
                "schema": "expkit.config.show/1",
                "config": resolved.config.as_dict(),
                "origins": origins,
                "digest": resolved.config.digest,
            }
        )
        return
    columns = [output.Column("setting"), output.Column("value", fold=True)]
    columns += [output.Column("from", fold=True)] if origin else [output.Column("meaning", style="dim", wide=110)]
    rows: list[list[output.Piece]] = []
    for setting in SETTINGS:
        where = resolved.origins[setting.key]
        style = "" if where.source == "default" else "bold"
        last = str(where) if origin else setting.meaning
        rows.append(
            [setting.key, (written(resolved.config.value(setting.key)), style), (last, "dim" if not style else "")]
        )
    output.table(columns, rows)
    output.line(("digest ", "dim"), resolved.config.digest)
    if not origin:
        output.hint("expkit config show --origin")


@app.command()
def init(
    path: Annotated[str, typer.Argument(metavar="PATH|-", help="Where to write; - is stdout.")] = "expkit.yaml",
    force: Force = False,
    json: Json = False,
) -> None:
    """Write a commented settings file that holds every default."""
    text = default_yaml()
    if path == "-":
        if json:
            output.write_json({"schema": "expkit.config.init/1", "path": None, "text": text})
        else:
            sys.stdout.write(text)
        return
    try:
        with open(path, "w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise OutputExists(f"{path} exists already; use --force to replace it, or choose another path") from None
    if json:
        output.write_json({"schema": "expkit.config.init/1", "path": path})
    else:
        output.line(f"wrote {path}: {len(SETTINGS)} settings")
        output.hint(f"expkit config check {output.quoted(path)}")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A YAML or JSON settings file.")], json: Json = False
) -> None:
    """Check that every key and value of a settings file is understood."""
    values = load_file(file)
    names = check_names(values)
    if json:
        body = {"path": file, "ok": True, "settings": len(values), "not_imported": names}
        output.write_json({"schema": "expkit.config.check/1", **body})
    else:
        output.line(f"{file}: ", ("ok", "green"), f", {len(values)} settings")
        for told in names:
            output.line(f"not looked at: {told}")


def check_names(values: dict[str, Any]) -> list[str]:
    """Rules, rewards and representations with their settings, which the typed tree knows only as text. Nothing is
    imported for it: returns what names code, and was therefore not looked at. Raises UsageError, ConfigError."""
    rules, settings = (values.get(f"validation.{name}") for name in ("rules", "rule_settings"))
    reward, columns = (values.get(f"rewards.{name}") for name in ("reward", "columns"))
    representation = values.get("recording.representation")
    left = []
    with trust.nothing_imported():
        if rules is not None or settings:
            from expkit.rules.registry import choose_rules

            left += _code_in(lambda: choose_rules(rules or "all", settings or {}), f"validation.rules: {rules}")
        if reward is not None or columns:
            from expkit.rewards.columns import GAME, RewardColumns

            mine = None if reward == GAME else reward
            left += _code_in(lambda: RewardColumns.parse(mine, columns or ""), f"rewards: {reward} {columns or ''}")
        if representation is not None:
            from expkit.serialize.representations import parse_representation

            told = f"recording.representation: {representation}"
            left += _code_in(lambda: parse_representation(representation), told)
    return left


def _code_in(look: Callable[[], object], told: str) -> list[str]:
    """What is told, if code would have to be imported to look at it."""
    try:
        look()
    except NotTrusted:
        return [told.strip()]
    return []


@app.command()
def schema(json: Json = False) -> None:
    """Print the JSON Schema of a settings file; with --json wrapped in an object of this command."""
    body = json_schema()
    output.write_json({"schema": "expkit.config.schema/1", "json_schema": body} if json else body)
