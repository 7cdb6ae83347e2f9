"""SQL over runs: DuckDB with the tables `steps`, `rows` and `episodes`, and nothing else within its reach."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from queue import Full, Queue
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from expkit.batches.source import BatchSource
from expkit.errors import UsageError
from expkit.queries.episode_table import EpisodeRows
from expkit.queries.row_table import RowTable, Table
from expkit.queries.sql_errors import explain
from expkit.system.extras import require
from expkit.system.parallel import cores
from expkit.system.units import parse_size

MEMORY = "1GiB"
_BATCH_ROWS = 8192
_AHEAD = 2
_PATIENCE = 0.05  # seconds between two requests to stop


class Result(NamedTuple):
    """What a statement gives: its Arrow schema, and record batches that are computed as they are taken. Closing the
    iterator stops the statement."""

    schema: Any
    batches: Iterator[Any]


class Database:
    """Answers statements about `runs`. Nothing can be written, no file be opened, no extension be loaded.

    memory   what DuckDB may take for itself; what does not fit goes to a temporary folder. Rows on their way to it are
             some 8 MiB for each of `threads`, twice
    threads  all processors when left out

    Raises MissingExtra, and SchemaError for runs that cannot make one table.
    """

    def __init__(self, runs: Sequence[BatchSource], *, memory: str | int = MEMORY, threads: int | None = None):
        self._duckdb = require("duckdb", "sql", "SQL")
        threads = cores() if threads is None else threads
        limit = parse_size(memory)
        self._tables: dict[str, Table] = {
            "steps": RowTable(runs, "transitions", threads),
            "rows": RowTable(runs, "all", threads),
            "episodes": EpisodeRows(runs, threads),
        }
        self._folder = TemporaryDirectory(prefix="expkit-query-", ignore_cleanup_errors=True)
        settings = {
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
            "temp_directory": self._folder.name,
            "memory_limit": f"{limit}B",
            "threads": threads,
        }
        try:
            self._connection = self._duckdb.connect(":memory:", config=settings)
            for name, table in self._tables.items():
                self._connection.register(name, table)
            for setting in ("errors_as_json = true", "enable_external_access = false", "lock_configuration = true"):
                self._connection.execute(f"SET {setting}")
        except BaseException:
            self._folder.cleanup()
            raise

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()
        self._folder.cleanup()

    def run(self, statement: str) -> Result:
        """Begin to answer one statement. Raises UsageError for what is wrong with it, MemoryBudget, ShardError; so do
        the batches."""
        self._check(statement)
        for table in self._tables.values():  # before the thread begins, which may fail before it is asked
            table.failure = None
        answer = _Answer(self._connection, statement)
        batches = self._translated(answer, statement)
        return Result(next(batches), batches)

    def _check(self, statement: str) -> None:
        try:
            parts = self._connection.extract_statements(statement)
        except self._duckdb.Error as error:
            raise self._explained(error, statement) from None
        if len(parts) != 1:
            raise UsageError(f"SQL: {len(parts)} statements; ask them one by one")
        kind = parts[0].type.name
        if kind not in ("SELECT", "EXPLAIN"):
            raise UsageError(f"SQL: a {kind} statement changes something; a query begins with SELECT, WITH or the like")

    def _translated(self, answer: _Answer, statement: str) -> Iterator[Any]:
        """The schema, then the batches, errors in our words."""
        try:
            yield from answer.items()
        except self._duckdb.Error as error:
            raise self._explained(error, statement) from None

    def _explained(self, error: Exception, statement: str) -> BaseException:
        for table in self._tables.values():
            if table.failure is not None:
                return table.failure
        names = dict.fromkeys(name for table in self._tables.values() for name in table.schema.names)
        if '"position"' in str(error):
            return explain(error, statement, list(names))
        # What cannot be bound is told without its place when it is asked for as a relation.
        again = "PREPARE again AS "
        try:
            self._connection.execute(again + statement)
        except self._duckdb.Error as located:
            if type(located) is type(error):
                return explain(located, statement, list(names), before=len(again))
        return explain(error, statement, list(names))


class _Answer:
    """One statement on its way, in a thread of its own: while DuckDB computes, it looks at no signals."""

    def __init__(self, connection: Any, statement: str):
        self._connection = connection
        self._statement = statement
        self._queue: Queue[Any] = Queue(_AHEAD)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._compute, name="expkit-sql", daemon=True)
        self._thread.start()

    def items(self) -> Iterator[Any]:
        """The schema, then record batches. Raises what DuckDB raised."""
        try:
            while (item := self._queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._stop()

    def _compute(self) -> None:
        try:
            reader = self._connection.sql(self._statement).to_arrow_reader(_BATCH_ROWS)
            self._put(reader.schema)
            for batch in reader:
                self._put(batch)
                if self._stopping.is_set():
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Any) -> None:
        while not self._stopping.is_set():
            try:
                self._queue.put(item, timeout=_PATIENCE)
                return
            except Full:
                continue

    def _stop(self) -> None:
        self._stopping.set()
        while self._thread.is_alive():
            self._connection.interrupt()
            self._thread.join(_PATIENCE)
