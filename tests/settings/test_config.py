"""Settings: precedence, origins, YAML 1.2 numbers, and errors that name the key, the place and the right word."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from expkit.commands.config import check_names
from expkit.errors import ConfigError, ExpkitError, NotThere
from expkit.settings import yaml12
from expkit.settings.config import SECTIONS, SETTINGS, Config, Duration, Origin, Size, expected, load_file, resolve
from expkit.settings.document import default_yaml, json_schema, written


def test_flag_wins_over_variable_over_file_over_default(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("game: {players: 3, max_steps: 100}\nshards: {size: 1MiB, rows: 7}\n")
    environ = {"EXPKIT_PLAYERS": "4", "EXPKIT_SHARD_SIZE": "2MiB"}
    resolved = resolve({"shard_size": "3MiB", "seed": None}, file, environ)
    assert resolved.config.shards.size == 3 << 20
    assert resolved.config.game.players == 4
    assert resolved.config.game.max_steps == 100
    assert resolved.config.shards.rows == 7
    assert resolved.config.recording.num_envs == 64
    assert resolved.origins["shards.size"] == Origin("flag", "--shard-size")
    assert resolved.origins["game.players"] == Origin("env", "EXPKIT_PLAYERS")
    assert str(resolved.origins["game.max_steps"]) == f"file {file}"
    assert resolved.origins["game.seed"] == Origin("default")


def test_flags_by_parameter_and_by_key_mean_the_same():
    by_parameter = resolve({"flush_interval": "250ms", "memory": "64MiB"}, None, {})
    by_key = resolve({"shards.flush_interval": 0.25, "buffer.memory": 64 << 20}, None, {})
    assert by_parameter.config == by_key.config
    assert by_parameter.config.digest == by_key.config.digest != Config().digest


def test_every_setting_has_its_own_flag_and_variable():
    assert len({setting.parameter for setting in SETTINGS}) == len(SETTINGS)
    assert len({setting.variable for setting in SETTINGS}) == len(SETTINGS)
    by_key = {setting.key: setting for setting in SETTINGS}
    assert by_key["shards.size"].flag == "--shard-size"
    assert by_key["shards.size"].variable == "EXPKIT_SHARD_SIZE"
    assert by_key["retention.min_free"].variable == "EXPKIT_MIN_FREE"
    assert by_key["game.source"].variable == "EXPKIT_SOURCE"


def test_a_config_variable_names_the_file(tmp_path):
    file = tmp_path / "s.json"
    file.write_text('{"game": {"seed": 9}}')
    assert resolve({}, None, {"EXPKIT_CONFIG": str(file)}).config.game.seed == 9
    other = tmp_path / "t.yaml"
    other.write_text("game:\n  seed: 5\n")
    assert resolve({}, other, {"EXPKIT_CONFIG": str(file)}).config.game.seed == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gaem: {players: 2}", ["unknown key 'gaem'", "did you mean game?"]),
        ("shards: {sise: 3}", ["unknown key 'shards.sise'", "did you mean shards.size?"]),
        ("shards: {shard_size: 3}", ["unknown key 'shards.shard_size'", "did you mean shards.size?"]),
        ("memory: 3", ["unknown key 'memory'", "did you mean buffer.memory?"]),
        ("game: {players: two}", ["game.players", '"two"', "a whole number from 1 to 16"]),
        ("game: {players: 17}", ["game.players", "17", "from 1 to 16"]),
        ("game: {players: 2.5}", ["game.players", "2.5"]),
        ("game: {players: true}", ["game.players", "true"]),
        ("game: {state: yes}", ["game.state", '"yes"', "true or false"]),
        ("game: {size: 20}", ["game.size", "HEIGHTxWIDTH"]),
        ("buffer: {overflow: drop-oldst}", ["did you mean drop-oldest?", "one of block, drop-oldest"]),
        ("shards: {size: lots}", ["shards.size", '"lots"', "a size like 64MiB"]),
        ("shards: {age: 3 fortnights}", ["shards.age", "a duration like 90s"]),
        ("shards: 3", ["shards is a section"]),
        ("- 1", ["sections of settings"]),
        ("game: {players: 2}\ngame: {players: 3}", ["line 2", "'game' stands twice"]),
        ("game: [1", ["not valid YAML at line"]),
        ("a: &x 1\nb: *x", ["aliases"]),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path, text, words):
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        resolve({}, file, {})
    message = str(caught.value)
    assert "\n" not in message
    assert str(file) in message
    for word in words:
        assert word in message


def test_a_wrong_variable_or_flag_is_named():
    with pytest.raises(ConfigError, match=r"EXPKIT_PLAYERS: game\.players is \"many\""):
        resolve({}, None, {"EXPKIT_PLAYERS": "many"})
    with pytest.raises(ConfigError, match=r"--sync: shards\.sync is \"always\", but has to be one of none, interval"):
        resolve({"sync": "always"}, None, {})
    with pytest.raises(ConfigError, match="did you mean"):
        resolve({"shard_sise": 1}, None, {})


def test_a_variable_that_is_nearly_a_setting_is_warned_about():
    resolved = resolve(
        {}, None, {"EXPKIT_SHARD_SISE": "1", "EXPKIT_SOMETHING_ELSE_OF_OURS": "x", "EXPKIT_CACHE_DIR": "/c"}
    )
    assert len(resolved.warnings) == 1
    assert "EXPKIT_SHARD_SISE" in resolved.warnings[0]
    assert "EXPKIT_SHARD_SIZE" in resolved.warnings[0]


def test_variables_follow_yaml_12_too():
    config = resolve({}, None, {"EXPKIT_SEED": "010", "EXPKIT_STATE": "1", "EXPKIT_POLICY": "1e3"}).config
    assert config.game.seed == 10
    assert config.game.state is True
    assert config.game.policy == "1e3"


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(NotThere, match="expkit config init"):
        load_file(tmp_path / "none.yaml")


def test_a_huge_file_is_not_read(tmp_path):
    file = tmp_path / "huge.yaml"
    file.write_bytes(b"#" * (yaml12.MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="1 MiB"):
        load_file(file)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("+7", 7),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("2024-01-31", "2024-01-31"),
        (".inf", float("inf")),
        ("20x20", "20x20"),
        ("<<", "<<"),
    ],
)
def test_scalars_follow_yaml_12(text, value):
    assert yaml12.load(f"key: {text}\n", "test") == {"key": value}
    assert yaml12.scalar(text) == value
    assert type(yaml12.scalar(text)) is type(value)
    assert yaml12.load(f"key: '{text}'\n", "test") == {"key": text}


@given(st.one_of(st.integers(-(10**20), 10**20), st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_as_json_writes_them_come_back(number):
    assert yaml12.load(f"key: {json.dumps(number)}", "test") == {"key": number}


def test_the_default_file_loads_as_the_defaults(tmp_path):
    file = tmp_path / "default.yaml"
    file.write_text(default_yaml())
    resolved = resolve({}, file, {})
    assert resolved.config == Config()
    assert all(origin == Origin("file", str(file)) for origin in resolved.origins.values())
    for setting in SETTINGS:
        assert setting.meaning in default_yaml()
        assert expected(setting) in default_yaml()


@given(st.integers(0, 1 << 50))
def test_written_sizes_read_back(count):
    text = written(Size(count))
    assert resolve({"shard_size": text}, None, {}).config.shards.size == count


@given(st.floats(0, 1e7, allow_nan=False))
def test_written_durations_read_back(seconds):
    text = written(Duration(seconds))
    assert resolve({"shard_age": text}, None, {}).config.shards.age == pytest.approx(seconds, rel=1e-12)


def test_json_schema_has_every_setting_with_its_default():
    schema = json_schema()
    assert list(schema["properties"]) == list(SECTIONS)
    for setting in SETTINGS:
        section, _, name = setting.key.partition(".")
        leaf = schema["properties"][section]["properties"][name]
        assert leaf["description"] == setting.meaning
        assert resolve({setting.key: leaf["default"]}, None, {}).config == Config()
    assert schema["properties"]["game"]["additionalProperties"] is False


def test_the_digest_tells_settings_apart():
    digests = {resolve({"seed": seed}, None, {}).config.digest for seed in range(20)}
    assert len(digests) == 20
    assert resolve({"seed": 3}, None, {}).config.digest in digests


def test_the_description_of_a_run_holds_settings(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "run: {seed: 7}\nschema: {}\nconfig: {game: {size: 8x9, seed: null}, recording: {append: true, rows: null, "
        "episodes: 3}}\n"
    )
    assert load_file(path) == {"game.size": "8x9", "game.seed": 7, "recording.episodes": 3}


def test_the_sections_name_of_the_first_runs_is_understood(tmp_path):
    text = (ROOT / "sample_data" / "run" / "run.yaml").read_text()
    assert "guard:" in text
    (tmp_path / "run.yaml").write_text(text)
    assert resolve({}, tmp_path / "run.yaml", {}).config.retention.min_free == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("recording: {representation: plains}", "no representation 'plains'"),
        ("recording: {representation: 'planes(army_scale=0)'}", "army scale 0 is out of range"),
        ("rewards: {reward: sparze}", "did you mean sparse?"),
        ("rewards: {columns: 'a=sparse; a=weighted'}", "reward column a is given twice"),
    ],
)
def test_check_knows_the_names_that_the_tree_holds_as_text(tmp_path, text, words):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ExpkitError, match=re.escape(words)):
        check_names(load_file(tmp_path / "own.yaml"))
    (tmp_path / "own.yaml").write_text(
        "recording: {representation: 'planes(selected=[fog])'}\nrewards: {reward: game, columns: 'a=sparse'}"
    )
    check_names(load_file(tmp_path / "own.yaml"))


@pytest.mark.parametrize("text", ["run: 5\nconfig: {}\nschema: {}", "run: {}\nconfig: 5\nschema: {}"])
def test_what_only_looks_like_a_description_is_refused(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="unknown key 'run'"):
        load_file(path)
