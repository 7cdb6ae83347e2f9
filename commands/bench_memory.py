"""`expkit bench --stage NAME --memory-profile FILE`: where the memory of a stage goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from expkit.bench.lab import Lab
from expkit.bench.memory_profile import check_memray, profile_memory
from expkit.bench.stage import Stage
from expkit.commands import output
from expkit.commands.output import Column
from expkit.errors import UsageError
from expkit.system.units import format_size

_SHOWN = 15


def run_memory_profile(chosen: Sequence[Stage], path: Path, folder: Path, source: str, json: bool) -> None:
    """Profile the only stage that is chosen, print where its memory is. Raises UsageError, MissingExtra."""
    names = [(stage, workload) for stage in chosen for workload in stage.workloads]
    if len(names) != 1:
        told = ", ".join(f"{stage.name} {workload}".strip() for stage, workload in names[:4])
        raise UsageError(f"--memory-profile is of one measurement, not of {told}…; choose by --stage and --workload")
    check_memray()
    stage, workload = names[0]
    with Lab(folder, source) as lab:
        found = profile_memory(lab, stage, workload, path)
    if json:
        output.write_json(msgspec.to_builtins(found))
        return
    title = f"{stage.name} {workload}".strip()
    output.line((title, "bold"), f": {format_size(found.peak_bytes)} at the peak of one pass, in {path}")
    columns = [Column("held", right=True), Column("share", right=True), Column("allocations", right=True)]
    columns += [Column("where", fold=True), Column("function", wide=110)]
    output.table(
        columns,
        [
            [
                format_size(one.bytes), f"{one.bytes / max(found.peak_bytes, 1) * 100:.1f}%", f"{one.allocations:,}",
                one.where, one.function,
            ]
            for one in found.holdings[:_SHOWN]
        ],
    )  # fmt: skip
    rest = found.holdings[_SHOWN:]
    if rest:
        output.line((f"and {len(rest):,} lines more, {format_size(sum(one.bytes for one in rest))}", "dim"))
    output.hint(f"memray flamegraph {output.quoted(path)}")
