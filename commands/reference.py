"""The command reference of the page about verbs, made from the verbs themselves: `python -m expkit.commands.reference`
prints it.

A test compares the page with it, so that neither can drift.
"""

from __future__ import annotations

from typing import Any

from expkit.commands.app import build, load
from expkit.commands.verbs import COMMON_OPTIONS, EXIT_CODES, GROUPS, VERBS


def markdown() -> str:
    """Every verb with its arguments, options and examples, then what holds for all of them."""
    lines: list[str] = []
    for group in GROUPS:
        for verb in VERBS:
            if verb.group != group:
                continue
            command = load(verb)
            members = getattr(command, "commands", None)
            lines += [f"## expkit {verb.name}", "", verb.help, ""]
            if members is None:
                lines += _describe(command, f"expkit {verb.name}")
                continue
            for name, member in members.items():
                lines += [f"**{name}**: {(member.help or '').splitlines()[0]}", ""]
                lines += _describe(member, f"expkit {verb.name} {name}")
    lines += ["## Options and exit codes of every verb", "", "| option | what it is |", "| --- | --- |"]
    lines += [f"| `{_cell(option)}` | {_prose(text)} |" for option, text in COMMON_OPTIONS]
    lines += ["", "| exit code | what it says |", "| --: | --- |"]
    lines += [f"| {code} | {_prose(text)} |" for code, text in EXIT_CODES]
    return "\n".join(lines) + "\n"


def _describe(command: Any, path: str) -> list[str]:
    """Usage, a table of parameters, examples."""
    context = build().context_class(command, info_name=path)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    lines = ["```console", usage, "```", ""]
    rows = []
    for parameter in command.get_params(context):
        common = getattr(parameter, "rich_help_panel", None) == "Common options" or "--help" in parameter.opts
        record = None if common else parameter.get_help_record(context)
        if record is not None:
            # What some typers add of an argument, its type and that it is required, its usage line says.
            name, text = record[0].partition(" <")[0], record[1].removesuffix("[required]")
            argument = parameter.param_type_name == "argument"
            rows.append(f"| `{_cell(name if argument else record[0])}` | {_prose(text)} |")
    if rows:
        lines += ["| argument or option | what it is |", "| --- | --- |", *rows, ""]
    if command.examples:
        lines.append("```console")
        room = max(len(line) for line, _ in command.examples)
        lines += [f"{line.ljust(room)}  # {meaning}" for line, meaning in command.examples]
        lines += ["```", ""]
    return lines


def _cell(text: str) -> str:
    """Text as a cell of a Markdown table can hold it."""
    return " ".join(text.split()).replace("|", "\\|")


def _prose(text: str) -> str:
    """The same outside of code, where `<utc>` would be taken for HTML and left out."""
    return _cell(text).replace("<", "\\<")


if __name__ == "__main__":
    print(markdown(), end="")
