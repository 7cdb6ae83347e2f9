"""Typed stores and loads at a byte offset of an array, and two bit counts, for kernels that write rows.

Offsets are trusted: the callers compute them from layouts, nothing is checked.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_BYTE = ir.IntType(8)


def _address(context, builder, array_type, array, offset):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(builder.bitcast(data, _BYTE.as_pointer()), [offset])


@intrinsic
def clear_bytes(typingctx, target, offset, count):
    """Set `count` bytes of a contiguous array to zero, from a byte offset on."""
    signature = types.void(target, types.int64, types.int64)

    def generate(context, builder, signature, args):
        to = _address(context, builder, signature.args[0], args[0], args[1])
        cgutils.memset(builder, to, args[2], 0)
        return context.get_dummy_value()

    return signature, generate


def _store(numba_type):
    @intrinsic
    def store(typingctx, target, offset, value):
        signature = types.void(target, types.int64, numba_type)

        def generate(context, builder, signature, args):
            to = _address(context, builder, signature.args[0], args[0], args[1])
            builder.store(args[2], builder.bitcast(to, args[2].type.as_pointer()), align=1)
            return context.get_dummy_value()

        return signature, generate

    return store


store_u16 = _store(types.uint16)
store_u32 = _store(types.uint32)
store_i32 = _store(types.int32)
store_i64 = _store(types.int64)
store_f32 = _store(types.float32)


@intrinsic
def load_u64(typingctx, source, offset):
    """The eight bytes at a byte offset as one little-endian uint64."""
    signature = types.uint64(source, types.int64)

    def generate(context, builder, signature, args):
        start = _address(context, builder, signature.args[0], args[0], args[1])
        return builder.load(builder.bitcast(start, ir.IntType(64).as_pointer()), align=1)

    return signature, generate


@intrinsic
def count_ones(typingctx, value):
    """Number of set bits of a uint64."""

    def generate(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.int64(types.uint64), generate


@intrinsic
def lowest_one(typingctx, value):
    """Index of the lowest set bit of a uint64; 64 for zero."""

    def generate(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate
