"""The decorator of all intrinsics, and instructions that several of them emit."""

from __future__ import annotations

import functools

import numba.extending
from llvmlite import ir
from numba.core import cgutils, types

from fastbn.jit.compiler import DISABLED

I32, I64 = ir.IntType(32), ir.IntType(64)


def intrinsic(python=None, **options):
    """Make an intrinsic; without the compiler (NUMBA_DISABLE_JIT), `python` is called instead.

    The decorated function maps argument types to a signature and a function that emits LLVM
    instructions. The latter is given each array argument as an `Array`, and may return None.
    """

    def decorate(function):
        if DISABLED and python is not None:
            return python

        @functools.wraps(function)
        def typed(typingctx, *kinds):
            found = function(typingctx, *kinds)
            return found and (found[0], functools.partial(_generate, found[1]))

        compiled = numba.extending.intrinsic
        return compiled(**options)(typed) if options else compiled(typed)

    return decorate


def _generate(emit, context, builder, signature, args):
    values = [
        Array(context, builder, kind, value) if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, args, strict=True)
    ]
    result = emit(context, builder, *values)
    return context.get_dummy_value() if result is None else result


class Array:
    """An array argument: the pointer to its data, its shape, and its strides in elements."""

    def __init__(self, context, builder, kind, value):
        array = context.make_array(kind)(context, builder, value)
        self.builder, self.value, self.data = builder, value, array.data
        self.number = self.data.type.pointee  # LLVM's type of an element
        self.size = context.get_abi_sizeof(self.number)  # bytes of an element
        self.shape = cgutils.unpack_tuple(builder, array.shape)
        self.strides = [
            builder.sdiv(stride, I64(self.size))
            for stride in cgutils.unpack_tuple(builder, array.strides)
        ]

    def pointer(self, *indices):
        """Return a pointer to the element at these indices."""
        offset = I64(0)
        for index, stride in zip(indices, self.strides, strict=True):
            offset = self.builder.add(offset, self.builder.mul(index, stride))
        return self.builder.gep(self.data, [offset])


def declare(builder, name, result, arguments):
    """Return the function of this name and type, declared in the module that is being built."""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def suffix_of(kind):
    """Return the name of a type in the names of LLVM's intrinsics: f32, v16f32."""
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{suffix_of(kind.element)}"
    return "f64" if kind == ir.DoubleType() else "f32"


def splat(builder, value, lanes):
    """Build a vector of one value."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, I32(0))
    zeros = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    return builder.shuffle_vector(first, undefined, zeros)


def emit_multiply_add(builder, a, b, c):
    """a * b + c: fused if the processor has an instruction for it, else rounded twice.

    Only the processor decides, so vectors and single numbers give the same bits.
    """
    name = f"llvm.fmuladd.{suffix_of(a.type)}"
    return builder.call(declare(builder, name, a.type, [a.type] * 3), [a, b, c])
