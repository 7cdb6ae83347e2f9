"""What a run is, from whatever of it still says so: `run.yaml`, or the headers of its shards."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from expkit.errors import CheckFailed, NotThere, ShardError
from expkit.formats.shard.read import ShardReader
from expkit.row.episodes import PolicyInfo
from expkit.runs.entries import info_from_header
from expkit.runs.layout import RunInfo, ShardPath, read_run_info


def describe(path: Path, shards: Iterable[ShardPath]) -> tuple[RunInfo, str]:
    """run.yaml, or the same from the shards where it is gone, damaged, or says something else than all of them."""
    damage, info = "", None
    try:
        info = read_run_info(path)
    except (NotThere, CheckFailed) as error:
        damage = str(error).removeprefix(f"{path}/").split(";")[0]
    told: list[RunInfo] = []
    policies: list[PolicyInfo] = []
    for shard in shards:
        try:
            with ShardReader(shard.path) as reader:
                if any(finding.rule == "file/header" for finding in reader.findings) and not reader.closed:
                    continue
                told.append(info_from_header(reader))
                found = [told[-1].policies]
                if info is None:
                    found += [msgspec.convert(meta["policies"], list[PolicyInfo]) for meta in reader.metas
                              if "policies" in meta]  # fmt: skip
                policies = max([policies, *found], key=len)
        except (ShardError, NotThere, msgspec.ValidationError):
            continue
        if info is not None and _same(info, told[-1]):
            return info, ""
    if info is not None and (not told or not all(_same(told[0], other) for other in told)):
        return info, ""
    if not told:
        raise CheckFailed(f"{path}: neither run.yaml nor any shard says what this run is; nothing can be recovered")
    if info is not None:
        damage = "run.yaml says something else than all shards"
    # A shard is made after its run: the oldest says best when that was.
    first = min(told, key=lambda one: one.created_ns)
    first.policies = policies
    return first, damage


def _same(one: RunInfo, other: RunInfo) -> bool:
    return (one.id, one.schema, one.players) == (other.id, other.schema, other.players)
