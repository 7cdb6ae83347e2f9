"""Atomic access to elements of one-dimensional int64 arrays, and unaligned access to bytes of uint8 arrays.

Numba has no atomics of its own on the CPU (numba#2988), so these are LLVM's instructions under
`numba.extending.intrinsic`. They serve the words that threads share: a plain store to such a word inside a loop is
hoisted out of it by the optimiser and never seen by the other thread. Indices are not checked.
"""

from __future__ import annotations

from typing import Any

import numba.extending
from llvmlite import ir
from numba import types
from numba.core import cgutils

intrinsic: Any = numba.extending.intrinsic  # typed as a function of its first argument too, which callers never pass


def _is_words(array):
    return isinstance(array, types.Array) and array.dtype == types.int64 and array.ndim == 1 and array.layout == "C"


def _is_bytes(array):
    return isinstance(array, types.Array) and array.dtype == types.uint8 and array.ndim == 1 and array.layout == "C"


def _element(context, builder, array_type, array, index):
    """Pointer to element `index`; the array starts at `data`, whatever slice it is."""
    struct = context.make_array(array_type)(context, builder, array)
    return builder.gep(struct.data, [index], inbounds=True)


@intrinsic
def load_acquire(typingctx, words, index):
    """words[index], read before everything that follows in this thread."""
    if not _is_words(words):
        return None

    def codegen(context, builder, signature, args):
        pointer = _element(context, builder, signature.args[0], args[0], args[1])
        return builder.load_atomic(pointer, "acquire", 8, typ=ir.IntType(64))

    return types.int64(words, types.int64), codegen


@intrinsic
def store_release(typingctx, words, index, value):
    """words[index] = value, seen by others only after everything this thread wrote before."""
    if not _is_words(words):
        return None

    def codegen(context, builder, signature, args):
        pointer = _element(context, builder, signature.args[0], args[0], args[1])
        builder.store_atomic(args[2], pointer, "release", 8)
        return context.get_dummy_value()

    return types.none(words, types.int64, types.int64), codegen


@intrinsic
def atomic_add(typingctx, words, index, value):
    """Add to words[index], wrapping at 2**63; returns what was there before."""
    if not _is_words(words):
        return None

    def codegen(context, builder, signature, args):
        pointer = _element(context, builder, signature.args[0], args[0], args[1])
        return builder.atomic_rmw("add", pointer, args[2], "seq_cst")

    return types.int64(words, types.int64, types.int64), codegen


@intrinsic
def compare_and_swap(typingctx, words, index, expected, value):
    """Set words[index] to `value` if it is `expected`; returns whether it was."""
    if not _is_words(words):
        return None

    def codegen(context, builder, signature, args):
        pointer = _element(context, builder, signature.args[0], args[0], args[1])
        result = builder.cmpxchg(pointer, args[2], args[3], "seq_cst", "seq_cst")
        return builder.extract_value(result, 1)

    return types.boolean(words, types.int64, types.int64, types.int64), codegen


@intrinsic
def peek(typingctx, words, index):
    """words[index] of one's own word: a plain load, without the look for negative indices that Numba adds."""
    if not _is_words(words):
        return None

    def codegen(context, builder, signature, args):
        return builder.load(_element(context, builder, signature.args[0], args[0], args[1]), typ=ir.IntType(64))

    return types.int64(words, types.int64), codegen


@intrinsic
def store_value(typingctx, target, target_at, value):
    """Store a number or bool in the bytes of `target` from `target_at` on, as its own type lies in memory."""
    if not _is_bytes(target) or not isinstance(value, (types.Number, types.Boolean)):
        return None

    def codegen(context, builder, signature, args):
        stored = context.get_value_as_data(builder, signature.args[2], args[2])
        to = _element(context, builder, signature.args[0], args[0], args[1])
        builder.store(stored, builder.bitcast(to, stored.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.none(target, types.int64, value), codegen


@intrinsic
def size_of(typingctx, value):
    """Bytes that `store_value` writes for a value of this type; a constant."""

    def codegen(context, builder, signature, args):
        return ir.Constant(ir.IntType(64), context.get_abi_sizeof(context.get_data_type(signature.args[0])))

    return types.int64(value), codegen


@intrinsic
def fence_acquire(typingctx):
    """Reads before it are done before reads and writes after it: for `copy, then check the generation`."""

    def codegen(context, builder, signature, args):
        builder.fence("acquire")
        return context.get_dummy_value()

    return types.none(), codegen


def _copy_constant(width):
    """An intrinsic that copies exactly `width` bytes, one load and one store, at any alignment."""

    @intrinsic
    def copy(typingctx, target, target_at, source, source_at):
        if not (_is_bytes(target) and _is_bytes(source)):
            return None

        def codegen(context, builder, signature, args):
            word = ir.IntType(8 * width)
            to = _element(context, builder, signature.args[0], args[0], args[1])
            of = _element(context, builder, signature.args[2], args[2], args[3])
            value = builder.load(builder.bitcast(of, word.as_pointer()), align=1, typ=word)
            builder.store(value, builder.bitcast(to, word.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.none(target, types.int64, source, types.int64), codegen

    return copy


copy_1 = _copy_constant(1)
copy_2 = _copy_constant(2)
copy_4 = _copy_constant(4)
copy_8 = _copy_constant(8)


@intrinsic
def copy_bytes(typingctx, target, target_at, source, source_at, count):
    """target[target_at : target_at + count] = source[source_at : source_at + count], by memcpy."""
    if not (_is_bytes(target) and _is_bytes(source)):
        return None

    def codegen(context, builder, signature, args):
        to = _element(context, builder, signature.args[0], args[0], args[1])
        of = _element(context, builder, signature.args[2], args[2], args[3])
        cgutils.raw_memcpy(builder, to, of, args[4], 1)
        return context.get_dummy_value()

    return types.none(target, types.int64, source, types.int64, types.int64), codegen
