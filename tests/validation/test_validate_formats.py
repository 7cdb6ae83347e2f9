"""How findings are told: the formats, the limit, and that neither changes what is found."""

import io
import json
import os
import re
import xml.etree.ElementTree as ElementTree
from contextlib import redirect_stdout

import pytest
import warm_processes
from hypothesis import given, settings
from hypothesis import strategies as st
from written_runs import flip_bit, write_boards, write_vectors

from expkit.commands.validate_formats import print_junit
from expkit.commands.validate_report import Checked, Limit
from expkit.validation.finding import Finding

PARTS = ("error", "warn", "info")


def expkit(*arguments, cwd, **environment):
    return warm_processes.expkit(*arguments, cwd=cwd, environ={**os.environ, **environment})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """whole: no findings; damaged: a flipped bit and a cut shard."""
    folder = tmp_path_factory.mktemp("runs")
    write_boards(folder / "whole")
    damaged = write_vectors(folder / "damaged", episodes=40)
    flip_bit(damaged / "shards/w0/000000.exp", (damaged / "shards/w0/000000.exp").stat().st_size // 2)
    (damaged / "manifest.json").write_text("{")
    return folder


def finding(severity="error", rule="file/checksum", message="2 values", **where):
    return Finding(severity=severity, rule=rule, message=message, **where)


def collect(findings, limit):
    one = Checked(path=PARTS[0])
    with Limit(limit).keeping(one) as keep:
        for found in findings:
            keep(found)
    return one


def test_junit_of_a_whole_and_a_damaged_run(runs):
    done = expkit("validate", "whole", "damaged", "--format", "junit", "--expect", "rows > 1", cwd=runs)
    assert (done.returncode, done.stderr) == (4, "")
    tree = ElementTree.fromstring(done.stdout)
    whole, damaged = tree.findall("testsuite")
    assert (whole.get("name"), damaged.get("name")) == ("whole", "damaged")
    families = ["file", "run", "ledger", "episode", "policy", "value", "board", "reward", "expect"]
    for suite in (whole, damaged):
        assert [case.get("name").split(":")[0] for case in suite.findall("testcase")] == families
        assert {case.get("classname") for case in suite.findall("testcase")} == {suite.get("name")}
    assert whole.findall(".//failure") == []
    assert whole.get("failures") == "0"
    failing = [
        case.get("name").split(":")[0] for case in damaged.findall("testcase") if case.find("failure") is not None
    ]
    assert "file" in failing
    assert "run" not in failing
    assert "WARN run/manifest" in damaged.findall("testcase")[1].find("system-out").text
    assert int(tree.get("failures")) == int(damaged.get("failures")) == len(failing)
    assert int(tree.get("tests")) == 2 * len(families)


def test_junit_follows_fail_on_and_level(runs):
    strict = expkit("validate", "damaged", "--quick", "--fail-on", "warn", "--format", "junit", cwd=runs)
    assert strict.returncode == 4
    cases = {case.get("name").split(":")[0]: case for case in ElementTree.fromstring(strict.stdout).iter("testcase")}
    assert cases["run"].find("failure") is not None
    assert cases["value"].find("skipped") is not None
    never = expkit("validate", "damaged", "--fail-on", "never", "--format", "junit", cwd=runs)
    assert never.returncode == 0
    assert ElementTree.fromstring(never.stdout).findall(".//failure") == []


@given(st.text(), st.text(), st.integers(0, 2))
@settings(max_examples=200, deadline=None)
def test_junit_is_xml_whatever_a_message_or_a_path_holds(message, path, failing):
    one = collect([finding(message=message), finding("warn", "run/manifest", message, shard=path)], 0)
    one.path = path
    with redirect_stdout(io.StringIO()) as out:
        print_junit([one], "full", PARTS[:failing], expected=False)
    document = out.getvalue()
    assert document.isascii()
    tree = ElementTree.fromstring(document)
    assert len(tree.findall(".//failure")) == failing
    assert len(tree.findall(".//system-out")) == 2 - failing


def test_control_characters_are_shown_in_every_format(runs, tmp_path):
    """A folder's name is the part of a finding that anybody can choose."""
    name = "a\x1b[31m\x07,b:c%\n]]>"
    os.symlink(runs / "damaged", tmp_path / name)
    for form in ("text", "github", "junit"):
        done = expkit("validate", name, runs / "whole", "--format", form, cwd=tmp_path)
        assert done.returncode == 4, done.stderr
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", done.stdout), form
    github = expkit("validate", name, "--format", "github", cwd=tmp_path).stdout.splitlines()
    assert all(re.fullmatch(r"::(error|warning|notice) file=[^:,]*,title=[^:,]*::.*", line) for line in github)
    assert r"file=a\x1b[31m\x07%2Cb%3Ac%25%0A]]>" in github[0]
    document = expkit("validate", name, "--format", "junit", cwd=tmp_path, PYTHONIOENCODING="ascii").stdout
    assert ElementTree.fromstring(document).find("testsuite").get("name") == "a\\x1b[31m\\x07,b:c%\n]]>"


@given(st.lists(st.sampled_from(PARTS), max_size=40), st.integers(0, 12))
@settings(max_examples=200, deadline=None)
def test_a_limit_lists_the_worst_in_order_and_counts_all(severities, limit):
    """Against sorting them all."""
    findings = [finding(severity, step=place) for place, severity in enumerate(severities)]
    one = collect(findings, limit)
    worst = sorted(findings, key=lambda found: PARTS.index(found.severity))[: limit or None]
    assert one.findings == sorted(worst, key=lambda found: found.step)
    assert one.omitted == len(findings) - len(one.findings)
    assert {severity: one.count(severity) for severity in PARTS} == {s: severities.count(s) for s in PARTS}


def test_a_limit_holds_over_all_runs():
    limit, listed = Limit(5), []
    for _ in range(3):
        one = Checked(path="run")
        with limit.keeping(one) as keep:
            for _ in range(4):
                keep(finding())
        listed.append((len(one.findings), one.omitted, one.count("error")))
    assert listed == [(4, 0, 4), (1, 3, 4), (0, 4, 4)]


def test_the_limit_of_each_format(tmp_path):
    """A run of many small shards, each damaged."""
    run = write_vectors(tmp_path / "run", episodes=3)
    whole = (run / "shards/w0/000000.exp").read_bytes()
    for number in range(1, 131):
        (run / f"shards/w0/{number:06d}.exp").write_bytes(whole[:-1])
    total = json.loads(expkit("validate", "run", "--quick", "--json", cwd=tmp_path).stdout)
    assert total["omitted"] == 0
    assert len(total["findings"]) == sum(total["found"].values()) > 130
    found = len(total["findings"])
    text = expkit("validate", "run", "--quick", cwd=tmp_path).stdout.splitlines()
    assert text[-2].strip() == f"… and {found - 100:,} more: --max-findings 0 shows all"
    assert text[-3] == "by rule: file/trailer 130 · file/tail 130 · file/stranger 130"
    assert len(text) == 103
    assert (
        len(expkit("validate", "run", "--quick", "--max-findings", "0", cwd=tmp_path).stdout.splitlines()) == found + 2
    )
    assert len(expkit("validate", "run", "--quick", "--format", "github", cwd=tmp_path).stdout.splitlines()) == found
    few = json.loads(expkit("validate", "run", "--quick", "--json", "--max-findings", "7", cwd=tmp_path).stdout)
    assert (len(few["findings"]), few["omitted"], few["found"]) == (7, found - 7, total["found"])
    assert {entry["severity"] for entry in few["findings"]} == {"error"}
    github = expkit("validate", "run", "--quick", "--format", "github", "--max-findings", "2", cwd=tmp_path)
    assert github.stdout.splitlines()[-1] == f"::notice::… and {found - 2:,} more: --max-findings 0 shows all"
    junit = expkit("validate", "run", "--quick", "--format", "junit", "--max-findings", "2", cwd=tmp_path)
    failures = ElementTree.fromstring(junit.stdout).findall(".//failure")
    assert sum(int(re.match(r"[\d,]+", failure.get("message"))[0]) for failure in failures) == total["found"]["error"]


def test_two_formats_at_once_are_refused(runs):
    done = expkit("validate", "whole", "--json", "--format", "junit", cwd=runs)
    assert done.returncode == 2
    assert "leave one out" in json.loads(done.stdout)["error"]["message"]
    assert expkit("validate", "whole", "--format", "xml", cwd=runs).returncode == 2
    assert expkit("validate", "whole", "--threads", "-1", cwd=runs).returncode == 2
