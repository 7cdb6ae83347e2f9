"""The sound file made of a damaged shard: blocks byte for byte where nothing is wrong with them, others as they were
planned to be mended, and every record that is whole. Holds one block in memory at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expkit.errors import ShardError
from expkit.formats.shard.digest import RowHasher
from expkit.formats.shard.encode import BlockEncoder
from expkit.formats.shard.layout import KIND_DROPS, KIND_EPISODES, KIND_META
from expkit.formats.shard.read import DropsRecord, EpisodesRecord, ShardReader
from expkit.formats.shard.records import RecordFile
from expkit.formats.shard.write import ShardWriter
from expkit.recovery.salvage import Record, ShardSurvey, record_of
from expkit.recovery.salvage_block import mend_block
from expkit.row.episodes import EpisodeEnd, EpisodeStart
from expkit.row.schema import Schema


def salvage(
    survey: ShardSurvey,
    target: Path,
    header: Mapping[str, Any],
    schema: Schema,
    *,
    starts: Sequence[EpisodeStart] = (),
    ends: Sequence[EpisodeEnd] = (),
) -> None:
    """Write a sound file at `target`, which does not exist: what `survey` found whole, behind `header`. It is durable
    when this returns, and closed unless it stands in for an active one.

    starts, ends  records in place of those that were lost; starts go before all blocks, ends behind

    Raises ShardError when a block that could be read then cannot be read now, NoSpace, WriteFailed.
    """
    closes = not survey.shard.active
    if not survey.opens:
        with ShardWriter(target, schema, header) as writer:
            writer.append_episodes(starts, ends)
            _finish(writer, closes)
        return
    with ShardReader(survey.shard.path, schema=schema) as reader:
        reader.blocks = survey.blocks
        with ShardWriter(target, reader.schema, header) as writer:
            writer.append_episodes(starts)
            _copy_records(reader, survey, writer)
            writer.append_episodes(ends=ends)
            _finish(writer, closes)


def _finish(writer: ShardWriter, closes: bool) -> None:
    if closes:
        writer.close()
    else:
        writer.sync()
        writer.abandon()


def _copy_records(reader: ShardReader, survey: ShardSurvey, writer: ShardWriter) -> None:
    """Blocks and records in the order of the file, then the drops of blocks that are given up."""
    hasher, encoder = RowHasher(reader.schema), BlockEncoder(reader.schema)
    place = {block.offset: block.index for block in survey.blocks}
    told: dict[int, Counter[str]] = {}
    file = RecordFile(reader.path, reader.schema)
    try:
        for envelope, head in file.walk():
            index = place.get(envelope.offset)
            if index is not None:
                plan = survey.plans[index]
                if plan.given_up:
                    continue
                block, done = mend_block(reader, plan, hasher, encoder)
                if done.lost != plan.lost:
                    raise ShardError(f"{reader.path} block {index}: it could be read before; run expkit recover again")
                writer.append_block(block)
                told.setdefault(block.player, Counter()).update(block.dropped)
            elif envelope.kind in (KIND_EPISODES, KIND_META, KIND_DROPS):
                try:
                    _put(record_of(envelope, head, reader.path), writer, told)
                except ShardError:
                    continue
    finally:
        file.close()
    for player, causes in survey.drops.items():
        left = causes - told.get(player, Counter())
        if left:
            writer.append_drops(player, left)


def _put(record: Record | None, writer: ShardWriter, told: dict[int, Counter[str]]) -> None:
    if isinstance(record, EpisodesRecord):
        writer.append_episodes(record.starts, record.ends)
    elif isinstance(record, DropsRecord):
        writer.append_drops(record.player, record.causes)
        told.setdefault(record.player, Counter()).update(record.causes)
    elif record is not None:
        writer.append_meta(record)
