"""Writing one row from Python: a function made for the very keys that rows have.

A loop over the items of a row finds where each goes, how it is checked, and writes it: 65 ns a scalar. Written out,
`t3[at] = row[k3]`, it is 40, and half of what is left is the row's own dictionary. So for each set of keys and each
block such a function is compiled, once; no name or value of a row stands in its source.

Memoryviews take scalars: they refuse what the type cannot hold, and cost two thirds of an array's element.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from expkit.kernels.bits import pack_flags
from expkit.kernels.gather import stream_array
from expkit.row.layout import ALIGN, aligned_empty
from expkit.row.schema import Column

# (row, at, keys in the order they were asked for) -> None; raises TypeError, ValueError, KeyError or AttributeError
# for a row that has to be looked at more closely, which may then be written in part.
RowWriter = Callable[..., None]
_BOOL = np.dtype(bool)
# A ring is larger than the caches: rows of some length go past them, 14 KB in 0.8 instead of 1.7 us.
_STREAM_ROW = 4096
# What a writer raises for a row that does not fit its plan.
UNFIT = (TypeError, ValueError, AttributeError, KeyError)


def compile_writer(
    columns: Mapping[str, Column],
    views: Mapping[str, np.ndarray],
    given: Iterable[str],
    keys: Sequence[str] = (),
    marks: Iterable[tuple[str, int]] = (),
) -> RowWriter:
    """`write(row, at, *keys)` for rows with the names `given`.

    columns, views  of the block, by name; what is written goes to row `at` of the views
    keys            names of scalar columns whose values are arguments of their own
    marks           (name, number): columns that get the same number in every row
    """
    made = _Source()
    for name in given:
        made.take(columns[name], views[name], f"row[{made.name(name)}]")
    for place, name in enumerate(keys):
        made.lines.append(f"{made.name(memoryview(views[name]))}[at] = key{place}")  # type: ignore[arg-type]
    for name, number in marks:
        target = views[name] if views[name].ndim > 1 else memoryview(views[name])  # type: ignore[arg-type]
        made.lines.append(f"{made.name(target)}[at] = {number:d}")
    return made.compile([f"key{place}" for place in range(len(keys))])


def compile_batch_writer(
    columns: Mapping[str, Column],
    views: Mapping[str, np.ndarray],
    given: Iterable[str],
    marks: Iterable[tuple[str, int]] = (),
) -> RowWriter:
    """`write(batch, at, stop)` for batches of stored arrays with the names `given`, which go to rows [at, stop).

    Of 256 small rows, looking at what was given took 80 % of the time."""
    made = _Source()
    for name in given:
        view, value = views[name], f"row[{made.name(name)}]"
        if view.ndim == 1 and not (columns[name].dtype.kind == "f" and columns[name].dtype.itemsize == 2):
            # A slice of a memoryview takes nothing but the same type and length.
            made.lines.append(f"{made.name(memoryview(view))}[at:stop] = {value}")  # type: ignore[arg-type]
            continue
        dtype, tail = made.name(view.dtype), made.name(view.shape[1:])
        made.lines += [
            f"v = {value}",
            f"if v.dtype is not {dtype} or v.shape != (stop - at, *{tail}): raise TypeError",
            *made.assign(view, "[at:stop]", "v.flags.c_contiguous", (1, *view.shape[1:])),
        ]
    made.lines += [f"{made.name(views[name])}[at:stop] = {number:d}" for name, number in marks]
    return made.compile(["stop"])


class _Source:
    """Lines of a function, and the objects that they name."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._objects: dict[str, Any] = {}

    def name(self, thing: Any) -> str:
        """A local name for an object."""
        name = f"o{len(self._objects)}"
        self._objects[name] = thing
        return name

    def take(self, column: Column, view: np.ndarray, value: str) -> None:
        """Check a value and write it."""
        if not column.items and not (column.dtype.kind == "f" and column.dtype.itemsize == 2):
            self.lines.append(f"{self.name(memoryview(view))}[at] = {value}")  # type: ignore[arg-type]
        elif not column.items:  # memoryviews of half floats need Python 3.12
            kinds = self.name((float, int, np.floating))
            self.lines += [
                f"v = {value}",
                f"if not isinstance(v, {kinds}): raise TypeError",
                f"{self.name(view)}[at] = v",
            ]
        elif column.packed:
            self._take_flags(column, view, value)
        else:
            assert column.field is not None  # all keys are scalars
            shape, dtype = self.name(column.field.shape), self.name(column.dtype)
            # NumPy would broadcast or cast other values silently.
            cast = f" and not v.dtype.kind == 'f' == {dtype}.kind"
            self.lines += [
                f"v = {value}",
                f"if v.shape != {shape} or (v.dtype is not {dtype}{cast}): raise TypeError",
            ]
            shaped = view.reshape(-1, *column.field.shape)
            self.lines += self.assign(shaped, "[at]", f"v.dtype is {dtype} and v.flags.c_contiguous", shaped.shape[1:])

    def assign(self, view: np.ndarray, place: str, fits: str, shape: tuple[int, ...]) -> list[str]:
        """`v` into a place of a view; past the caches where its rows are long and it `fits`, like arrays of a shape."""
        plain, width = f"{self.name(view)}{place} = v", view.strides[0]
        if width < _STREAM_ROW or (width | view.ctypes.data) % ALIGN:
            return [plain]
        spare = aligned_empty(width)
        stream_array(np.zeros(shape, view.dtype), spare.ctypes.data)  # compiled now, not in the middle of a game
        stream, base = self.name(stream_array), self.name(view.ctypes.data)
        return [f"if {fits}: {stream}(v, {base} + at * {width})", f"else: {plain}"]

    def _take_flags(self, column: Column, view: np.ndarray, value: str) -> None:
        """Bool arrays of the field's shape, or the bytes as they are stored."""
        assert column.field is not None
        shape, full, stored = column.field.shape, column.field.logical_shape, view.shape[1:]
        pack, base = self.name(pack_flags), self.name(view.ctypes.data)
        flat = "v" if len(shape) == 1 else "v.reshape(-1)"
        fits = f"v.shape == {self.name(shape)}"
        if full != shape:  # of a vector that is longer for its readers, the first flags are stored
            fits = f"({fits} or v.shape == {self.name(full)})"
        self.lines += [
            f"v = {value}",
            f"if v.dtype is {self.name(_BOOL)} and {fits} and v.flags.c_contiguous:",
            f"    {pack}({flat}, {column.field.items}, {base} + at * {view.shape[1]})",
        ]
        if stored != shape:
            self.lines += [
                f"elif v.dtype == 'u1' and v.shape == {self.name(stored)}: {self.name(view)}[at] = v",
            ]
        self.lines.append("else: raise TypeError")

    def compile(self, keys: Sequence[str]) -> RowWriter:
        head = ", ".join(["row", "at", *keys, *(f"{name}={name}" for name in self._objects)])
        body = "\n    ".join(self.lines or ["pass"])
        space = dict(self._objects)
        exec(f"def write({head}):\n    {body}", space)
        writer: RowWriter = space["write"]
        return writer
