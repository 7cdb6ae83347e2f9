"""How many blocks of how many rows fit a memory budget."""

from __future__ import annotations

from dataclasses import dataclass

from expkit.errors import MemoryBudget
from expkit.row.layout import ALIGN, BlockLayout
from expkit.row.schema import Schema
from expkit.system.units import format_size

# A block holds this many steps of each concurrent game if memory allows: 20x20 boards then take 18 bytes a row on
# disk; 20 with 64 steps, 32 with 16, 78 with 4.
STEPS_WANTED = 128
ROWS_WANTED = 1024  # few games at once: larger blocks cost nothing and have fewer headers
# Of narrow rows a block holds more: beside a busy Python loop whoever drains waits 5 ms for the GIL some ten times a
# block, and of 2,048 rows of 51 bytes a block it kept up with 20,000 a second.
BYTES_WANTED = 2 << 20
ROWS_PER_TICK = 2  # a tick writes at most the last row of one episode and the first of the next, per game
BLOCKS_WANTED = 8
BLOCKS_ENOUGH = 3  # one filling, one full, one being drained
WORK_BUFFERS = 2  # block-sized, per drain thread: sorted rows and compressed bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """Blocks for a recorder. All sizes in bytes; `total` = `arena` + `scratch` is within the budget."""

    block_rows: int
    blocks_per_player: int
    arena: int
    scratch: int
    total: int


def plan_blocks(
    schema: Schema,
    players: int,
    num_envs: int,
    memory_bytes: int,
    drain_threads: int = 1,
    *,
    producers: int = 1,
) -> Plan:
    """The best blocks for `num_envs` concurrent games per producer thread within `memory_bytes`.

    Each of `producers` threads fills a block per player, so there are two blocks more than that, or as near to it as
    fits. When memory is short blocks get smaller first, down to one tick's rows, and then fewer. Raises MemoryBudget,
    naming the smallest budget that works, when it cannot hold one block per player and producer.
    """
    wanted = max(STEPS_WANTED * num_envs, ROWS_WANTED, BYTES_WANTED // schema.row_bytes)
    smallest = ROWS_PER_TICK * num_envs
    for blocks in range(producers + BLOCKS_ENOUGH - 1, producers - 1, -1):
        rows = _most_rows(schema, players * blocks, drain_threads, smallest, wanted, memory_bytes)
        if rows == 0:
            continue
        while (
            rows == wanted
            and blocks < producers + BLOCKS_WANTED - 1
            and _total(schema, rows, players * (blocks + 1), drain_threads) <= memory_bytes
        ):
            blocks += 1
        return _plan(schema, rows, players, blocks, drain_threads)
    needed = _total(schema, smallest, players * producers, drain_threads)
    raise MemoryBudget(
        f"{format_size(memory_bytes)} cannot hold one block per player; {players} players and {num_envs} games at "
        f"once need {format_size(needed)} ({needed:,} bytes): raise --memory or lower --num-envs"
    )


def _spare_blocks(drain_threads: int) -> int:
    """Work buffers, and the block that rows go to which `drop-newest` refuses."""
    return WORK_BUFFERS * drain_threads + 1


def _total(schema: Schema, rows: int, ring_blocks: int, drain_threads: int) -> int:
    return BlockLayout(schema, rows).nbytes * (ring_blocks + _spare_blocks(drain_threads))


def _most_rows(
    schema: Schema, ring_blocks: int, drain_threads: int, smallest: int, wanted: int, memory_bytes: int
) -> int:
    """The most rows a block, up to `wanted`, with which the budget is kept; 0 if `smallest` breaks it."""
    blocks = ring_blocks + _spare_blocks(drain_threads)
    if _total(schema, wanted, ring_blocks, drain_threads) <= memory_bytes:
        return wanted
    # Each column is rounded up to a cache line: count that in and the rest is a division.
    rows = (memory_bytes // blocks - ALIGN * len(schema.columns)) // schema.row_bytes
    if rows < smallest:
        return smallest if _total(schema, smallest, ring_blocks, drain_threads) <= memory_bytes else 0
    return rows


def _plan(schema: Schema, rows: int, players: int, blocks: int, drain_threads: int) -> Plan:
    nbytes = BlockLayout(schema, rows).nbytes
    arena, scratch = nbytes * players * blocks, nbytes * _spare_blocks(drain_threads)
    return Plan(rows, blocks, arena, scratch, arena + scratch)
