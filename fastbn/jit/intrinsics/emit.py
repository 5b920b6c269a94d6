"""What the intrinsics share: words for LLVM's instructions, and where an array's elements are."""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
IS_ARM = platform.machine().lower() in ("aarch64", "arm64")

intrinsic: Any = _intrinsic  # what it makes is called without the typing context

I32, I64 = ir.IntType(32), ir.IntType(64)


def declare(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Return the function of this name and type, declared in the module that is being built."""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def suffix_of(context: Any, kind: Any) -> str:
    """Name of a type in the names of LLVM's intrinsics: f32, v16f32."""
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{suffix_of(context, kind.element)}"
    return f"f{8 * context.get_abi_sizeof(kind)}"


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """Build a vector of one value."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, I32(0))
    zeros = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    return builder.shuffle_vector(first, undefined, zeros)


def emit_multiply_add(context: Any, builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c: fused where the processor has an instruction for it, else rounded twice.

    The processor decides and nothing else: vectors and single numbers give the same bits.
    """
    name = f"llvm.fmuladd.{suffix_of(context, a.type)}"
    return builder.call(declare(builder, name, a.type, [a.type] * 3), [a, b, c])


class Array:
    """An array argument: pointers to its elements, and its strides counted in elements."""

    def __init__(self, context: Any, builder: Any, kind: Any, value: Any) -> None:
        array = context.make_array(kind)(context, builder, value)
        self.builder, self.data = builder, array.data
        self.size = context.get_abi_sizeof(array.data.type.pointee)
        self.strides = [
            builder.sdiv(stride, ir.Constant(stride.type, self.size))
            for stride in cgutils.unpack_tuple(builder, array.strides)
        ]

    def pointer(self, *indices: Any) -> Any:
        """Return a pointer to the element at these indices."""
        offset = indices[0].type(0)
        for index, stride in zip(indices, self.strides, strict=True):
            offset = self.builder.add(offset, self.builder.mul(index, stride))
        return self.builder.gep(self.data, [offset])
