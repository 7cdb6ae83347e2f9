"""NumPy's own: an .npz file with an array for each column, opened by `numpy.load`.

A zip archive holds one member after the other, and rows come with all their columns at once. So the columns are written
to files beside the target first, and copied into the archive: memory stays that of a few batches whatever the size.
`expkit.json` in the archive says what the columns are.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from expkit.errors import ShardError
from expkit.formats.protocol import Batch, Carries, ExportOptions, Head, Recorded, column_names, column_type

HEAD_MEMBER = "expkit.json"
_COPY_BYTES = 1 << 20
_BATCH_BYTES = 8 << 20
_MOST_HEAD = 1 << 30


class NpzFormat:
    name = "npz"
    suffixes: tuple[str, ...] = (".npz",)
    about = "NumPy arrays, one a column"
    carries = Carries()
    compressions: tuple[str, ...] = ("none", "deflate")

    def export(self, batches: Iterator[Batch], head: Head, target: Path, options: ExportOptions) -> None:
        names = column_names(head.schema)
        method = zipfile.ZIP_DEFLATED if options.compression == "deflate" else zipfile.ZIP_STORED
        level = (options.level or 1) if method == zipfile.ZIP_DEFLATED else None
        rows = 0
        with ExitStack() as stack:
            folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent))
            )
            spools: dict[str, IO[bytes]] = {
                name: stack.enter_context(open(folder / str(at), "w+b")) for at, name in enumerate(names)
            }
            for batch in batches:
                rows += len(batch["episode"])
                for name, spool in spools.items():
                    spool.write(np.ascontiguousarray(batch[name]).data.cast("B"))
            with zipfile.ZipFile(target, "w", method, compresslevel=level) as archive:
                for at, (name, spool) in enumerate(spools.items()):
                    dtype, shape = column_type(head.schema, name)
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        described = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False}
                        npy.write_array_header_1_0(member, {**described, "shape": (rows, *shape)})
                        spool.seek(0)
                        shutil.copyfileobj(spool, member, _COPY_BYTES)
                    spool.close()
                    (folder / str(at)).unlink()  # so that at most one column is on the disk twice
                archive.writestr(HEAD_MEMBER, head.to_json(), zipfile.ZIP_DEFLATED)

    def import_(self, source: Path) -> Recorded:
        try:
            archive = zipfile.ZipFile(source)
        except (zipfile.BadZipFile, OSError) as error:
            raise ShardError(f"{source}: it is no .npz file: {error}") from None
        with archive:
            names = archive.namelist()
            head = None
            if HEAD_MEMBER in names:
                if archive.getinfo(HEAD_MEMBER).file_size > _MOST_HEAD:
                    raise ShardError(f"{source}: {HEAD_MEMBER} is larger than {_MOST_HEAD:,} bytes")
                head = Head.from_json(_whole(archive, HEAD_MEMBER, source), source)
        columns = [name.removesuffix(".npy") for name in names if name.endswith(".npy")]
        if not columns:
            raise ShardError(f"{source}: there are no arrays in it")
        return Recorded(_read(source, columns), head)


def _whole(archive: zipfile.ZipFile, name: str, source: Path) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise ShardError(f"{source}: {name} cannot be read: {error}") from None


def _read(source: Path, columns: list[str]) -> Iterator[Batch]:
    """All columns side by side, a batch at a time: each member is read as a stream of its own."""
    with ExitStack() as stack:
        streams: dict[str, tuple[IO[bytes], np.dtype[Any], tuple[int, ...]]] = {}
        lengths: dict[str, int] = {}
        try:
            for name in columns:
                archive = stack.enter_context(zipfile.ZipFile(source))
                member = stack.enter_context(archive.open(f"{name}.npy"))
                shape, fortran, dtype = _header(member)
                if dtype.hasobject:
                    raise ShardError(f"{source}: {name} holds Python objects, which are not read")
                if fortran and len(shape) > 1:
                    raise ShardError(f"{source}: {name} is in Fortran order; save it by numpy.ascontiguousarray first")
                if not shape:
                    continue  # a number of the whole file, no column
                streams[name], lengths[name] = (member, dtype, shape[1:]), shape[0]
            rows = next(iter(lengths.values()), 0)
            odd = [name for name, length in lengths.items() if length != rows]
            if odd:
                raise ShardError(
                    f"{source}: {odd[0]} has {lengths[odd[0]]:,} rows and {next(iter(lengths))} has {rows:,}; "
                    "columns of one table are equally long"
                )
            width = sum(dtype.itemsize * int(np.prod(shape)) for _, dtype, shape in streams.values())
            most = max(1, _BATCH_BYTES // max(width, 1))
            for begin in range(0, rows, most):
                count = min(most, rows - begin)
                yield {name: _part(source, name, count, *stream) for name, stream in streams.items()}
        except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
            if isinstance(error, ShardError):
                raise
            raise ShardError(f"{source}: it is damaged: {error}") from None


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(member)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(member)
    return shape, fortran, dtype


def _part(
    source: Path, name: str, rows: int, member: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]
) -> np.ndarray:
    want = rows * dtype.itemsize * int(np.prod(shape))
    data = member.read(want)
    if len(data) < want:
        raise ShardError(f"{source}: {name} ends early")
    return np.frombuffer(data, dtype).reshape(rows, *shape)
