"""Asking for elements before they are needed, so that they come while others are worked on."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from haag_vq.groundtruth.compiled import compiled

F32 = NDArray[np.float32]

INTERPRETED = bool(numba.config.DISABLE_JIT)

# Float32 in a line of the processor's cache.
LINE = 16


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def _prefetch_line(typing_context: Any, row: Any, at: Any) -> Any:
    """Have the cache line of ``row[at]`` brought into the second-level cache."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer_type, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        pointer = builder.bitcast(builder.gep(array.data, [arguments[1]]), pointer_type)
        prefetch = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [pointer_type, number, number, number]),
            "llvm.prefetch.p0i8",
        )
        # To be read; wanted again soon; data.
        builder.call(prefetch, [pointer, number(0), number(2), number(1)])
        return context.get_dummy_value()

    return types.void(row, types.intp), generate


@compiled
def prefetch(row: F32) -> None:
    """Have elements brought into the cache. Does nothing where Numba only interprets."""
    if not INTERPRETED:
        for at in range(0, row.shape[0], LINE):
            _prefetch_line(row, at)
