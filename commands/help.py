"""`expkit help`: the pages of the documentation, and the help of a verb by its name."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

import typer

from expkit.commands import output
from expkit.commands.options import Json
from expkit.commands.pages import page_names, read_page, show_page
from expkit.commands.verbs import VERBS, find_verb
from expkit.errors import UsageError

EXAMPLES = (
    ("expkit help", "the pages, with a sentence about each"),
    ("expkit help training", "the page about training from a run"),
    ("expkit help record", "what expkit record --help shows"),
    ("expkit help config show", "and of a verb that has verbs of its own"),
)


def complete_topics(incomplete: str) -> list[str]:
    """Pages and verbs that begin with what is typed."""
    return [name for name in [*page_names(), *(verb.name for verb in VERBS)] if name.startswith(incomplete)]


def help_(
    context: typer.Context,
    topic: Annotated[
        list[str] | None,
        typer.Argument(metavar="TOPIC", help="A page, or a verb.", autocompletion=complete_topics),
    ] = None,
    json: Json = False,
) -> None:
    """Pages about one subject each, and the help of every verb.

    On a terminal a page is shown by $PAGER, else less; with --quiet it is printed. In a pipe it is plain Markdown.
    """
    if not topic:
        _list_pages(json)
    elif find_verb(topic[0]) is not None:
        _show_verb(context, topic, json)
    elif topic[0] in page_names() and len(topic) == 1:
        page = read_page(topic[0])
        if json:
            told = _told(page.title, page.about, page.text)
            output.write_json({"schema": "expkit.help/1", "page": page.name, **told})
        else:
            show_page(page)
    else:
        raise UsageError(_unknown(topic))


def _told(title: str, about: str, text: str) -> dict[str, str]:
    return {"title": title, "about": about, "text": text}


def _list_pages(json: bool) -> None:
    pages = [read_page(name) for name in page_names()]
    if json:
        listed = [{"page": page.name, "title": page.title, "about": page.about} for page in pages]
        output.write_json({"schema": "expkit.help/1", "pages": listed, "verbs": [verb.name for verb in VERBS]})
        return
    output.table(
        [output.Column("page"), output.Column("what it is about", fold=True)],
        [[(page.name, "bold"), page.about] for page in pages],
    )
    output.line("one of them: expkit help PAGE · of a verb: expkit help VERB, or expkit VERB --help")


def _show_verb(context: typer.Context, words: list[str], json: bool) -> None:
    """The words of `expkit VERB --help`, made by the verb itself."""
    above: Any = context.find_root()
    for word in words:
        commands = getattr(above.command, "list_commands", None)
        command = None if commands is None else above.command.get_command(above, word)
        if command is None:
            known = commands(above) if commands else []
            has = ", ".join(known) or "no verbs of its own"
            raise UsageError(f"there is no {above.command_path} {word}; {_nearest(word, known)}it has {has}")
        above = command.make_context(word, ["--help"], parent=above, resilient_parsing=True)
    if json:
        first, *_ = (above.command.help or "").splitlines() or [""]
        told = _told(above.command_path, first, above.get_help())
        output.write_json({"schema": "expkit.help/1", "verb": " ".join(words), **told})
    else:
        output.raw(above.get_help() + "\n")


def _unknown(topic: list[str]) -> str:
    known = [*page_names(), *(verb.name for verb in VERBS)]
    if topic[0] in known:
        return f"'{' '.join(topic)}' is more than one page; name one, see expkit help"
    return f"no page and no verb '{topic[0]}'; {_nearest(topic[0], known)}see expkit help"


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}? " if near else ""
