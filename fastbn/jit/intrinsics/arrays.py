"""Arrays without checks or references: on memory that somebody else holds, and on the stack."""

from __future__ import annotations

from typing import Any

from numba.core import cgutils, types
from numba.core.imputils import impl_ret_borrowed
from numba.np.arrayobj import populate_array

from fastbn.jit.intrinsics.emit import I64, intrinsic


@intrinsic
def strided(typingctx: Any, x: Any) -> Any:
    """Return the same array, its layout unknown to the compiler: one version of code for all."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return impl_ret_borrowed(context, builder, signature.return_type, args[0])

    return x.copy(layout="A")(x), codegen


@intrinsic
def view(typingctx: Any, buffer: Any, start: Any, shape: Any) -> Any:
    """An array of this shape, a tuple, on the numbers of a contiguous buffer from `start` on.

    It owns nothing and checks nothing: a fraction of the code of a slice that is reshaped.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args[2]
        extents = [
            context.cast(builder, extent, kind, types.intp)
            for extent, kind in zip(cgutils.unpack_tuple(builder, args[2]), kinds, strict=True)
        ]
        source = context.make_array(signature.args[0])(context, builder, args[0])
        size = context.get_abi_sizeof(source.data.type.pointee)
        strides = [I64(size)]
        for extent in extents[:0:-1]:
            strides.insert(0, builder.mul(strides[0], extent))
        result = context.make_array(signature.return_type)(context, builder)
        populate_array(
            result, data=builder.gep(source.data, [args[1]]), shape=extents, strides=strides,
            itemsize=size, meminfo=None,
        )  # fmt: skip
        return result._getvalue()

    result = types.Array(buffer.dtype, len(shape), "C")
    return result(buffer, types.intp, shape), codegen


@intrinsic
def at_address(typingctx: Any, like: Any, address: Any, size: Any) -> Any:
    """An array of `size` numbers of the dtype of `like` at an address; it owns nothing."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = context.get_data_type(signature.return_type.dtype)
        itemsize = I64(context.get_abi_sizeof(number))
        result = context.make_array(signature.return_type)(context, builder)
        populate_array(
            result, data=builder.inttoptr(args[1], number.as_pointer()), shape=[args[2]],
            strides=[itemsize], itemsize=itemsize, meminfo=None,
        )  # fmt: skip
        return result._getvalue()

    return types.Array(like.dtype, 1, "C")(like, types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def scratch_like(typingctx: Any, x: Any, size: Any) -> Any:
    """Memory for `size` numbers, a literal, of x's dtype: on the stack of this kernel."""
    if not isinstance(size, types.IntegerLiteral):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = context.get_data_type(signature.return_type.dtype)
        data = cgutils.alloca_once(builder, number, size=size.literal_value)
        word = context.get_value_type(types.intp)
        itemsize = word(context.get_abi_sizeof(number))
        result = context.make_array(signature.return_type)(context, builder)
        populate_array(
            result, data=data, shape=[word(size.literal_value)], strides=[itemsize],
            itemsize=itemsize, meminfo=None,
        )  # fmt: skip
        return result._getvalue()

    return types.Array(x.dtype, 1, "C")(x, size), codegen
