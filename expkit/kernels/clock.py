"""The wall clock from inside kernels: `clock_gettime(CLOCK_REALTIME)` of libc, 20-30 ns a call."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def realtime_ns(typingctx):
    """Nanoseconds since 1970 (UTC) as int64. An external symbol, so that compiled callers can be cached."""

    def generate(context, builder, signature, args):
        word, half = ir.IntType(64), ir.IntType(32)
        timespec = cgutils.alloca_once(builder, ir.ArrayType(word, 2))
        called = ir.FunctionType(half, [half, timespec.type])
        function = cgutils.get_or_insert_function(builder.module, called, "clock_gettime")
        builder.call(function, [ir.Constant(half, 0), timespec])
        seconds = builder.load(cgutils.gep_inbounds(builder, timespec, 0, 0))
        nanoseconds = builder.load(cgutils.gep_inbounds(builder, timespec, 0, 1))
        return builder.add(builder.mul(seconds, ir.Constant(word, 1_000_000_000)), nanoseconds)

    return types.int64(), generate
