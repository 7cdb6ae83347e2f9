"""YAML of which few bytes are much work is refused in one line, before anything is built."""

import pytest
import yaml
from written_runs import write_vectors

from expkit.errors import CheckFailed, ConfigError
from expkit.runs.layout import read_run_info
from expkit.settings import yaml12

NUMBERS = {
    "decimal": "9" * 5000,
    "hexadecimal": "0x" + "f" * 1_000_000,
    "binary": "0b" + "1" * 1_000_000,
    "octal": "0" + "7" * 1_000_000,
    "sexagesimal": ":".join(["59"] * 100_000),
    "sexagesimal float": "-" + ":".join(["59"] * 100_000) + ".5",
}
MANY = "[" + "a," * 1_000_000 + "a]"


@pytest.fixture
def run(tmp_path):
    return write_vectors(tmp_path / "run")


def rewritten(run, **values):
    """The description with values put in as they stand."""
    tree = yaml.safe_load((run / "run.yaml").read_bytes())
    for name in values:
        tree["run"][name] = f"<{name}>"
    text = yaml.safe_dump(tree)
    for name, value in values.items():
        text = text.replace(f"<{name}>", value)
    (run / "run.yaml").write_text(text)


@pytest.mark.parametrize("kind", NUMBERS)
def test_a_number_of_very_many_digits(run, kind):
    rewritten(run, seed=NUMBERS[kind])
    with pytest.raises(CheckFailed, match="a number of .* digits"):
        read_run_info(run)


@pytest.mark.parametrize("name", ["players", "metadata"])
def test_a_million_of_something(run, name):
    rewritten(run, **{name: MANY if name == "players" else f"{{a: {MANY}}}"})
    with pytest.raises(CheckFailed, match="more than 500,000 values"):
        read_run_info(run)


def test_settings_are_few():
    with pytest.raises(ConfigError, match="more than 50,000 values"):
        yaml12.load(f"game: {{source: {MANY}}}", "mine.yaml")
