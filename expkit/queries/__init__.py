"""Questions about runs: conditions on rows, as `expkit.predicates` has them, and SQL.
Imports batches and all that stands below.

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

from collections.abc import Sequence
from typing import TYPE_CHECKING

from expkit.batches.source import BatchSource
from expkit.errors import UsageError
from expkit.queries.statement import is_statement

if TYPE_CHECKING:
    from expkit.queries.answer import Answer


def ask(
    runs: Sequence[BatchSource],
    question: str,
    *,
    columns: Sequence[str] | None = None,
    memory: str | int = "1GiB",
    threads: int | None = None,
) -> Answer:
    """The answer as it is computed; see `expkit.query`. Raises as that does."""
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
