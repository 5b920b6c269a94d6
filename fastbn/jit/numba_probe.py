"""Check that the installed numba has the internals that fastbn uses.

They may change from one version to the next. `problem` looks for everything that
`fastbn.jit.numba_internals` uses, which takes a few milliseconds. If something is missing, that
module is not imported, and kernels are compiled with plain ``numba.njit(cache=True)``.

It also looks for the few internals that `fastbn.jit.intrinsics` and `fastbn.parallel.openmp` use.
They are needed in any case, so an error may follow the warning.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator

# Functions and classes that fastbn calls or overrides, with their parameters.
CALLED = {
    "numba.core.caching:_CacheLocator.get_suitable_cache_subpath": "py_file",
    "numba.core.caching:_CacheLocator.from_function": "py_func py_file",
    "numba.core.caching:_CacheLocator.get_cache_path": "self",
    "numba.core.caching:_CacheLocator.ensure_cache_path": "self",
    "numba.core.caching:_CacheLocator.get_disambiguator": "self",
    "numba.core.caching:_CacheLocator.get_source_stamp": "self",
    "numba.misc.appdirs:AppDirs": "appname appauthor version roaming multipath",
    "numba.core.caching:CompileResultCacheImpl": "py_func",
    "numba.core.caching:FunctionCache": "py_func",
    "numba.core.caching:FunctionCache._index_key": "self sig codegen",
    "numba.core.caching:FunctionCache.save_overload": "self sig data",
    "numba.core.caching:FunctionCache.load_overload": "self sig target_context",
    "numba.core.caching:FunctionCache._save_overload": "self sig data",
    "numba.core.caching:FunctionCache._load_overload": "self sig target_context",
    "numba.core.caching:IndexDataCacheFile.load": "self key",
    "numba.core.caching:IndexDataCacheFile.save": "self key data",
    "numba.core.serialize:dumps": "obj",
    "numba.core.runtime:rtsys.initialize": "ctx",
    "numba.core.base:BaseContext.refresh": "self",
    "numba.core.codegen:JITCodeLibrary": "codegen name",
    "numba.core.callconv:CPUCallConv.call_function": "self builder callee resty argtys args attrs",
    "numba.core.codegen:JITCodeLibrary.add_linking_library": "self library",
    "numba.core.codegen:JITCodeLibrary.enable_object_caching": "self",
    "numba.core.codegen:JITCodeLibrary._get_module_for_linking": "self",
    "numba.core.codegen:JITCodeLibrary._finalize_final_module": "self",
    "numba.core.compiler:Compiler.compile_extra": "self func",
    "numba.core.compiler_lock:global_compiler_lock.acquire": "",
    "numba.core.compiler_lock:global_compiler_lock.release": "",
    "numba.core.dispatcher:Dispatcher.compile": "self sig",
    "numba.core.dispatcher:Dispatcher.get_call_template": "self args kws",
    "numba.core.dispatcher:Dispatcher.get_overload": "self sig",
    "numba.core.dispatcher:Dispatcher.get_compile_result": "self sig",
    "numba.core.imputils:impl_ret_borrowed": "ctx builder retty ret",
    "numba.core.types:unliteral": "lit_type",
    "numba.np.arrayobj:populate_array": "array data shape strides itemsize meminfo parent",
}

# Attributes of classes, and attributes that constructors set.
SET = {
    "numba.core.base:BaseContext": "active_code_library",
    "numba.core.caching:Cache": "cache_path",
    "numba.core.caching:CompileResultCacheImpl": "_locator_classes",
    "numba.core.caching:Cache.__init__": "_cache_file _cache_path _impl _py_func",
    "numba.core.caching:CacheImpl": "filename_base",
    "numba.core.codegen:CodeLibrary": "_finalized",
    "numba.core.codegen:CPUCodeLibrary.__init__": "_final_module _shared_module",
    "numba.core.compiler:CompilerBase.__init__": "library state targetctx",
    "numba.core.cpu:CPUContext": "call_conv",
    "numba.core.dispatcher:Dispatcher.__init__": "_cache",
    "numba.core.options:DefaultOptions": "_nrt no_cfunc_wrapper no_cpython_wrapper",
    "numba.core.types:Dispatcher": "dispatcher",
    "llvmlite.binding:Linkage": "internal linkonce_odr weak_odr",
}


def problem() -> str | None:
    """Return the first internal that is missing or has other parameters, or None."""
    return next(_problems(), None)


def advice(version: str, problem: str) -> str:
    """Return a message: what a problem with this version of numba causes, and what to do."""
    return (
        f"numba {version} has changed internals that fastbn uses ({problem}): kernels take longer "
        "to compile, and the last bits of results may differ from process to process. Install a "
        "numba that fastbn's requirements allow."
    )


def _problems() -> Iterator[str]:
    for path, parameters in CALLED.items():
        try:
            found = tuple(inspect.signature(pkgutil.resolve_name(path)).parameters)
        except (ImportError, AttributeError, TypeError, ValueError):
            yield f"{path} is not there"
        else:
            if found != tuple(parameters.split()):
                yield f"{path} has parameters {', '.join(found) or '(none)'}"
    for path, names in SET.items():
        try:
            place = pkgutil.resolve_name(path)
        except (ImportError, AttributeError):
            yield f"{path} is not there"
            continue
        code = getattr(place, "__code__", None)
        missing = [
            name
            for name in names.split()
            if (name not in code.co_names if code else not hasattr(place, name))
        ]
        if missing:
            yield f"{path} has no {missing[0]}"
