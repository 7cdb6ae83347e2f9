"""Narrowing a choice of stages to some of their workloads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from expkit.bench.stage import STAGES, Stage
from expkit.errors import UsageError, did_you_mean


def only_workloads(stages: Sequence[Stage], wanted: Sequence[str]) -> list[Stage]:
    """The stages that run on one of `wanted`, on those alone; all as they are where nothing is wanted.
    Raises UsageError for a name that no stage knows, and where no stage is left."""
    if not wanted:
        return list(stages)
    known = sorted({name for one in STAGES.values() for name in one.workloads if name})
    for name in wanted:
        if name not in known:
            hint = did_you_mean(name, known, f"there are {', '.join(known)}")
            raise UsageError(f"no workload is called '{name}'; {hint}")
    narrowed = [
        dataclasses.replace(one, workloads=tuple(name for name in one.workloads if name in wanted)) for one in stages
    ]
    left = [one for one in narrowed if one.workloads]
    if not left:
        raise UsageError(f"no stage of these runs on {' or '.join(wanted)}; see expkit bench --list")
    return left
