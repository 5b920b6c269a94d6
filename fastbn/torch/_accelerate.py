"""Swap the batch norms of an existing module tree for faster ones, and back."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from fastbn.checks import flag
from fastbn.torch._modules import BatchNorm1d, BatchNorm2d, has_global_hooks, is_bare
from fastbn.torch._tracing import ORIGINAL, is_traced, refusal

# Only the class of a module changes; its identity, parameters, buffers, name and hooks stay.
FASTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
}

# Batch norms that PyTorch turns into one of those at their first call (`cls_to_become`).
LAZY = (nn.LazyBatchNorm1d, nn.LazyBatchNorm2d)

# Attributes that `accelerate` sets on a module.
MARKS = (ORIGINAL, "least", "cls_to_become")

# PyTorch's batch norm is faster than ours alone for inputs with fewer numbers than this: the call
# itself takes most of the time.
LEAST = 128 * 128

# A linear layer, a batch norm and an activation that follow each other, or one module alone.
ModuleRun = tuple[nn.Linear | None, nn.Module, nn.Module | None]


class FastSequential(nn.Sequential):
    """A `Sequential` that computes a batch norm together with the modules before and after it.

    Each call looks these modules up, because they may be called alone, sliced, replaced or hooked.
    """

    _fastbn_original: type[nn.Module] = nn.Sequential

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # PyTorch's name
        """Call the modules one after the other."""
        if is_traced(input) or has_global_hooks():
            result: torch.Tensor = super().forward(input)
            return result
        x = input
        for linear, part, activation in runs(self._modules.values()):
            if linear is None and activation is None:
                x = part(x)
            else:
                x = part.normalize_between(linear, x, activation)  # type: ignore[operator]
        return x

    def __prepare_scriptable__(self) -> None:
        raise refusal("torch.jit.script", self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Name the original class, because pickles cannot find one that was made at run time."""
        return _empty, (self._fastbn_original,), self.__dict__

    def _get_name(self) -> str:
        return self._fastbn_original.__name__


def runs(modules: Iterable[Any]) -> Iterator[ModuleRun]:
    """Yield the runs of a Sequential's modules, in order; modules with hooks are not joined."""
    row = list(modules)
    place = 0
    while place < len(row):
        linear, part, activation = None, row[place], None
        place += 1
        if type(part) is nn.Linear and place < len(row):
            norm = row[place]
            if type(norm) is BatchNorm1d and is_bare(part) and is_bare(norm):
                linear, part = part, norm
                place += 1
        if type(part) in (BatchNorm1d, BatchNorm2d) and place < len(row):
            after = row[place]
            if type(after) in (nn.ReLU, nn.LeakyReLU) and is_bare(after) and is_bare(part):
                activation = after
                place += 1
        yield linear, part, activation


def accelerate(model: nn.Module, *, verbose: bool = True) -> list[str]:
    """Run the batch norms of a model, and the modules beside them, on fastbn's kernels.

    `BatchNorm1d` and `BatchNorm2d` are swapped wherever they are. In a `Sequential`, a `LeakyReLU`
    or `ReLU` after one is computed in the same pass, and a `Linear` before a `BatchNorm1d` in the
    same function of PyTorch's graph. Modules stay the same objects, with the same names,
    parameters, buffers and hooks: existing optimizers keep working, and the state dictionary has
    the same keys. Batch norms of other classes, subclasses included, are left alone, and modules
    with hooks are not joined. A lazy batch norm is swapped at its first call, when PyTorch turns it
    into an ordinary one. A batch norm that is not joined with a neighbour leaves inputs of fewer
    than 128 x 128 numbers to PyTorch.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    verbose : bool
        Print what was swapped.

    Returns
    -------
    list of str
        A line for each batch norm that was swapped.
    """
    _check_model(model)
    verbose = flag("verbose", verbose)
    lines: dict[Any, str] = {}
    for name, part in model.named_modules():
        if type(part) in LAZY and ORIGINAL not in vars(part):
            lines[part] = f"{name or type(part).__name__}: {type(part).__name__}"
            later: Any = part.cls_to_become
            vars(part).update({ORIGINAL: later, "least": LEAST, "cls_to_become": FASTER[later]})
        elif type(part) in FASTER:
            lines[part] = f"{name or type(part).__name__}: {type(part).__name__}"
            vars(part).update({ORIGINAL: type(part), "least": LEAST})
            part.__class__ = FASTER[type(part)]
    for sequence in model.modules():
        if type(sequence).forward is nn.Sequential.forward and "forward" not in vars(sequence):
            _join(sequence, lines)
    if verbose:
        print("\n".join(lines.values()) if lines else "fastbn: found no batch norm to swap")
    return list(lines.values())


def restore(model: nn.Module) -> None:
    """Undo `accelerate`: give every module its own class again.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    """
    _check_model(model)
    for part in model.modules():
        if ORIGINAL in vars(part):
            if type(part) not in LAZY:
                part.__class__ = vars(part)[ORIGINAL]
            for name in MARKS:
                vars(part).pop(name, None)
        elif isinstance(part, FastSequential):
            part.__class__ = part._fastbn_original  # type: ignore[assignment]


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")


def _join(sequence: nn.Module, lines: dict[Any, str]) -> None:
    """Make a Sequential join its modules if any can be joined, and add them to the lines.

    A Sequential with a lazy module may join it later.
    """
    kind: Any = type(sequence)
    parts: list[Any] = list(sequence._modules.values())
    norms = [isinstance(part, (BatchNorm1d, BatchNorm2d, *LAZY)) for part in parts]
    if any(norms) and any(isinstance(part, LazyModuleMixin) for part in parts):
        sequence.__class__ = _faster(kind)
    for linear, norm, activation in runs(parts):
        if linear is None and activation is None:
            continue
        sequence.__class__ = _faster(kind)
        if norm in lines:
            if linear is not None:
                lines[norm] += ", with the Linear before it"
            if activation is not None:
                lines[norm] += f", with the {type(activation).__name__} after it"


@functools.cache
def _faster(kind: Any) -> type[nn.Module]:
    """Return the class that joins modules for a Sequential or a subclass of it."""
    if issubclass(kind, FastSequential):
        return kind
    if kind is nn.Sequential:
        return FastSequential
    names = {"_fastbn_original": kind, "__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (FastSequential, kind), names)


def _empty(kind: Any) -> nn.Module:
    faster = _faster(kind)
    return faster.__new__(faster)
