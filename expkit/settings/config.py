"""Settings: one typed tree, filled by flag > `EXPKIT_*` variable > file > default, with the origin of each value.

Every setting is one field below. Its flag and its variable follow from its place in the tree:
`shards.size` is `--shard-size` and `EXPKIT_SHARD_SIZE`; where the plain rule would not give the word on the
command line, the field names its flag. `resolve` is the one way to a `Config`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from expkit.errors import ConfigError, NotThere, UsageError, did_you_mean, quoted
from expkit.settings import yaml12
from expkit.settings.values import BoardSize, Duration, Links, RuleSettings, Size
from expkit.system import trust
from expkit.system.units import parse_board_size, parse_count, parse_duration, parse_size

Positive = Annotated[int, Meta(ge=1)]


def _about(meaning: str, flag: str = "") -> Meta:
    return Meta(description=meaning, extra={"flag": flag} if flag else None)


class GameSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is played."""

    source: Annotated[str, _about("generals, gymnasium:ID, pettingzoo:ID or module:callable", "SOURCE")] = "generals"
    players: Annotated[int, Meta(ge=1, le=16), _about("players of one game")] = 2
    size: Annotated[BoardSize, _about("board as HEIGHTxWIDTH")] = BoardSize("20x20")
    max_steps: Annotated[Positive | None, _about("steps until a game is truncated, or an environment cut")] = 500
    capacity: Annotated[Positive, _about("entries there is room for in a Sequence or Graph of an environment")] = 64
    ruleset: Annotated[Literal["generals.io", "go-system"], _about("rules of generals")] = "generals.io"
    seed: Annotated[
        Annotated[int, Meta(ge=0)] | None, _about("every game follows from it; a random one is stored when left out")
    ] = None
    policy: Annotated[str, _about("hunter, expander, random or module:callable; one per player with commas")] = "hunter"
    state: Annotated[bool, _about("record the whole truth too, as state/...")] = False


class RecordingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is recorded, and by how many games at once."""

    rows: Annotated[Positive | None, _about("stop after so many rows")] = None
    episodes: Annotated[Positive | None, _about("record episodes 0 to N-1, or the next N, then stop")] = None
    duration: Annotated[Duration | None, _about("stop after this time")] = None
    forever: Annotated[bool, _about("go on until a signal comes")] = False
    append: Annotated[bool, _about("go on with a run that is there; one that is not is begun")] = False
    num_envs: Annotated[Positive, _about("games at once")] = 64
    threads: Annotated[int, Meta(ge=0), _about("threads that play; 0 is one per core but one")] = 0
    representation: Annotated[
        str,
        _about(
            "what is stored of a board: raw, planes, planes-float16, planes-uint8, flat or module:callable; "
            "planes(army_scale=255) has settings"
        ),
    ] = "raw"


class PipelineSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is done to rows before they are written."""

    processors: Annotated[Links, _about("processors that rows go through, in order", "--pipeline")] = Links()


class RewardSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an action is said to be worth."""

    reward: Annotated[
        str, _about("what is stored as reward: game, sparse, weighted, module:callable, or a sum of them")
    ] = "game"
    columns: Annotated[
        str, _about("more columns, reward/NAME: NAME=REWARD, with semicolons between", "--reward-column")
    ] = ""


class BufferSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rings between game and disk."""

    memory: Annotated[Size, _about("bytes of all buffers together", "--memory")] = Size(512 << 20)
    overflow: Annotated[
        Literal["block", "drop-oldest", "drop-newest", "spill"], _about("when the disk is slower", "--overflow")
    ] = "block"


class ShardSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files of a run: when one is closed, when rows are durable, how hard they are compressed."""

    size: Annotated[Size, _about("close a shard at this size; 0 is never", "--shard-size")] = Size(256 << 20)
    rows: Annotated[int, Meta(ge=0), _about("close a shard at so many rows; 0 is never", "--shard-rows")] = 0
    age: Annotated[Duration, _about("close a shard at this age; 0 is never", "--shard-age")] = Duration(3600)
    sync: Annotated[Literal["none", "interval", "block"], _about("when rows are made durable", "--sync")] = "interval"
    flush_interval: Annotated[Duration, _about("time between syncs under interval", "--flush-interval")] = Duration(1)
    level: Annotated[int, Meta(ge=1, le=19), _about("zstd level", "--level")] = 1
    frame_rows: Annotated[
        int, Meta(ge=1, le=65536), _about("rows of a wide column that are compressed together", "--frame-rows")
    ] = 512


class RetentionSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is kept, and for how long: what a recording stops at or makes room for, and what prune takes out."""

    min_free: Annotated[Size, _about("stop before less than this is free", "--min-free")] = Size(2 << 30)
    max_total: Annotated[Size | None, _about("shards of the run may take this much", "--max-total")] = None
    on_full: Annotated[
        Literal["stop", "prune"],
        _about("when one of the two is reached: stop, or prune the oldest episodes", "--on-full"),
    ] = "stop"
    max_age: Annotated[Duration | None, _about("prune takes out episodes that ended longer ago", "--max-age")] = None
    keep_episodes: Annotated[
        Annotated[int, Meta(ge=0)] | None, _about("prune keeps so many, the newest", "--keep-episodes")
    ] = None


class ValidationSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What recorded data is asked."""

    rules: Annotated[str, _about("rules that apply: ids, their beginnings, module:callable or all, with commas")] = (
        "all"
    )
    rule_settings: Annotated[
        RuleSettings, _about("by rule off, error, warn or info, or its thresholds; see expkit validate --explain all")
    ] = RuleSettings()


class LoggingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Log lines on stderr."""

    format: Annotated[Literal["text", "json"], _about("how log lines look", "--log-format")] = "text"
    verbosity: Annotated[int, Meta(ge=0, le=2), _about("0 warnings, 1 (-v) progress of parts, 2 (-vv) all", "-v")] = 0


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings."""

    game: GameSettings = GameSettings()
    recording: RecordingSettings = RecordingSettings()
    pipeline: PipelineSettings = PipelineSettings()
    rewards: RewardSettings = RewardSettings()
    buffer: BufferSettings = BufferSettings()
    shards: ShardSettings = ShardSettings()
    retention: RetentionSettings = RetentionSettings()
    validation: ValidationSettings = ValidationSettings()
    logging: LoggingSettings = LoggingSettings()

    def as_dict(self) -> dict[str, Any]:
        """The tree as JSON values: sizes in bytes, durations in seconds."""
        return {section: msgspec.to_builtins(getattr(self, section), enc_hook=_encode) for section in SECTIONS}

    def value(self, key: str) -> Any:
        """The value at `shards.size`."""
        section, _, name = key.partition(".")
        return getattr(getattr(self, section), name)

    @property
    def digest(self) -> str:
        """16 hex digits that differ when any setting differs."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


SECTIONS = Config.__struct_fields__


class Setting(NamedTuple):
    """One leaf of the tree. `parameter` is the flag as a Python name: `shard_size`."""

    key: str
    kind: Any
    default: Any
    meaning: str
    flag: str

    @property
    def parameter(self) -> str:
        return {"SOURCE": "source", "-v": "verbosity"}.get(self.flag, self.flag.lstrip("-").replace("-", "_"))

    @property
    def variable(self) -> str:
        return {"-v": "EXPKIT_VERBOSITY"}.get(self.flag, f"EXPKIT_{self.parameter.upper()}")


class Origin(NamedTuple):
    """Where a value comes from: `default`, `file` (name: its path), `env` (the variable) or `flag` (the flag)."""

    source: Literal["default", "file", "env", "flag"]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.source} {self.name}".strip()


class Resolved(NamedTuple):
    """The settings in force. `origins` by key; `warnings` are lines worth showing."""

    config: Config
    origins: dict[str, Origin]
    warnings: list[str]


def _encode(value: Any) -> Any:
    """Size, Duration, BoardSize and RuleSettings as the plain types they extend."""
    if isinstance(value, dict):
        return dict(value)
    return int(value) if isinstance(value, int) else float(value) if isinstance(value, float) else str(value)


def _leaves() -> Iterator[Setting]:
    for section in SECTIONS:
        struct = type(getattr(Config(), section))
        hints = get_type_hints(struct, include_extras=True)
        for name in struct.__struct_fields__:
            about = [part for part in hints[name].__metadata__ if part.description is not None][-1]
            flag = (about.extra or {}).get("flag") or f"--{name.replace('_', '-')}"
            yield Setting(f"{section}.{name}", hints[name], getattr(struct(), name), about.description or "", flag)


SETTINGS: tuple[Setting, ...] = tuple(_leaves())
_BY_KEY = {setting.key: setting for setting in SETTINGS}
_BY_PARAMETER = {setting.parameter: setting for setting in SETTINGS}
_BY_VARIABLE = {setting.variable: setting for setting in SETTINGS}
# Variables that are read elsewhere and are no settings.
OTHER_VARIABLES = (
    "EXPKIT_CONFIG", "EXPKIT_CACHE_DIR", "EXPKIT_COMPLETE", "EXPKIT_REPLAYS", "EXPKIT_UPDATE_DOCS",
    "EXPKIT_UPDATE_SPEC", "EXPKIT_FAULT_REPORT", "EXPKIT_FUZZ_SECONDS", "EXPKIT_STRESS_ROWS", "EXPKIT_MUTANT",
    "EXPKIT_SCHEDULES", "EXPKIT_READ_FAULTS",
)  # fmt: skip
_ENV_WORDS = {"1": True, "yes": True, "on": True, "0": False, "no": False, "off": False}


def _decode(kind: type, value: Any) -> Any:
    """msgspec's hook for Size, Duration, BoardSize and RuleSettings. Raises ValueError."""
    if isinstance(value, bool):
        raise ValueError("a truth value")
    if kind is Size and isinstance(value, int | str):
        return Size(parse_size(value))
    if kind is Duration and isinstance(value, int | float | str):
        return Duration(parse_duration(value))
    if kind is BoardSize and isinstance(value, str):
        return BoardSize("{}x{}".format(*parse_board_size(value)))
    if kind is RuleSettings and isinstance(value, Mapping | str):
        return _rule_settings(value)
    raise ValueError("another type")


def _rule_settings(value: Mapping[str, Any] | str) -> RuleSettings:
    """Of the mapping itself, or of `ID=SEVERITY` and `ID.THRESHOLD=NUMBER` with commas. Raises ValueError."""
    if isinstance(value, str):
        out = RuleSettings()
        for part in filter(None, (part.strip() for part in value.split(","))):
            key, is_set, text = part.partition("=")
            id, _, name = key.strip().partition(".")
            if not is_set or not id:
                raise ValueError("no setting of a rule")
            # `off` is a word here, and no truth value.
            out.setdefault(id, {})[name or "severity"] = yaml12.scalar(text.strip())
        return out
    for id, told in value.items():
        members = told.values() if isinstance(told, Mapping) else [told]
        if not isinstance(id, str) or any(isinstance(one, Mapping | list) or one is None for one in members):
            raise ValueError("no settings of a rule")
    return RuleSettings({id: dict(told) if isinstance(told, Mapping) else told for id, told in value.items()})


def _bare(kind: Any) -> tuple[Any, bool]:
    """The type under Annotated and `| None`, and whether None is allowed."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if type(None) in get_args(kind):
        return _bare(next(part for part in get_args(kind) if part is not type(None)))[0], True
    return kind, False


def expected(setting: Setting) -> str:
    """What a value has to be, in words."""
    kind, optional = _bare(setting.kind)
    if get_origin(kind) is Literal:
        words = f"one of {', '.join(get_args(kind))}"
    else:
        words = {
            Size: "a size like 64MiB",
            Duration: "a duration like 90s or 8h",
            BoardSize: "HEIGHTxWIDTH, like 20x20",
            Links: "a list of processors, like [validate, {kind: redact, columns: [state]}]",
            RuleSettings: "rules with what holds for them, like {value/balance: off}",
            bool: "true or false",
            int: "a whole number" + _bounds(setting.kind),
            float: "a number",
        }.get(kind, "text")
    return f"{words}, or null" if optional else words


def _bounds(kind: Any) -> str:
    """` of at least 1`, ` from 1 to 16`, from the Meta of a type."""
    meta = next((part for part in _metas(kind) if part.ge is not None), None)
    if meta is None:
        return ""
    return f" of at least {meta.ge}" if meta.le is None else f" from {meta.ge} to {meta.le}"


def _metas(kind: Any) -> Iterator[Meta]:
    if get_origin(kind) is Annotated:
        yield from kind.__metadata__
    for part in get_args(kind):
        if not isinstance(part, str):
            yield from _metas(part)


def _convert(setting: Setting, value: Any, where: str) -> Any:
    if _bare(setting.kind)[0] is Links:
        return links_of(value, f"{where}: {setting.key}")
    try:
        if _bare(setting.kind)[0] is int and isinstance(value, str | float):
            value = parse_count(value)
        return msgspec.convert(value, setting.kind, strict=True, dec_hook=_decode)
    except (msgspec.ValidationError, UsageError, ValueError, OverflowError):
        kind, _ = _bare(setting.kind)
        near = ""
        if get_origin(kind) is Literal and isinstance(value, str):
            hint = did_you_mean(value, get_args(kind))
            near = f"; {hint}" if hint else ""
        given = json.dumps(value, ensure_ascii=False, default=str)
        given = given if len(given) <= 60 else f"{given[:57]}..."
        raise ConfigError(f"{where}: {setting.key} is {given}, but has to be {expected(setting)}{near}") from None


def links_of(value: Any, where: str) -> Links:
    """The links of a pipeline from a list, one link alone, or either as YAML text; None is none. `where` begins the
    messages. Raises ConfigError for a link that is not understood; of those that are not expkit's only the form is
    looked at."""
    if isinstance(value, str):
        value = yaml12.load(value, where)
    listed = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    if listed:
        from expkit.pipeline.kinds import check_link  # NumPy, which nobody needs to show settings

        for place, link in enumerate(listed, 1):
            check_link(link, f"{where}, link {place}")
    return Links(listed)


def _flatten(tree: Any, name: str) -> Iterator[tuple[Setting, Any]]:
    """Leaves of a settings file. Raises ConfigError for what is no setting, naming the nearest one."""
    if tree is None:
        return
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{name}: has to be sections of settings, like 'game:'; see expkit config init -")
    for section, members in tree.items():
        if section not in SECTIONS:
            raise ConfigError(f"{name}: unknown key '{section}'{_nearest(str(section))}")
        if members is None:
            continue
        if not isinstance(members, Mapping):
            raise ConfigError(f"{name}: {section} is a section; put its settings below it, indented")
        for key, value in members.items():
            path = f"{section}.{key}"
            if path not in _BY_KEY:
                raise ConfigError(f"{name}: unknown key '{path}'{_nearest(path)}")
            yield _BY_KEY[path], value


def _nearest(path: str) -> str:
    """The setting meant: by the last word anywhere in the tree, else by the whole path."""
    last = path.rpartition(".")[2].replace("-", "_")
    for setting in SETTINGS:
        if last in (setting.key.rpartition(".")[2], setting.parameter):
            return f"; did you mean {setting.key}?"
    if "." not in path:
        return "; " + did_you_mean(path, SECTIONS, f"there are {', '.join(SECTIONS)}")
    return "; " + did_you_mean(path.replace("-", "_"), _BY_KEY, "see expkit config show for all", 0.5)


def load_file(path: Path) -> dict[str, Any]:
    """Settings of a YAML or JSON file as {key: typed value}; those of a run's `run.yaml` play its episodes again.

    Raises ConfigError, NotThere, OSError.
    """
    if path.is_dir():
        inside = next((name for name in ("run.yaml", "expkit.yaml") if (path / name).is_file()), "")
        raise ConfigError(f"{path} is a folder; name a settings file{f', like {path / inside}' if inside else ''}")
    try:
        if path.suffix == ".json":
            tree = msgspec.json.decode(yaml12.read_bounded(path))
        else:
            tree = yaml12.load_file(path)
    except FileNotFoundError:
        raise NotThere(f"{path}: no such settings file; write one with: expkit config init {quoted(path)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from None
    settings = _settings_of_run(tree)
    if settings is tree:  # else they are the words of whoever recorded the run
        trust.tell(str(tree))
    tree = settings
    return {setting.key: _convert(setting, value, str(path)) for setting, value in _flatten(tree, str(path))}


def _settings_of_run(tree: Any) -> Any:
    """Of the description of a run what it was recorded with, and the seed that was drawn for it; else `tree`."""
    if not isinstance(tree, Mapping) or not {"run", "config", "schema"} <= tree.keys():
        return tree
    run, config = tree["run"], tree["config"]
    if not isinstance(run, Mapping) or not isinstance(config, Mapping):
        return tree
    given = {
        section: {key: value for key, value in members.items() if value is not None}
        if isinstance(members, Mapping)
        else members
        for section, members in config.items()
    }
    if isinstance(given.get("game"), dict) and run.get("seed") is not None:
        given["game"]["seed"] = run["seed"]
    if isinstance(given.get("recording"), dict):
        given["recording"].pop("append", None)  # the run to go on with is another one
    if "guard" in given:  # which is what the section was called in the first runs
        given.setdefault("retention", given.pop("guard"))
    return given


def _from_environment(environ: Mapping[str, str], warnings: list[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for variable in sorted(environ):
        if not variable.startswith("EXPKIT_") or variable in OTHER_VARIABLES:
            continue
        setting = _BY_VARIABLE.get(variable)
        if setting is None:
            hint = did_you_mean(variable, _BY_VARIABLE)
            if hint:
                warnings.append(f"the variable {variable} is no setting and has no effect; {hint}")
            continue
        text = environ[variable]
        kind, optional = _bare(setting.kind)
        value: Any = text
        if kind is bool:
            value = _ENV_WORDS.get(text.lower(), yaml12.scalar(text))
        elif kind in (int, float) or (optional and text in ("", "~", "null")):
            value = yaml12.scalar(text)
        out[setting.key] = _convert(setting, value, variable)
    return out


def resolve(
    flags: Mapping[str, Any] | None = None,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Resolved:
    """The settings in force.

    flags    by parameter (`shard_size`) or key (`shards.size`); None means the flag was not given
    file     YAML, or JSON by its suffix; when None, the variable EXPKIT_CONFIG may name one
    environ  os.environ when None

    Raises ConfigError for an unknown key or a wrong value, naming the key, where it stands and what is expected;
    NotThere for a file that does not exist.
    """
    environ = os.environ if environ is None else environ
    if file is None and environ.get("EXPKIT_CONFIG"):
        file = Path(environ["EXPKIT_CONFIG"])
    warnings: list[str] = []
    values: dict[str, Any] = {setting.key: setting.default for setting in SETTINGS}
    origins = {setting.key: Origin("default") for setting in SETTINGS}
    if file is not None:
        for key, value in load_file(file).items():
            values[key], origins[key] = value, Origin("file", str(file))
    for key, value in _from_environment(environ, warnings).items():
        values[key], origins[key] = value, Origin("env", _BY_KEY[key].variable)
    for name, value in (flags or {}).items():
        setting = _BY_KEY.get(name) or _BY_PARAMETER.get(name)
        if setting is None:
            raise ConfigError(f"unknown flag '{name}'{_nearest(name)}")
        if value is not None:
            values[setting.key] = _convert(setting, value, setting.flag)
            origins[setting.key] = Origin("flag", setting.flag)
    sections = {
        section: type(getattr(Config(), section))(
            **{key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{section}.")}
        )
        for section in SECTIONS
    }
    return Resolved(Config(**sections), origins, warnings)
