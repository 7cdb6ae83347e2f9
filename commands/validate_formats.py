"""The findings of `expkit validate` for build services: workflow commands of GitHub, and JUnit XML."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr

from expkit.commands import output
from expkit.commands.streams import one_line, printable
from expkit.commands.validate_report import SEVERITIES, Checked
from expkit.rules.rule import Severity
from expkit.rules.structure import FAMILIES
from expkit.validation.finding import Finding
from expkit.validation.validate import QUICK

_GITHUB = {"error": "error", "warn": "warning", "info": "notice"}
# Beyond these XML 1.0 has no way to write a character; `printable` shows most of them as escapes already.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def print_github(one: Checked) -> None:
    """Workflow commands that GitHub shows beside the run."""
    for finding in one.findings:
        where = f"{finding.where}: " if finding.where else ""
        message = f"{where}{finding.message}".replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        file, title = (
            text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A").replace(":", "%3A").replace(",", "%2C")
            for text in (str(one.path), finding.rule)
        )
        output.raw(one_line(f"::{_GITHUB[finding.severity]} file={file},title={title}::{message}") + "\n")


def print_junit(checked: Sequence[Checked], level: str, failing: Sequence[Severity], expected: bool) -> None:
    """A document of one test suite a run, with a test case for each family of rules: it fails when it has findings of
    a `failing` severity, and is skipped when `level` does not look at it. Others are told as its output. `expected`:
    there were expectations, which are a family, too. So are those of rules that others have added."""
    added = sorted({rule.partition("/")[0] for one in checked for rule, _ in one.counts} - FAMILIES.keys() - {"expect"})
    families = FAMILIES | dict.fromkeys(added, "added rules")
    families |= {"expect": "what is expected of the run"} if expected else {}
    suites = [_suite(one, families, level, failing) for one in checked]
    tests, failures, skipped = (sum(counts) for counts in zip(*(counts for counts, _ in suites), strict=True))
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuites name="expkit validate" tests="{tests}" failures="{failures}" errors="0" skipped="{skipped}">',
        *(line for _, lines in suites for line in lines),
        "</testsuites>\n",
    ]
    # ASCII alone, so that it is what its first line says whatever encoding the terminal has.
    output.raw("\n".join(lines).encode("ascii", "xmlcharrefreplace").decode())


def _suite(
    one: Checked, families: Mapping[str, str], level: str, failing: Sequence[Severity]
) -> tuple[tuple[int, int, int], list[str]]:
    """(tests, failures, skipped) and the lines of one run's suite."""
    lines, failures, skipped = [], 0, 0
    for family, title in families.items():
        counts = {severity: one.count_family(family, severity) for severity in SEVERITIES}
        listed = [finding for finding in one.findings if finding.family == family]
        bad = sum(counts[severity] for severity in failing)
        lines.append(f"    <testcase classname={_attribute(str(one.path))} name={_attribute(f'{family}: {title}')}>")
        if bad:
            failures += 1
            about = [finding for finding in listed if finding.severity in failing]
            message = f"{bad:,} findings" if bad > 1 else about[0].message if about else "1 finding"
            text = _text(about, bad - len(about))
            lines.append(f'      <failure type="{family}" message={_attribute(message)}>{text}</failure>')
        elif level == "quick" and family not in (*QUICK, "expect"):
            skipped += 1
            lines.append('      <skipped message="--quick does not read rows"/>')
        others = [finding for finding in listed if finding.severity not in failing]
        left = sum(counts.values()) - bad - len(others)
        if others or left:
            lines.append(f"      <system-out>{_text(others, left)}</system-out>")
        lines.append("    </testcase>")
    numbers = f'tests="{len(families)}" failures="{failures}" errors="0" skipped="{skipped}"'
    return (len(families), failures, skipped), [
        f"  <testsuite name={_attribute(str(one.path))} {numbers}>",
        *lines,
        "  </testsuite>",
    ]


def _text(findings: Sequence[Finding], omitted: int) -> str:
    """One line a finding, as XML."""
    lines = [
        f"{finding.severity.upper()} {finding.rule} {finding.where}{': ' if finding.where else ''}{finding.message}"
        for finding in findings
    ]
    if omitted:
        lines.append(f"… and {omitted:,} more: --max-findings 0 shows all")
    return escape(_clean("\n".join(lines)))


def _attribute(text: str) -> str:
    return quoteattr(_clean(text))


def _clean(text: str) -> str:
    """What XML can hold, with control characters shown as escapes."""
    return _NO_XML.sub("\ufffd", printable(text))
