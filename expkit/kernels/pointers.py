"""Typed pointers into arrays, for kernels that keep a whole game in one block of bytes.

A pointer is indexed like an array, `army[tile] += 1`, but is one machine word: passing a dozen to a helper costs
nothing, nothing is reference-counted (a slice of an array is, atomically: games ran at a sixth of the speed), and
half as much is compiled. Nothing is bounds-checked, as in all kernels, and the array must outlive the call.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_BYTE = ir.IntType(8)


def _pointer_to(element):
    @intrinsic
    def pointer(typingctx, array, offset):
        signature = types.CPointer(element)(array, types.int64)

        def generate(context, builder, signature, args):
            data = context.make_array(signature.args[0])(context, builder, args[0]).data
            start = builder.gep(builder.bitcast(data, _BYTE.as_pointer()), [args[1]])
            return builder.bitcast(start, context.get_value_type(signature.return_type))

        return signature, generate

    return pointer


# `i32_in(array, offset)`: pointer to the int32 at a byte offset of a contiguous array of any dtype
u8_in = _pointer_to(types.uint8)
i64_in = _pointer_to(types.int64)


def _pointer_at(element):
    @intrinsic
    def pointer(typingctx, start, offset):
        signature = types.CPointer(element)(start, types.int64)

        def generate(context, builder, signature, args):
            moved = builder.gep(builder.bitcast(args[0], _BYTE.as_pointer()), [args[1]])
            return builder.bitcast(moved, context.get_value_type(signature.return_type))

        return signature, generate

    return pointer


# `i32_at(pointer, offset)`: pointer to the int32 at a byte offset from where another pointer points
u8_at = _pointer_at(types.uint8)
i8_at = _pointer_at(types.int8)
i32_at = _pointer_at(types.int32)
i64_at = _pointer_at(types.int64)


@intrinsic
def copy_to(typingctx, target, target_offset, source, source_offset, count):
    """Copy `count` bytes that do not overlap, by one memcpy; byte offsets from two pointers."""
    signature = types.none(target, types.int64, source, types.int64, types.int64)

    def generate(context, builder, signature, args):
        to = builder.gep(builder.bitcast(args[0], _BYTE.as_pointer()), [args[1]])
        start = builder.gep(builder.bitcast(args[2], _BYTE.as_pointer()), [args[3]])
        cgutils.raw_memcpy(builder, to, start, args[4], 1)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def clear_at(typingctx, target, offset, count):
    """Set `count` bytes to zero, from a byte offset of a pointer on."""
    signature = types.none(target, types.int64, types.int64)

    def generate(context, builder, signature, args):
        to = builder.gep(builder.bitcast(args[0], _BYTE.as_pointer()), [args[1]])
        cgutils.memset(builder, to, args[2], 0)
        return context.get_dummy_value()

    return signature, generate


def _store(element):
    @intrinsic
    def store(typingctx, target, offset, value):
        signature = types.none(target, types.int64, element)

        def generate(context, builder, signature, args):
            to = builder.gep(builder.bitcast(args[0], _BYTE.as_pointer()), [args[1]])
            builder.store(args[2], builder.bitcast(to, args[2].type.as_pointer()), align=1)
            return context.get_dummy_value()

        return signature, generate

    return store


# `store_u32(pointer, offset, value)`: unaligned, at a byte offset
store_u8 = _store(types.uint8)
store_u16 = _store(types.uint16)
store_u32 = _store(types.uint32)
store_u64 = _store(types.uint64)
store_i64 = _store(types.int64)
store_f32 = _store(types.float32)


@intrinsic
def load_u64(typingctx, source, offset):
    """The eight bytes at a byte offset as one little-endian uint64, unaligned."""
    signature = types.uint64(source, types.int64)

    def generate(context, builder, signature, args):
        word = ir.IntType(64)
        start = builder.gep(builder.bitcast(args[0], _BYTE.as_pointer()), [args[1]])
        return builder.load(builder.bitcast(start, word.as_pointer()), align=1)

    return signature, generate


@intrinsic
def count_ones(typingctx, value):
    """Number of set bits of a uint64."""

    def generate(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.int64(types.uint64), generate
