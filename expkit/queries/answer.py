"""An answer as it is computed: its columns, then their values, as Python's or as Arrow's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from expkit.errors import UsageError
from expkit.row import arrow

if TYPE_CHECKING:
    from expkit.queries.database import Database


class Column(NamedTuple):
    """A column of an answer; `type` as Arrow writes it, `fixed_size_list<…>` and the like."""

    name: str
    type: str


class Answer(ABC):
    """Of one question. Computed while it is read, which can be done once; closing it stops the work."""

    columns: list[Column]

    @abstractmethod
    def values(self, most: int | None = None) -> Iterator[list[list[Any]]]:
        """Parts of the answer: for each column the values of some rows, Python's own, None for null. They are computed
        as soon as there are `most` rows, of which there may be more in the last part."""

    @abstractmethod
    def record_batches(self) -> tuple[Any, Iterator[Any]]:
        """The schema, and record batches. Raises MissingExtra."""

    def table(self) -> Any:
        """All of it."""
        schema, batches = self.record_batches()
        return arrow.pyarrow().Table.from_batches(batches, schema)

    @abstractmethod
    def close(self) -> None:
        """Stop what is still being computed."""

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SqlAnswer(Answer):
    """Of a statement of SQL. Raises as `Database.run` does."""

    def __init__(self, database: Database, statement: str):
        self._database = database
        try:
            self._result = database.run(statement)
        except BaseException:
            database.close()
            raise
        names = _unique(self._result.schema.names)
        self._schema = arrow.pyarrow().schema(
            [field.with_name(name) for field, name in zip(self._result.schema, names, strict=True)]
        )
        self.columns = [Column(field.name, str(field.type)) for field in self._schema]

    def values(self, most: int | None = None) -> Iterator[list[list[Any]]]:
        for batch in self._result.batches:
            yield [_plain(column, known) for column, known in zip(batch.columns, self.columns, strict=True)]

    def record_batches(self) -> tuple[Any, Iterator[Any]]:
        return self._schema, (batch.rename_columns(self._schema.names) for batch in self._result.batches)

    def close(self) -> None:
        self._result.batches.close()  # type: ignore[attr-defined]
        self._database.close()


def _plain(column: Any, known: Column) -> list[Any]:
    """The values of a column. Raises UsageError for such as Python has none for: dates end with the year 9999."""
    try:
        values: list[Any] = column.to_pylist()
    except (OverflowError, ValueError, NotImplementedError):
        raise UsageError(
            f"SQL: {known.name} holds a {known.type} that is out of range here; ask for CAST({known.name} AS VARCHAR)"
        ) from None
    return values


def _unique(names: list[str]) -> list[str]:
    """Names of which no two are the same: `x`, `x_2`."""
    out: list[str] = []
    for name in names:
        new, number = name, 1
        while new in out:
            number += 1
            new = f"{name}_{number}"
        out.append(new)
    return out
