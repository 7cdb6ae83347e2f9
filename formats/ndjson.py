"""Newline-delimited JSON: an object a row, arrays as lists, `null` where nothing was given and in what final rows do
not have. The first line may be `{"expkit": …}`, which says what the columns are; other readers leave it out by its only
key.

NaN and infinities stand as strings (`expkit.system.odd_floats`), integers of 64 bits as numbers with all their digits.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from expkit.errors import ShardError
from expkit.formats.protocol import (
    HEAD_KEY,
    TABLE_KEYS,
    Batch,
    Carries,
    ExportOptions,
    Head,
    Recorded,
    column_type,
)
from expkit.row.schema import Field, Schema
from expkit.system.odd_floats import ODD_FLOATS, named_within

_ROWS = 1024  # at a time: of 1,200 numbers each they are some 40 MB as Python objects
_ITEMS = 1 << 20


class NdjsonFormat:
    name = "ndjson"
    suffixes: tuple[str, ...] = (".ndjson", ".jsonl", ".ndjson.gz", ".jsonl.gz")
    about = "a JSON object a row"
    carries = Carries(bits=False)
    compressions: tuple[str, ...] = ("none", "gzip")

    def export(self, batches: Iterator[Batch], head: Head, target: Path, options: ExportOptions) -> None:
        packed = options.compression == "gzip" or (options.compression is None and target.name.endswith(".gz"))
        encoder = msgspec.json.Encoder()
        with gzip.open(target, "wb", options.level or 1) if packed else open(target, "wb", 1 << 20) as file:
            file.write(b'{"%s":%s}\n' % (HEAD_KEY.encode(), head.to_json()))
            for batch in batches:
                for lines in objects(batch, head.schema):
                    file.write(encoder.encode_lines(lines))

    def import_(self, source: Path) -> Recorded:
        head, first = None, b""
        with _open(source) as file:
            try:
                first = file.readline()
            except (OSError, EOFError) as error:
                raise ShardError(f"{source}: it cannot be read: {error}") from None
        if not first.strip():
            raise ShardError(f"{source}: there are no rows in it")
        if first.startswith(b'{"%s":' % HEAD_KEY.encode()):
            head = Head.from_json(first.strip()[len(HEAD_KEY) + 4 : -1], source)
        return Recorded(_read(source, head), head)


def objects(batch: Batch, schema: Schema) -> Iterator[list[dict[str, Any]]]:
    """Rows of a batch as Python objects, some at a time."""
    names = [*TABLE_KEYS, *(field.name for field in schema.fields)]
    items = sum(int(np.prod(batch[name].shape[1:])) for name in names)
    step = max(1, min(_ROWS, _ITEMS // max(items, 1)))
    for begin in range(0, len(batch["episode"]), step):
        part = {name: values[begin : begin + step] for name, values in batch.items()}
        columns = [part[name].tolist() for name in TABLE_KEYS]
        columns += [_values(part, field) for field in schema.fields]
        yield [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(batch: Batch, field: Field) -> list[Any]:
    values = batch[field.name]
    out: list[Any] = values.tolist()
    if field.ragged:
        out = [row[:count] for row, count in zip(out, batch[field.ragged].tolist(), strict=True)]
    if values.dtype.kind == "f":
        odd = ~np.isfinite(values)
        if odd.any():
            rows = odd.reshape(len(values), -1).any(axis=1)
            for row in np.flatnonzero(rows).tolist():
                out[row] = named_within(out[row])
    given = batch.get(f"valid:{field.name}")
    absent = np.zeros(len(values), bool) if given is None else ~given
    if field.belongs != "observation":
        absent = absent | batch["is_last"]
    for row in np.flatnonzero(absent).tolist():
        out[row] = None
    return out


def _open(source: Path) -> IO[bytes]:
    if source.suffix == ".gz":
        return gzip.open(source, "rb")  # type: ignore[return-value]
    return open(source, "rb", 1 << 20)


def _read(source: Path, head: Head | None) -> Iterator[Batch]:
    decoder = msgspec.json.Decoder()
    number, step = 0, _ROWS
    names: list[str] | None = None
    with _open(source) as file:
        while True:
            try:
                lines = file.readlines(8 << 20)
            except (OSError, EOFError) as error:
                raise ShardError(f"{source}: it is damaged after line {number}: {error}") from None
            if not lines:
                return
            for begin in range(0, len(lines), step):
                rows = []
                for line in lines[begin : begin + step]:
                    number += 1
                    if not line.strip() or (number == 1 and head is not None):
                        continue
                    try:
                        row = decoder.decode(line)
                    except msgspec.DecodeError as error:
                        raise ShardError(f"{source}: line {number} is no JSON: {error}") from None
                    if not isinstance(row, dict):
                        raise ShardError(f"{source}: line {number} is no object")
                    rows.append(row)
                if not rows:
                    continue
                if names is None:
                    names = list(rows[0])
                batch = _columns(source, rows, names, number, None if head is None else head.schema)
                yield batch


def _columns(source: Path, rows: list[dict[str, Any]], names: list[str], number: int, schema: Schema | None) -> Batch:
    out: Batch = {}
    for name in names:
        try:
            values = [row[name] for row in rows]
        except KeyError:
            raise ShardError(f"{source}: a row before line {number + 1} has no {name!r}, others have") from None
        given = np.array([value is not None for value in values])
        known = schema is not None and (name in TABLE_KEYS or name in schema)
        if known and schema is not None:
            dtype, shape = column_type(schema, name)
            if name in schema and schema[name].ragged:
                values = [_padded(value, shape) for value in values]
            out[name] = _array(source, name, values, given, dtype, shape, number)
            if name in schema and schema[name].nullable:
                out[f"valid:{name}"] = given
        elif schema is None:
            out[name] = _guessed(source, name, values, given, number)
            if not given.all():
                out[f"valid:{name}"] = given
    return out


def _padded(value: Any, shape: tuple[int, ...]) -> Any:
    """A list of fewer entries than a field holds, with zeros behind."""
    if not isinstance(value, list) or len(value) >= shape[0]:
        return value
    return value + [np.zeros(shape[1:]).tolist()] * (shape[0] - len(value))


def _array(
    source: Path,
    name: str,
    values: list[Any],
    given: np.ndarray,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    number: int,
) -> np.ndarray:
    out = np.zeros((len(values), *shape), dtype)
    listed = values if given.all() else [value for value in values if value is not None]
    if not listed:
        return out
    try:
        if dtype.kind == "f":
            made = _floats(listed)
        elif dtype.kind == "u" and dtype.itemsize == 8:
            made = np.array(listed, np.uint64)  # NumPy's own choice would be float64
        else:
            made = np.array(listed)
        exact = made.astype(dtype)
        if dtype.kind != "f" and not np.array_equal(exact, made):
            raise ValueError(f"a value does not fit {dtype}")
        out[given] = exact.reshape(len(listed), *shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise ShardError(f"{source}: {name} before line {number + 1}: {error}") from None
    return out


def _floats(values: list[Any]) -> np.ndarray:
    try:
        return np.array(values, np.float64)
    except (ValueError, TypeError):
        return np.array(_numbers(values), np.float64)


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return ODD_FLOATS[value] if isinstance(value, str) and value in ODD_FLOATS else value


def _guessed(source: Path, name: str, values: list[Any], given: np.ndarray, number: int) -> np.ndarray:
    """An array of whatever the numbers are."""
    listed = [value for value in values if value is not None]
    try:
        made = np.array(listed) if listed else np.zeros(0)
        if made.dtype.kind not in "biuf":
            made = _floats(listed)
    except (ValueError, TypeError, KeyError):
        made = np.array([str(value) for value in listed])
    out = np.zeros((len(values), *made.shape[1:]), made.dtype)
    out[given] = made
    return out
