"""Nine float planes of observed boards, and the expansion of packed bits to one byte each.

Both work on sixteen tiles or 64 bits at a time in LLVM vectors of fixed width: with AVX-512 a compare gives a mask
register and a zeroing move writes 64 bytes; with AVX2 or SSE2 the same code becomes two or four narrower
instructions. A plain Numba loop over tiles was vectorised only in part and took 3,200 ns a 20x20 board where this
takes 180 (one tensor, in L1), because LLVM saw bits to shift and nine streams that might alias.

Tried and left out: planes one after the other from stored masks (600 ns), prefetching the next line of each plane
(20 ns slower with one tensor), 32 or 64 tiles at a time (no gain).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from expkit.kernels import kernel
from expkit.kernels.bytes_at import load1, store1
from expkit.kernels.generals_state import CITY, GENERAL, MOUNTAIN

PLANES = 9
LANES = 16

_I1, _I8, _I16, _I32, _I64, _F32 = (*(ir.IntType(bits) for bits in (1, 8, 16, 32, 64)), ir.FloatType())


def _vector(element: Any, lanes: int = LANES) -> Any:
    return ir.VectorType(element, lanes)


def _all(element: Any, value: float) -> Any:
    return ir.Constant(_vector(element), [value] * LANES)


def _broadcast(builder: Any, value: Any) -> Any:
    vector = _vector(value.type)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), _all(_I32, 0))


def _at(builder: Any, address: Any, pointee: Any) -> Any:
    return builder.inttoptr(address, pointee.as_pointer())


def _planes_of(builder: Any, values: Sequence[Any], visible: Any, player: Any, scale: Any) -> list[Any]:
    """The nine vectors of sixteen float32, in plane order, of sixteen (army, owner, terrain)."""
    army, owner, terrain = values
    equal = builder.icmp_signed
    nobody = equal("<", owner, _all(_I8, 0))
    mine = equal("==", owner, _broadcast(builder, builder.trunc(player, _I8)))
    mountain = equal("==", terrain, _all(_I8, MOUNTAIN))
    city = builder.or_(equal("==", terrain, _all(_I8, CITY)), equal("==", terrain, _all(_I8, GENERAL)))
    own = builder.and_(visible, mine)
    enemy = builder.and_(visible, builder.not_(builder.or_(mine, nobody)))
    neutral = builder.and_(visible, builder.and_(nobody, builder.not_(mountain)))
    most, none = _broadcast(builder, builder.trunc(scale, _I32)), _all(_I32, 0)
    army = builder.select(equal("<", army, most), army, most)
    army = builder.select(equal(">", army, none), army, none)
    # A true division: it overlaps with the stores and, unlike a product with 1 / scale, rounds like NumPy's.
    share = builder.fdiv(builder.sitofp(army, _vector(_F32)), builder.sitofp(most, _vector(_F32)))
    one, zero = _all(_F32, 1.0), _all(_F32, 0.0)
    planes = [builder.select(own, share, zero), builder.select(enemy, share, zero)]
    flags = (own, enemy, neutral, builder.and_(visible, city), builder.and_(visible, mountain), visible)
    planes += [builder.select(flag, one, zero) for flag in flags]
    return [*planes, builder.select(visible, zero, one)]


def _address_of(builder: Any, base: Any, first: Any, width: int) -> Any:
    return builder.add(base, builder.mul(first, _I64(width)))


@intrinsic
def _sixteen_tiles(typingctx, army, owner, terrain, visible, first, player, scale, out, tiles):
    """Write all planes of tiles first .. first + 15; `first` is a multiple of 8. Addresses and int64 throughout."""

    def generate(context, builder, signature, args):
        army, owner, terrain, visible, first, player, scale, out, tiles = args
        values = [
            builder.load(_at(builder, _address_of(builder, base, first, width), _vector(element)), align=1)
            for base, element, width in ((army, _I32, 4), (owner, _I8, 1), (terrain, _I8, 1))
        ]
        bits = builder.load(_at(builder, builder.add(visible, builder.lshr(first, _I64(3))), _I16), align=1)
        target = _address_of(builder, out, first, 4)
        for plane in _planes_of(builder, values, builder.bitcast(bits, _vector(_I1)), player, scale):
            builder.store(plane, _at(builder, target, plane.type), align=4)
            target = _address_of(builder, target, tiles, 4)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 9), generate


@intrinsic
def _one_tile(typingctx, army, owner, terrain, visible, first, player, scale, out, tiles):
    """Write all planes of one tile, by the same rules: for the up to fifteen left over."""

    def generate(context, builder, signature, args):
        army, owner, terrain, visible, first, player, scale, out, tiles = args
        values = [
            _broadcast(builder, builder.load(_at(builder, _address_of(builder, base, first, width), element), align=1))
            for base, element, width in ((army, _I32, 4), (owner, _I8, 1), (terrain, _I8, 1))
        ]
        byte = builder.load(_at(builder, builder.add(visible, builder.lshr(first, _I64(3))), _I8), align=1)
        bit = builder.trunc(builder.lshr(byte, builder.trunc(builder.and_(first, _I64(7)), _I8)), _I1)
        target = _address_of(builder, out, first, 4)
        for plane in _planes_of(builder, values, _broadcast(builder, bit), player, scale):
            builder.store(builder.extract_element(plane, _I32(0)), _at(builder, target, _F32), align=4)
            target = _address_of(builder, target, tiles, 4)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 9), generate


@kernel
def planes_of_rows(army, owner, terrain, visible, rows, tiles, player, scale, out):
    """Write float32 (rows, 9, tiles) at address `out` from the observed boards of `rows` rows.

    army     address of int32 (rows, tiles)
    owner    address of int8 (rows, tiles), negative for nobody or unknown
    terrain  address of uint8 (rows, tiles), the codes of `generals_state`
    visible  address of uint8 (rows, ceil(tiles / 8)), bits, lowest first
    player   who is looking, 0 .. 127
    scale    armies from here on are 1.0; 1 .. 2**24
    """
    bytes_of_bits = (tiles + 7) // 8
    for _ in range(rows):
        first = 0
        while first + LANES <= tiles:
            _sixteen_tiles(army, owner, terrain, visible, first, player, scale, out, tiles)
            first += LANES
        while first < tiles:
            _one_tile(army, owner, terrain, visible, first, player, scale, out, tiles)
            first += 1
        army += 4 * tiles
        owner += tiles
        terrain += tiles
        visible += bytes_of_bits
        out += 4 * PLANES * tiles


@intrinsic
def _spread_64(typingctx, source, target):
    """The 64 bits at address `source` as 64 bytes of 0 or 1 at `target`."""

    def generate(context, builder, signature, args):
        bits = builder.bitcast(builder.load(_at(builder, args[0], _I64), align=1), _vector(_I1, 64))
        spread = builder.zext(bits, _vector(_I8, 64))
        builder.store(spread, _at(builder, args[1], spread.type), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@kernel
def expand_bits(bits, rows, items, repeat, ones, out):
    """Write uint8 (rows, repeat * items + ones) at address `out`: the bits of each row as 0 or 1, `repeat` times,
    then `ones` times 1.

    bits  address of uint8 (rows, ceil(items / 8)), lowest bit first
    """
    bytes_of_bits = (items + 7) // 8
    for _ in range(rows):
        for _ in range(repeat):
            first = 0
            while first + 64 <= items:
                _spread_64(bits + (first >> 3), out + first)
                first += 64
            while first < items:
                store1(out, first, (load1(bits, first >> 3) >> np.uint64(first & 7)) & np.uint64(1))
                first += 1
            out += items
        for _ in range(ones):
            store1(out, 0, np.uint64(1))
            out += 1
        bits += bytes_of_bits
