"""The page about the architecture is about this tree: layers are those of the contract, what it names is there."""

from __future__ import annotations

import ast
import re
import tomllib

from doc_parts import check_generated, page
from places import ROOT

PAGE = page("architecture")


def what_it_is_for(package: str) -> str:
    """The first paragraph of a package, or of a module, without what it may import."""
    inside = ROOT / "expkit" / package
    path = inside / "__init__.py" if inside.is_dir() else inside.with_suffix(".py")
    told = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    text = " ".join(told.partition("\n\n")[0].partition("\nImports ")[0].split())
    return text.rstrip(":") if text.endswith(":") else text


def test_the_layers_are_those_of_the_contract() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (contract,) = (one for one in settings["tool"]["importlinter"]["contracts"] if one["id"] == "layers")
    made = "| layer | what it is for |\n| --- | --- |\n"
    for number, line in enumerate(contract["layers"]):
        for package in line.split(" | "):
            made += f"| {len(contract['layers']) - number} `{package}` | {what_it_is_for(package)} |\n"
    check_generated(PAGE, "layers", made)


def test_every_path_it_names_is_there() -> None:
    text = PAGE.read_text("utf-8")
    named = re.findall(r"`([\w./]+(?:\.py|/))`", re.sub(r"<!-- layers -->.*<!-- end layers -->", "", text, flags=re.S))
    assert len(named) > 60
    inside = {"registry.py": "expkit/serialize/representations/registry.py", "queries/": "expkit/queries/"}
    named = [path for path in named if "NAME" not in path]
    missing = [path for path in named if not (ROOT / inside.get(path, path)).exists()]
    assert missing == []


def test_what_it_names_in_a_file_is_in_that_file() -> None:
    text = PAGE.read_text("utf-8")
    found = re.findall(r"`([\w./]+\.py)` \(((?:`\w+`(?:, )?)+)\)", text)
    found += [(path, name) for name, path in re.findall(r"`(\w+)`\s+of\s+`([\w./]+\.py)`", text)]
    found += [(path, name) for name, path in re.findall(r"`(\w+)` \(`([\w./]+\.py)`\)", text)]
    assert len(found) >= 8
    for path, names in found:
        for name in re.findall(r"\w+", names):
            assert re.search(rf"\b{name}\b", (ROOT / path).read_text("utf-8")), (path, name)
