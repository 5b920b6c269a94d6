"""Which of numba's threading layers can be loaded here, and which one numba would take."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import warnings
from typing import Any

MODULES = {"tbb": "tbbpool", "omp": "omppool", "workqueue": "workqueue"}

# What NUMBA_THREADING_LAYER may say instead of a layer's name (numba.np.ufunc.parallel)
SAFE, THREADSAFE, FORKSAFE = ("tbb",), ("tbb", "omp"), ("tbb", "workqueue")
FORKSAFE_OFF_LINUX = ("tbb", "omp", "workqueue")


@dataclasses.dataclass(frozen=True)
class ThreadingLayers:
    """`problems` says of each layer why it cannot be loaded, None if it can.

    `chosen` is the layer that numba takes at its first parallel region, or has taken if `started`;
    None if there is no such layer.
    """

    requested: str
    problems: dict[str, str | None]
    chosen: str | None
    started: bool


def threading_layers() -> ThreadingLayers:
    """Find out without starting a thread: the layers' modules are imported, not launched."""
    import numba

    config: Any = numba.config
    requested = str(config.THREADING_LAYER).lower()
    problems = {name: _problem(name) for name in config.THREADING_LAYER_PRIORITY}
    chosen: str | None
    try:
        chosen, started = numba.threading_layer(), True
    except ValueError:  # no parallel region has run yet
        candidates = _candidates(requested, config.THREADING_LAYER_PRIORITY)
        loadable = [name for name in candidates if problems.get(name, "unknown") is None]
        chosen, started = loadable[0] if loadable else None, False
    return ThreadingLayers(requested, problems, chosen, started)


def _candidates(requested: str, priority: list[str]) -> tuple[str, ...]:
    """Layers that numba tries for a value of NUMBA_THREADING_LAYER, in its order."""
    if requested == "default":
        return tuple(priority)
    forksafe = FORKSAFE if sys.platform.startswith("linux") else FORKSAFE_OFF_LINUX
    purposes = {"safe": SAFE, "threadsafe": THREADSAFE, "forksafe": forksafe}
    return purposes.get(requested, (requested,))


def _problem(layer: str) -> str | None:
    """Why numba cannot load a layer; None if it can."""
    if layer not in MODULES:
        return "unknown to this version of fastbn"
    try:
        if layer == "tbb":
            _check_tbb()
        importlib.import_module(f"numba.np.ufunc.{MODULES[layer]}")
    except ImportError as error:
        return str(error)
    return None


def _check_tbb() -> None:
    """Numba's own check of TBB's version: ImportError where it is missing or too old."""
    from numba.np.ufunc import parallel

    check = getattr(parallel, "_check_tbb_version_compatible", None)
    if check is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error says the same
            check()
