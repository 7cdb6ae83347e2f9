"""Values of a space as columns of rows, and back, many at once.

A batch is what Gymnasium calls so: an array with a leading axis for spaces of fixed shape, a mapping or a tuple of
batches for Dict and Tuple, a tuple of n values for everything else (Text, Sequence, Graph, OneOf). Columns are arrays
(n, *field.shape) by the names of fields. What is ragged has room for a fixed number of entries, and a column that says
how many of them count; the others are zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from expkit.errors import SchemaError
from expkit.row.host import host_array
from expkit.row.schema import TEXT, Belongs, Field
from expkit.spaces.told import as_bits

Columns = dict[str, np.ndarray]


class Layout(Protocol):
    """How values of one space lie in columns.

    fields    those columns, in order
    """

    fields: tuple[Field, ...]

    def columns(self, batch: Any, rows: int) -> Columns:
        """The columns of `rows` values. Raises SchemaError for what does not fit, or has no room."""
        ...

    def values(self, columns: Mapping[str, np.ndarray], rows: int) -> Any:
        """The batch that `columns` were made of."""
        ...

    def row(self, value: Any) -> dict[str, Any]:
        """The columns of one value, without the leading axis, copies: out of reach of what an environment or a policy
        does to its arrays afterwards. Raises SchemaError as `columns`."""
        ...

    def stack(self, values: Sequence[Any]) -> Any:
        """Single values as a batch."""
        ...

    def join(self, batches: Sequence[Any]) -> Any:
        """Batches, at least one, as one."""
        ...

    def part(self, batch: Any, start: int, stop: int) -> Any:
        """Values start to stop of a batch, as a batch."""
        ...

    def one(self, batch: Any, index: int) -> Any:
        """One value of a batch."""
        ...

    def count(self, batch: Any) -> int:
        """How many values a batch has."""
        ...


class FixedLayout:
    """Box, Discrete, MultiDiscrete, MultiBinary: one column of numbers.

    dtype   of the space's values, where the stored type is another
    scalar  a value is a number of NumPy's, not an array without axes
    """

    def __init__(self, field: Field, dtype: Any, scalar: bool):
        self.fields: tuple[Field, ...] = (field,)
        self._name, self._shape, self._dtype = field.name, field.shape, np.dtype(dtype)
        self._scalar, self._bits = scalar, field.dtype == "bool"

    def columns(self, batch: Any, rows: int) -> Columns:
        array = host_array(self._name, batch)
        if self._bits and array.dtype != bool:
            array = as_bits(self._name, array)
        if array.shape != (rows, *self._shape):
            raise SchemaError(f"{self._name}: shape {array.shape} does not fit {(rows, *self._shape)}")
        return {self._name: array}

    def values(self, columns: Mapping[str, np.ndarray], rows: int) -> Any:
        return np.asarray(columns[self._name]).astype(self._dtype, copy=False)

    def row(self, value: Any) -> dict[str, Any]:
        kind = type(value)
        if kind is np.ndarray:
            array = value.copy()
        elif kind is int or kind is float or kind is bool or isinstance(value, np.generic):
            if not self._shape and (not self._bits or value == 0 or value == 1):  # nobody can change it
                return {self._name: value}
            array = np.asarray(value)
        else:  # lists, tensors, subclasses, memmaps: whatever it is, an array of our own
            array = np.array(host_array(self._name, value), subok=False)
        if array.shape != self._shape or array.dtype.kind not in "biuf":
            what = f"shape {array.shape} does not fit {self._shape}"
            if array.shape == self._shape:
                what = f"values of type {array.dtype} are not numbers"
            raise SchemaError(f"{self._name}: {what}")
        if self._bits and array.dtype != bool:
            array = as_bits(self._name, array)
        return {self._name: array}

    def stack(self, values: Sequence[Any]) -> Any:
        arrays = [host_array(self._name, value) for value in values]
        for array in arrays:
            if array.shape != self._shape:
                raise SchemaError(f"{self._name}: shape {array.shape} does not fit {self._shape}")
        return np.stack(arrays) if arrays else np.zeros((0, *self._shape), self._dtype)

    def join(self, batches: Sequence[Any]) -> Any:
        return np.concatenate([host_array(self._name, batch) for batch in batches])

    def part(self, batch: Any, start: int, stop: int) -> Any:
        return batch[start:stop]

    def one(self, batch: Any, index: int) -> Any:
        return batch[index] if self._scalar else np.asarray(batch[index])

    def count(self, batch: Any) -> int:
        return len(batch)


class EmptyLayout(FixedLayout):
    """A space of arrays without elements, as Box of shape (0,): no column, and the same value in every row."""

    def __init__(self, name: str, shape: tuple[int, ...], dtype: Any):
        self.fields = ()
        self._name, self._shape, self._dtype = name, tuple(shape), np.dtype(dtype)
        self._scalar = self._bits = False

    def columns(self, batch: Any, rows: int) -> Columns:
        super().columns(batch, rows)
        return {}

    def values(self, columns: Mapping[str, np.ndarray], rows: int) -> Any:
        return np.zeros((rows, *self._shape), self._dtype)

    def row(self, value: Any) -> dict[str, Any]:
        super().row(value)
        return {}


class GroupLayout:
    """Dict, by the names of its parts, and Tuple, by their places.

    names   keys of a mapping; None for a tuple
    counts  whether a batch tells how many values it has: one of nothing does not
    """

    def __init__(self, name: str, names: Sequence[Any] | None, parts: Sequence[Layout]):
        self._name, self._names, self._parts = name, names, tuple(parts)
        self.fields = tuple(field for part in parts for field in part.fields)
        counting = (at for at, part in enumerate(parts) if not isinstance(part, GroupLayout) or part.counts)
        self._counting: int | None = next(counting, None)
        self.counts: bool = self._counting is not None

    def _of(self, group: Any) -> list[Any]:
        """The parts of a group, in order. Raises SchemaError."""
        if self._names is None:
            if not isinstance(group, tuple | list) or len(group) != len(self._parts):
                what = f"{len(group)} parts" if isinstance(group, tuple | list) else type(group).__name__
                raise SchemaError(f"{self._name}: {what}; the space is a tuple of {len(self._parts)}")
            return list(group)
        if not isinstance(group, Mapping) or any(name not in group for name in self._names):
            what = f"keys {', '.join(map(str, group))}" if isinstance(group, Mapping) else type(group).__name__
            raise SchemaError(f"{self._name}: {what or 'no keys'}; the space has {', '.join(map(str, self._names))}")
        return [group[name] for name in self._names]

    def _group(self, parts: Sequence[Any]) -> Any:
        return tuple(parts) if self._names is None else dict(zip(self._names, parts, strict=True))

    def columns(self, batch: Any, rows: int) -> Columns:
        out: Columns = {}
        for layout, part in zip(self._parts, self._of(batch), strict=True):
            out.update(layout.columns(part, rows))
        return out

    def values(self, columns: Mapping[str, np.ndarray], rows: int) -> Any:
        return self._group([layout.values(columns, rows) for layout in self._parts])

    def row(self, value: Any) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for layout, part in zip(self._parts, self._of(value), strict=True):
            out.update(layout.row(part))
        return out

    def _each(self, call: Callable[[Layout, Any], Any], group: Any) -> Any:
        return self._group([call(layout, part) for layout, part in zip(self._parts, self._of(group), strict=True)])

    def stack(self, values: Sequence[Any]) -> Any:
        rows = [self._of(value) for value in values]
        return self._group([part.stack([row[i] for row in rows]) for i, part in enumerate(self._parts)])

    def join(self, batches: Sequence[Any]) -> Any:
        each = [self._of(batch) for batch in batches]
        return self._group([part.join([one[i] for one in each]) for i, part in enumerate(self._parts)])

    def part(self, batch: Any, start: int, stop: int) -> Any:
        return self._each(lambda layout, part: layout.part(part, start, stop), batch)

    def one(self, batch: Any, index: int) -> Any:
        return self._each(lambda layout, part: layout.one(part, index), batch)

    def count(self, batch: Any) -> int:
        assert self._counting is not None
        return self._parts[self._counting].count(self._of(batch)[self._counting])


class _Listed(ABC):
    """What every layout shares whose batches are tuples of values."""

    fields: tuple[Field, ...]

    @abstractmethod
    def columns(self, batch: Any, rows: int) -> Columns: ...

    def row(self, value: Any) -> dict[str, Any]:
        return {name: column[0] for name, column in self.columns((value,), 1).items()}

    def stack(self, values: Sequence[Any]) -> Any:
        return tuple(values)

    def join(self, batches: Sequence[Any]) -> Any:
        return tuple(value for batch in batches for value in batch)

    def part(self, batch: Any, start: int, stop: int) -> Any:
        return tuple(batch[start:stop])

    def one(self, batch: Any, index: int) -> Any:
        return batch[index]

    def count(self, batch: Any) -> int:
        return len(batch)

    def _require(self, name: str, batch: Any, rows: int) -> None:
        if not isinstance(batch, Sequence) or isinstance(batch, str) or len(batch) != rows:
            raise SchemaError(f"{name}: {type(batch).__name__} does not fit; a batch is a tuple of {rows} values")


class TextLayout(_Listed):
    """Text: the code points of its characters, and their number. `raised_by` is what gives them more room."""

    def __init__(
        self, name: str, belongs: Belongs, most: int, characters: str, raised_by: str = "max_length of the Text space"
    ):
        most = max(most, 1)  # a field has room for something, also where the text is always empty
        highest = max(map(ord, characters), default=0)
        dtype = "u1" if highest < 1 << 8 else "u2" if highest < 1 << 16 else "u4"
        self._name, self._most, self._raised_by = name, most, raised_by
        meaning = f"text of at most {most} characters"
        self.fields = ragged((Field(name, dtype, (), belongs, unit=TEXT, meaning=meaning),), name, most, belongs)

    def columns(self, batch: Any, rows: int) -> Columns:
        self._require(self._name, batch, rows)
        for text in batch:
            if not isinstance(text, str):
                raise SchemaError(f"{self._name}: {type(text).__name__} is no text")
        lengths = np.fromiter(map(len, batch), np.int32, rows)
        _require_room(self._name, lengths, self._most, self._raised_by)
        codes = np.array(batch, f"<U{self._most}").view("<u4").reshape(rows, self._most)
        return {self._name: codes, f"{self._name}/length": lengths}

    def values(self, columns: Mapping[str, np.ndarray], rows: int) -> Any:
        codes = np.asarray(columns[self._name]).astype("<u4")
        lengths = np.asarray(columns[f"{self._name}/length"]).tolist()
        return tuple(
            row[:length].tobytes().decode("utf-32-le", "surrogatepass")
            for row, length in zip(codes, lengths, strict=True)
        )


class Entries:
    """A list of values of one space, of any length up to `most`: its columns and their `NAME/length`."""

    def __init__(self, name: str, belongs: Belongs, most: int, inner: Layout):
        self._name, self._most, self.inner = name, most, inner
        self.fields = ragged(inner.fields, name, most, belongs)

    def columns(self, batches: Sequence[Any]) -> Columns:
        """Of each list, which is a batch of the inner layout."""
        lengths = np.fromiter(map(self.inner.count, batches), np.int32, len(batches))
        _require_room(self._name, lengths, self._most, "capacity")
        counted = np.arange(self._most) < lengths[:, None]
        out = {f.name: np.zeros((len(batches), *f.shape), f.numpy_dtype) for f in self.fields}
        out[f"{self._name}/length"] = lengths
        total = int(lengths.sum())
        if total:
            given = [batch for batch, length in zip(batches, lengths.tolist(), strict=True) if length]
            for name, column in self.inner.columns(self.inner.join(given), total).items():
                if column.dtype != out[name].dtype:  # as it is given: whoever stores it judges what fits
                    out[name] = np.zeros(out[name].shape, column.dtype)
                out[name][counted] = column
        return out

    def batches(self, columns: Mapping[str, np.ndarray]) -> list[Any]:
        """The lists again, each a batch of the inner layout."""
        lengths = np.asarray(columns[f"{self._name}/length"]).astype(np.int64)
        counted = np.arange(self._most) < lengths[:, None]
        total = int(lengths.sum())
        every = self.inner.values({f.name: np.asarray(columns[f.name])[counted] for f in self.inner.fields}, total)
        ends = np.cumsum(lengths).tolist()
        return [self.inner.part(every, end - length, end) for end, length in zip(ends, lengths.tolist(), strict=True)]


class SequenceLayout(_Listed):
    """Sequence: a tuple of values, or one batch of them where it is `stacked`."""

    def __init__(self, name: str, belongs: Belongs, most: int, inner: Layout, stacked: bool):
        self._name, self._stacked, self._inner = name, stacked, inner
        self._entries = Entries(name, belongs, most, inner)
        self.fields = self._entries.fields

    def columns(self, batch: Any, rows: int) -> Columns:
        self._require(self._name, batch, rows)
        if self._stacked:
            return self._entries.columns(batch)
        for value in batch:
            if not isinstance(value, tuple | list):
                raise SchemaError(f"{self._name}: {type(value).__name__} is no sequence of values")
        return self._entries.columns([self._inner.stack(value) if value else () for value in batch])

    def values(self, columns: Mapping[str, np.ndarray], rows: int) -> Any:
        lists = self._entries.batches(columns)
        if self._stacked:
            return tuple(lists)
        lengths = np.asarray(columns[f"{self._name}/length"]).tolist()
        return tuple(
            tuple(self._inner.one(one, i) for i in range(length)) for one, length in zip(lists, lengths, strict=True)
        )


class GraphLayout(_Listed):
    """Graph: nodes, edges, and which two nodes each edge is between.

    make    GraphInstance(nodes, edges, edge_links)
    """

    def __init__(self, name: str, nodes: Entries, edges: Entries | None, links: Entries | None, make: Any):
        self._name, self._nodes, self._edges, self._links, self._make = name, nodes, edges, links, make
        fields = [*nodes.fields, *(edges.fields if edges else ()), *(links.fields if links else ())]
        self.fields = tuple({field.name: field for field in fields}.values())  # edges and links share their length

    def columns(self, batch: Any, rows: int) -> Columns:
        self._require(self._name, batch, rows)
        for value in batch:
            if not hasattr(value, "nodes") or not hasattr(value, "edge_links"):
                raise SchemaError(f"{self._name}: {type(value).__name__} is no GraphInstance")
        out = self._nodes.columns([value.nodes for value in batch])
        if self._edges is not None and self._links is not None:
            edges = [() if value.edges is None else value.edges for value in batch]
            links = [() if value.edge_links is None else value.edge_links for value in batch]
            counts = self._edges.columns(edges), self._links.columns(links)
            out |= counts[0] | counts[1]
            if any(not np.array_equal(counts[0][n], counts[1][n]) for n in counts[0].keys() & counts[1].keys()):
                raise SchemaError(f"{self._name}: a graph has not as many edge_links as edges")
        return out

    def values(self, columns: Mapping[str, np.ndarray], rows: int) -> Any:
        nodes = self._nodes.batches(columns)
        if self._edges is None or self._links is None:
            return tuple(self._make(each, None, None) for each in nodes)
        edges, links = self._edges.batches(columns), self._links.batches(columns)
        out = []
        for each, along, between in zip(nodes, edges, links, strict=True):
            out.append(self._make(each, along, between) if len(between) else self._make(each, None, None))
        return tuple(out)


class OneOfLayout(_Listed):
    """OneOf: which space a value is of, and columns of all of them; those of the others are zero."""

    def __init__(self, name: str, belongs: Belongs, choices: Sequence[Layout]):
        self._name, self._choices = name, tuple(choices)
        meaning = "which of the parts counts; the others are zero"
        index = Field(f"{name}/index", "i4", (), belongs, meaning=meaning, low=0, high=len(choices) - 1)
        self.fields = (index, *(field for choice in choices for field in choice.fields))

    def columns(self, batch: Any, rows: int) -> Columns:
        self._require(self._name, batch, rows)
        index = np.fromiter((int(value[0]) for value in batch), np.int32, rows)
        if rows and not (index.min() >= 0 and index.max() < len(self._choices)):
            raise SchemaError(f"{self._name}: index {index.max()} is none of its {len(self._choices)} spaces")
        out: Columns = {f"{self._name}/index": index}
        for number, layout in enumerate(self._choices):
            mine = np.flatnonzero(index == number)
            chosen = layout.columns(layout.stack([batch[i][1] for i in mine.tolist()]), len(mine)) if len(mine) else {}
            for field in layout.fields:
                dtype = chosen[field.name].dtype if chosen else field.numpy_dtype
                out[field.name] = np.zeros((rows, *field.shape), dtype)
                if chosen:
                    out[field.name][mine] = chosen[field.name]
        return out

    def values(self, columns: Mapping[str, np.ndarray], rows: int) -> Any:
        index = np.asarray(columns[f"{self._name}/index"])
        out: list[Any] = [None] * rows
        for number, layout in enumerate(self._choices):
            mine = np.flatnonzero(index == number).tolist()
            if mine:
                chosen = layout.values({f.name: np.asarray(columns[f.name])[mine] for f in layout.fields}, len(mine))
                for place, row in enumerate(mine):
                    out[row] = (np.int64(number), layout.one(chosen, place))
        return tuple(out)


def ragged(inner: Sequence[Field], name: str, most: int, belongs: Belongs) -> tuple[Field, ...]:
    """The fields of up to `most` entries that have `inner` each, and the field that counts them."""
    length = Field(f"{name}/length", "i4", (), belongs, meaning="how many entries count", low=0, high=most)
    grown = (
        msgspec.structs.replace(field, shape=(most, *field.shape), ragged=length.name, channels=()) for field in inner
    )
    return (*grown, length)


def _require_room(name: str, lengths: np.ndarray, most: int, raised_by: str) -> None:
    longest = int(lengths.max(initial=0))
    if longest > most:
        raise SchemaError(f"{name}: {longest} entries, and there is room for {most}; give a larger {raised_by}")
