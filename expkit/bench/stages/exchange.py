"""Runs handed over: exported to each format, and imported again.

Beside an export stands the same format given the same batches out of memory: what its library allows. Beside an import
the file's rows read by the library and let go.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from expkit.bench.lab import Lab
from expkit.bench.stage import Trial, stage
from expkit.bench.stages.runs import write_run
from expkit.exchange.export import export
from expkit.exchange.importing import import_table
from expkit.exchange.plan import Asked, ExportPlan, plan_export
from expkit.exchange.registry import find_format
from expkit.exchange.rows import batches
from expkit.formats.protocol import Batch, ExportOptions, Format
from expkit.rewrite.sources import Sources
from expkit.system.files import remove_path, remove_tree

LIBRARY = "the library, rows in memory"
READING = "the library reading"
# By format: the libraries it needs, and workloads. As text a board is some 20 KB: there only those that are recorded.
_FORMATS = {
    "parquet": (("pyarrow",), ("W", "R")),
    "arrow": (("pyarrow",), ("W", "R")),
    "npz": ((), ("W", "R")),
    "hdf5": (("h5py",), ("W", "R")),
    "minari": (("minari", "h5py"), ("W", "R")),
    "ndjson": ((), ("R",)),
    "csv": ((), ("R",)),
}


def _plan_of(lab: Lab, workload: str, name: str) -> tuple[Sources, ExportPlan, int]:
    """A run of the workload's rows, its export, and the bytes of a row."""
    work, path = lab.workload(workload), lab.path("run")
    write_run(path, work, 1)
    sources = Sources([path])
    return sources, plan_export(sources, find_format(name), Asked()), work.row_bytes


def _out(lab: Lab, chosen: Format) -> Iterator[Path]:
    """Names of outputs, each of which replaces the one before."""
    base, before = lab.path("out"), None
    for number in count():
        if before is not None:
            remove_path(before)
        before = base.with_name(f"{base.name}{number}{next(iter(chosen.suffixes), '')}")
        yield before


def _export(lab: Lab, workload: str, name: str) -> Trial:
    sources, plan, row_bytes = _plan_of(lab, workload, name)
    part, chosen = plan.parts[0], plan.format
    held: list[Batch] = list(
        batches(sources, part, plan.asked, by_player=bool(getattr(chosen, "by_player", False)), threads=1)
    )
    outs = _out(lab, chosen)
    size = [0]

    def run() -> None:
        size[0] = export(plan, next(outs)).bytes

    def limit() -> None:
        chosen.export(iter(held), part.head, next(outs), ExportOptions())

    def close() -> None:
        sources.close()
        remove_tree(sources.runs[0].path)
        remove_path(next(outs))

    rows = plan.rows
    return Trial(
        run, rows, rows * row_bytes, limit, finish=lambda: {"bytes_per_row": size[0] / rows}, close=close,
        repeatable=False,
    )  # fmt: skip


def _import(lab: Lab, workload: str, name: str) -> Trial:
    sources, plan, row_bytes = _plan_of(lab, workload, name)
    chosen, source, into = plan.format, next(_out(lab, plan.format)), lab.path("back")
    export(plan, source)

    def run() -> None:
        import_table(source, into, chosen, force=True)

    def limit() -> None:
        for _ in chosen.import_(source).batches:
            pass

    def close() -> None:
        sources.close()
        for path in (sources.runs[0].path, source, into):
            remove_path(path)

    return Trial(run, plan.rows, plan.rows * row_bytes, limit, close=close, repeatable=False)


def _register(name: str, libraries: tuple[str, ...], workloads: tuple[str, ...]) -> None:
    if not all(importlib.util.find_spec(library) for library in libraries):
        return
    about = find_format(name).about

    @stage(
        f"export/{name}", f"exported: {about}", workloads=workloads, limit=LIBRARY, suites=("full",), steady=False,
        traced=False,
    )  # fmt: skip
    def exported(lab: Lab, workload: str) -> Trial:
        return _export(lab, workload, name)

    if name == "csv":
        return

    @stage(
        f"import/{name}", f"imported: {about}", workloads=workloads, limit=READING, suites=("full",), steady=False,
        traced=False,
    )  # fmt: skip
    def imported(lab: Lab, workload: str) -> Trial:
        return _import(lab, workload, name)


for _name, (_libraries, _workloads) in _FORMATS.items():
    _register(_name, _libraries, _workloads)
