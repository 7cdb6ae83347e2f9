"""All Numba code: pure loops over arrays, `nogil`, results in `out` arguments, no I/O, no logging.
Imports nothing of expkit.

`kernel` is the one decorator. Compiled code is cached on disk in a folder named by a digest of this package's
sources, because Numba's own cache leaves a caller stale when a callee in another file changes. Writes to that cache
take a lock, because two processes that save at a time can mix up their files (numba#4807); and `compiling` lets one
process compile a group of kernels while others wait, rather than all of them do the same work.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def _sources_digest() -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _cache_dir() -> Path:
    root = os.environ.get("EXPKIT_CACHE_DIR") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "expkit"
    )
    return Path(root) / "kernels" / _sources_digest()


CACHE_DIR = _cache_dir()

import numba  # noqa: E402  (after the digest: nothing above needs it)
from numba.core import caching, config  # noqa: E402

if "NUMBA_CACHE_DIR" not in os.environ:
    config.CACHE_DIR = str(CACHE_DIR)


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """Hold an exclusive lock of the cache folder; none where the folder cannot be written."""
    try:
        CACHE_DIR.mkdir(parents=True, exist_ok=True)
        lock = os.open(CACHE_DIR / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        yield
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


_save_unlocked = caching.IndexDataCacheFile.save


def _save(self: Any, key: Any, data: Any) -> None:
    """Numba reads the index, picks a free file number and writes both back: one process at a time."""
    with _locked(".save"):
        _save_unlocked(self, key, data)


caching.IndexDataCacheFile.save = _save


def kernel(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`numba.njit` with this project's options: nogil, cached, no error model surprises."""
    settings = {"nogil": True, "cache": True, "error_model": "numpy", **options}
    return numba.njit(**settings) if function is None else numba.njit(**settings)(function)


def inner(function: Callable[..., Any]) -> Any:
    """A kernel that only other kernels call: without the wrappers that Python would need, and cached as part of its
    callers."""
    return kernel(function, cache=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def is_warm(marker: str) -> bool:
    """Whether `compiling(marker)` has finished once for these sources on this machine."""
    return (CACHE_DIR / f"{marker}.done").exists()


@contextmanager
def compiling(marker: str) -> Iterator[bool]:
    """Hold the cache lock while kernels of group `marker` compile for the first time.

    Yields whether they are warm already; then no lock is taken. A cache folder that cannot be written
    (read-only home) is no error: kernels then compile in every process.
    """
    if is_warm(marker):
        yield True
        return
    with _locked(".compiling"):
        yield is_warm(marker)
        with suppress(OSError):
            (CACHE_DIR / f"{marker}.done").touch()
