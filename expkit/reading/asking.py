"""`expkit.query`: a question about runs that are opened for it, or were."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from expkit.queries import ask
from expkit.reading.readable import Readable
from expkit.reading.run import Run
from expkit.reading.runs import found_runs

if TYPE_CHECKING:
    import pyarrow

Source = Readable | str | os.PathLike[str]


def query(
    runs: Source | Sequence[Source],
    question: str,
    *,
    columns: Sequence[str] | None = None,
    memory: str | int = "1GiB",
    partial: bool = False,
) -> pyarrow.Table:
    """The answer to a question about runs, opened or by paths and globs, as a table of Arrow in memory.

    question  SQL, or a condition on rows: then the answer is the rows, in the order of the files
    columns   for a condition, fields and groups of fields beside run, episode, player and step; without, every field
              that is one value
    memory    what DuckDB may take before it uses a temporary folder
    partial   go on with what is there of a run of which shards are missing

    Raises UsageError for a question that cannot be answered, SchemaError for runs that make no one table, NotThere,
    ShardError, CheckFailed for a run of which shards are missing, MissingExtra.
    """
    listed = [runs] if isinstance(runs, Readable | str | os.PathLike) else list(runs)
    with ExitStack() as stack:
        opened: list[Readable] = []
        for source in listed:
            if isinstance(source, Readable):
                opened += source.single_runs
            else:
                opened += [stack.enter_context(Run(path)) for path in found_runs([source])]
        for run in opened if not partial else ():
            run.check_whole()
        with ask(opened, question, columns=columns, memory=memory) as answer:
            return answer.table()
