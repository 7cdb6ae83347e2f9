"""Which machine this is, and what it can do at most."""

from __future__ import annotations

import os
import platform
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import zstandard

from expkit.bench.lab import Lab
from expkit.system.parallel import cores
from expkit.system.version import __version__


class Machine(msgspec.Struct):
    """Fingerprint and limits: bytes a second of copying, of compressing boards by zstd level 1, of crc32, of writing
    to the disk until it is there."""

    processor: str = ""
    cores: int = 0
    memory: int = 0
    system: str = ""
    versions: dict[str, str] = {}
    memcpy: float = 0.0
    zstd: float = 0.0
    crc32: float = 0.0
    disk: float = 0.0

    @property
    def fingerprint(self) -> str:
        """What has to be the same for figures to be comparable at all."""
        return f"{self.processor} · {self.cores} cores · {self.system}"


def look_at_machine(lab: Lab) -> Machine:
    """Fingerprint, and its limits measured for a moment each."""
    import numba

    boards = lab.workload("R").ordered["observation/army"].reshape(-1)[: 4 << 20].tobytes()
    source = np.random.default_rng(0).integers(0, 255, 64 << 20, np.uint8)
    target = np.empty_like(source)
    compressor = zstandard.ZstdCompressor(level=1)
    return Machine(
        processor=_processor(),
        cores=cores(),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.machine()}",
        versions={
            "expkit": __version__, "python": platform.python_version(), "numpy": np.__version__,
            "numba": numba.__version__, "zstandard": zstandard.__version__,
        },
        memcpy=_best(lambda: np.copyto(target, source), len(source)),
        zstd=_best(lambda: compressor.compress(boards), len(boards)),
        crc32=_best(lambda: zlib.crc32(source.data), len(source)),
        disk=_best(lambda: _write(lab, source), len(source)),
    )  # fmt: skip


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _best(call: Callable[[], object], nbytes: int) -> float:
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begun)
    return nbytes / best


def _write(lab: Lab, data: np.ndarray) -> None:
    path = lab.path("disk")
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.write(handle, data.data)
        os.fdatasync(handle)
    finally:
        os.close(handle)
        path.unlink()
