"""Loads, stores and comparisons at plain memory addresses, without alignment, for kernels over rows of any schema.

A block's columns are many arrays of many dtypes; handing them over as int64 addresses and byte widths lets one
compiled signature serve them all. Whoever calls such a kernel has checked sizes and keeps the arrays alive.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _pointer(builder, address, offset, kind):
    """`address` + `offset` as a pointer. The offset is applied to the pointer, not to the number, or LLVM sees no
    stride and vectorises nothing (1.7 instead of 22 GB/s for the row hash)."""
    byte = ir.IntType(8)
    start = builder.inttoptr(address, byte.as_pointer())
    return builder.bitcast(builder.gep(start, [offset], source_etype=byte), kind.as_pointer())


def _loader(bits: int):
    @intrinsic
    def load(typingctx, address, offset):
        def codegen(context, builder, signature, args):
            value = builder.load(_pointer(builder, *args, ir.IntType(bits)), align=1)
            return value if bits == 64 else builder.zext(value, ir.IntType(64))

        return types.uint64(types.int64, types.int64), codegen

    return load


def _storer(bits: int):
    @intrinsic
    def store(typingctx, address, offset, value):
        def codegen(context, builder, signature, args):
            value = args[2] if bits == 64 else builder.trunc(args[2], ir.IntType(bits))
            builder.store(value, _pointer(builder, *args[:2], ir.IntType(bits)), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.uint64), codegen

    return store


def _comparer(lanes: int):
    @intrinsic
    def differ(typingctx, left, right, offset):
        def codegen(context, builder, signature, args):
            vector = ir.VectorType(ir.IntType(8), lanes)
            values = [builder.load(_pointer(builder, side, args[2], vector), align=1) for side in args[:2]]
            mask = builder.bitcast(builder.icmp_unsigned("!=", *values), ir.IntType(lanes))
            return mask if lanes == 64 else builder.zext(mask, ir.IntType(64))

        return types.uint64(types.int64, types.int64, types.int64), codegen

    return differ


# load(address, offset) -> uint64, store(address, offset, uint64)
load1, load2, load4, load8 = (_loader(bits) for bits in (8, 16, 32, 64))
store1, store2, store4, store8 = (_storer(bits) for bits in (8, 16, 32, 64))
# differ(left, right, offset): bit i of the result is set where byte i of the 64 (or 8) bytes at the two addresses
# differs: one compare and one mask move with AVX-512, two with AVX2.
differ64, differ8 = _comparer(64), _comparer(8)


@intrinsic
def nonzero64(typingctx, address, offset):
    """Bit i of the result is set where byte i of the 64 at `address` + `offset` is not zero."""

    def codegen(context, builder, signature, args):
        vector = ir.VectorType(ir.IntType(8), 64)
        value = builder.load(_pointer(builder, *args, vector), align=1)
        return builder.bitcast(builder.icmp_unsigned("!=", value, ir.Constant(vector, [0] * 64)), ir.IntType(64))

    return types.uint64(types.int64, types.int64), codegen


@intrinsic
def copy_bytes(typingctx, target, source, count):
    """memcpy: `count` bytes from address `source` to `target`; the two do not overlap."""

    def codegen(context, builder, signature, args):
        byte = ir.IntType(8).as_pointer()
        memcpy = builder.module.declare_intrinsic("llvm.memcpy", [byte, byte, ir.IntType(64)])
        pointers = [builder.inttoptr(arg, byte) for arg in args[:2]]
        builder.call(memcpy, [*pointers, args[2], ir.Constant(ir.IntType(1), 0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def stream64(typingctx, target, source, offset):
    """64 bytes from `source` + `offset` to `target` + `offset`, which is a multiple of 64, past the caches: nothing is
    read for them first, and nothing else is displaced. Rows of 14 KB went to memory in 519 instead of 1,147 ns, in any
    order; where the target is in a cache already (8 MB written over and over), plain stores took 210."""

    def codegen(context, builder, signature, args):
        vector = ir.VectorType(ir.IntType(64), 8)
        value = builder.load(_pointer(builder, args[1], args[2], vector), align=1)
        store = builder.store(value, _pointer(builder, args[0], args[2], vector), align=64)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def fence(typingctx):
    """What was streamed is seen by others before everything that follows."""

    def codegen(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def trailing_zeros(typingctx, value):
    """Index of the lowest set bit of a uint64; 64 for zero."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), codegen


@intrinsic
def bit_length(typingctx, value):
    """Bits needed for a uint64; 0 for zero."""

    def codegen(context, builder, signature, args):
        zeros = builder.ctlz(args[0], ir.Constant(ir.IntType(1), 0))
        return builder.sub(ir.Constant(ir.IntType(64), 64), zeros)

    return types.int64(types.uint64), codegen


@intrinsic
def prefetch(typingctx, address, offset):
    """Ask for the cache line at `address` + `offset`, which will be read soon. Never faults."""

    def codegen(context, builder, signature, args):
        byte, word = ir.IntType(8), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), word, word, word])
        function = builder.module.globals.get("llvm.prefetch.p0") or ir.Function(
            builder.module, kind, "llvm.prefetch.p0"
        )
        hints = [ir.Constant(word, value) for value in (0, 3, 1)]
        builder.call(function, [_pointer(builder, *args, byte), *hints])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen
