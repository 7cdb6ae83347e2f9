"""Questions about runs: conditions on rows, as `expkit.predicates` has them, and SQL.

    expkit.query("runs/a", "player == 1 and reward > 0.5")                    # the rows
    expkit.query(["runs/a", "runs/b"], "SELECT run, avg(return) FROM episodes GROUP BY run")

Tables of SQL, over all runs that are given:

    steps      transitions: `run`, the keys, `policy_name`, the fields
    rows       the same and the last rows, on which what does not belong to the observation is null
    episodes   one row for each player of each episode, see `expkit.queries.episode_table`

Names with a slash go in double quotes, arrays are indexed from 1: `"observation/army"[1][1]`. Only the columns that a
statement uses are decoded, and blocks that cannot hold rows for its comparisons are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from expkit.reading.readable import Readable
from expkit.reading.run import Run
from expkit.reading.runs import Runs, found_runs

if TYPE_CHECKING:
    import pyarrow

    from expkit.queries.answer import Answer

Source = Readable | str | os.PathLike[str]


def query(
    runs: Source | Sequence[Source],
    question: str,
    *,
    columns: Sequence[str] | None = None,
    memory: str | int = "1GiB",
) -> pyarrow.Table:
    """The answer to a question about runs, opened or by paths and globs, as a table of Arrow in memory.

    question  SQL, or a condition on rows: then the answer is the rows, in the order of the files
    columns   for a condition, fields and groups of fields beside run, episode, player and step; without, every field
              that is one value
    memory    what DuckDB may take before it uses a temporary folder

    Raises UsageError for a question that cannot be answered, SchemaError for runs that make no one table, NotThere,
    ShardError, MissingExtra.
    """
    listed = [runs] if isinstance(runs, Readable | str | os.PathLike) else list(runs)
    with ExitStack() as stack:
        opened: list[Run] = []
        for source in listed:
            if isinstance(source, Run):
                opened.append(source)
            elif isinstance(source, Runs):
                opened += source.runs
            elif not isinstance(source, Readable):
                opened += [stack.enter_context(Run(path)) for path in found_runs([source])]
        with ask(opened, question, columns=columns, memory=memory) as answer:
            return answer.table()


def ask(
    runs: Sequence[Run],
    question: str,
    *,
    columns: Sequence[str] | None = None,
    memory: str | int = "1GiB",
    threads: int | None = None,
) -> Answer:
    """The answer as it is computed; see `query`. Raises as that does."""
    from expkit.errors import UsageError
    from expkit.queries.statement import is_statement

    if not runs:
        raise UsageError("no run to query")
    if is_statement(question):
        from expkit.queries.answer import SqlAnswer
        from expkit.queries.database import Database

        if columns is not None:
            raise UsageError("columns are for conditions on rows; SQL names its own after SELECT")
        return SqlAnswer(Database(runs, memory=memory, threads=threads), question)
    from expkit.queries.matches import Matches

    return Matches(runs, question, columns=columns, threads=threads)
