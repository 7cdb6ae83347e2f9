"""The native shard file: see SPEC.md for the bytes, ShardWriter and ShardReader for their use."""

from expkit.formats.shard.blocks import BlockInfo, Statistics
from expkit.formats.shard.check import check_shard
from expkit.formats.shard.copy import copy_block, keys_of_runs
from expkit.formats.shard.digest import RowHasher
from expkit.formats.shard.encode import BlockEncoder, EncodedBlock
from expkit.formats.shard.layout import VERSION, Finding
from expkit.formats.shard.read import ShardReader
from expkit.formats.shard.seal import Sealed, seal_shard
from expkit.formats.shard.write import ShardWriter

__all__ = [
    "VERSION",
    "BlockEncoder",
    "BlockInfo",
    "EncodedBlock",
    "Finding",
    "RowHasher",
    "Sealed",
    "ShardReader",
    "ShardWriter",
    "Statistics",
    "check_shard",
    "copy_block",
    "keys_of_runs",
    "seal_shard",
]
