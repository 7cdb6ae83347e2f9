"""The pages of the documentation: Markdown files in `expkit/docs/`, which the wheel carries, so that what a terminal
shows is of the version that runs. A page is there once its file is: nothing lists them a second time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from importlib import resources
from types import FrameType
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from expkit.commands import output, session

if TYPE_CHECKING:
    from rich.markdown import Markdown

# Lines of prose longer than this are hard to follow back to their beginning; tables and code take all there is.
_PROSE_WIDTH = 100
_COMMENT = re.compile(r"^[ \t]*<!--.*?-->[ \t]*\n", re.MULTILINE | re.DOTALL)
_NO_SUCH_COMMAND = 127  # of a shell


class Page(NamedTuple):
    """One subject. `about` is the sentence below the title; `text` is Markdown without its comments, which say to tests
    and generators what is theirs, and nothing to a reader."""

    name: str
    title: str
    about: str
    text: str


def page_names() -> list[str]:
    """The subjects that have a page, by the alphabet."""
    folder = resources.files("expkit") / "docs"
    return sorted(entry.name.removesuffix(".md") for entry in folder.iterdir() if entry.name.endswith(".md"))


def read_page(name: str) -> Page:
    """The page of a subject that `page_names` has."""
    written = (resources.files("expkit") / "docs" / f"{name}.md").read_text(encoding="utf-8")
    text = _COMMENT.sub("", written).lstrip("\n")
    title, about = (" ".join(part.split()) for part in text.split("\n\n", 2)[:2])
    return Page(name, title.removeprefix("# "), about, text)


def show_page(page: Page) -> None:
    """On a terminal laid out, and through a pager unless --quiet asks for the text alone; elsewhere the Markdown as
    it was written, for programs and for eyes that read it as it is."""
    if not output.has_ansi_terminal():
        output.raw(page.text)
        return
    text = output.laid_out(_as_markdown(page.text), crop=False)
    if session.current().quiet or not _paged(text):
        output.raw(text)


def _as_markdown(text: str) -> Markdown:
    """rich's Markdown with headings where the eye looks for them, prose of a readable width, words of tables folded and
    not cut, and lines of code left whole: the terminal breaks a long one, and it can be copied. Imported here: nobody
    else needs the parser."""
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.constrain import Constrain
    from rich.markdown import CodeBlock, Heading, Markdown, Paragraph, TableElement
    from rich.syntax import Syntax
    from rich.table import Table
    from rich.text import Text

    class Prose(Paragraph):
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            yield Constrain(self.text, _PROSE_WIDTH)

    class Left(Heading):
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            self.text.justify = "left"
            yield self.text

    class Whole(CodeBlock):
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            code = str(self.text).rstrip()
            colored = Syntax(code, self.lexer_name, theme=self.theme).highlight(code)
            colored.rstrip()
            for line in colored.split(allow_blank=True):
                yield Text("    ", no_wrap=True, overflow="ignore").append_text(line)

    class Folded(TableElement):
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for table in super().__rich_console__(console, options):
                for column in table.columns if isinstance(table, Table) else ():
                    column.overflow = "fold"
                yield table

    class Laid(Markdown):
        elements: ClassVar = {
            **Markdown.elements,
            "paragraph_open": Prose,
            "heading_open": Left,
            "fence": Whole,
            "table_open": Folded,
        }

    return Laid(text, code_theme="ansi_dark", hyperlinks=False)


def _paged(text: str) -> bool:
    """Show text by $PAGER, or by less; whether there was one. Set to nothing, or to cat, it asks for none, as with git
    and man. less is told to pass colours on, and if LESS is not set, to leave at once what fits the screen."""
    pager = os.environ.get("PAGER", "less")
    if pager.strip() in ("", "cat"):
        return False
    environ = {**os.environ, "LESS": f"{os.environ.get('LESS', '-FX')} -R"}
    sys.stdout.flush()
    # ^C is the pager's: less stops searching by it, others leave. A handler, not SIG_IGN, which a child would inherit.
    before = signal.signal(signal.SIGINT, _leave_to_the_pager)
    try:
        process = subprocess.Popen(["sh", "-c", pager], stdin=subprocess.PIPE, env=environ)
        try:
            process.communicate(text.encode(sys.stdout.encoding or "utf-8", errors="replace"))
        except BrokenPipeError:
            process.wait()  # left before the end of the page
    finally:
        signal.signal(signal.SIGINT, before)
    return process.returncode != _NO_SUCH_COMMAND


def _leave_to_the_pager(number: int, frame: FrameType | None) -> None:
    """The terminal has sent the pager the same signal."""
