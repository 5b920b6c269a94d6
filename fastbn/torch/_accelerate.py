"""Swap the batch norms of an existing module tree for faster ones, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fastbn.torch._modules import BatchNorm1d, BatchNorm2d

# Where a module keeps the class that it had.
ORIGINAL = "_fastbn_original"


class Absorbed(nn.Module):
    """What a batch norm beside it has taken over: the identity, of the same class to look at."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # PyTorch's name
        """Return the input."""
        return input

    def extra_repr(self) -> str:
        """Tell who does the work."""
        return ", ".join(filter(None, [super().extra_repr(), "by the batch norm beside it"]))

    def _get_name(self) -> str:
        kind: type[nn.Module] = getattr(self, ORIGINAL)
        return kind.__name__


class AbsorbedLinear(Absorbed, nn.Linear):
    """A linear layer before a batch norm."""


class AbsorbedLeakyReLU(Absorbed, nn.LeakyReLU):
    """LeakyReLU behind a batch norm."""


class AbsorbedReLU(Absorbed, nn.ReLU):
    """ReLU behind a batch norm."""


# A module keeps its identity, parameters, buffers, name and hooks: what changes is its class.
FASTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.Linear: AbsorbedLinear,
    nn.LeakyReLU: AbsorbedLeakyReLU,
    nn.ReLU: AbsorbedReLU,
}


def accelerate(model: nn.Module, *, verbose: bool = True) -> list[str]:
    """Let the batch norms of a model, and what stands beside them, run on fastbn's kernels.

    `BatchNorm1d` and `BatchNorm2d` are swapped wherever they are. Inside a `Sequential` a
    `LeakyReLU` or `ReLU` behind one is computed in the same pass, and a `Linear` before one in the
    same function of PyTorch's graph. Modules stay the objects that they are, with the same names,
    parameters, buffers and hooks: an optimizer made before goes on working, and the state
    dictionary has the same keys. What has hooks, occurs twice in the tree, or is of another class
    (a subclass, too) is left alone, or stays apart.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    verbose : bool
        Print what was swapped.

    Returns
    -------
    list of str
        A line for each module that was swapped.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    found = [(name, part) for name, part in model.named_modules(remove_duplicate=False)]
    occurrences = Counter(id(part) for _, part in found)
    lines = []
    for name, norm in found:
        if type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d):
            _become(norm)
            line = f"{name or type(norm).__name__}: {getattr(norm, ORIGINAL).__name__}"
            before, after = _neighbours(found, name, norm, occurrences)
            if type(norm) is BatchNorm1d and type(before) is nn.Linear:
                vars(norm)["linear"] = (before,)  # in a tuple, which makes it no submodule
                _become(before)
                line += ", with the Linear before it"
            if after is not None and type(after) in (nn.LeakyReLU, nn.ReLU):
                slope = after.negative_slope if isinstance(after, nn.LeakyReLU) else 0.0
                norm.slope = float(slope)
                line += f", with the {type(after).__name__} behind it"
                _become(after)
            lines.append(line)
    if verbose:
        print("\n".join(lines) if lines else "fastbn: found no batch norm to swap")
    return lines


def restore(model: nn.Module) -> None:
    """Undo `accelerate`: every module is of its own class again.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    """
    for part in model.modules():
        if ORIGINAL in vars(part):
            part.__class__ = vars(part).pop(ORIGINAL)
            for name in ("slope", "linear"):
                vars(part).pop(name, None)


def _become(part: nn.Module) -> None:
    vars(part)[ORIGINAL] = type(part)
    part.__class__ = FASTER[type(part)]


def _neighbours(
    found: list[tuple[str, nn.Module]], name: str, norm: nn.Module, occurrences: Counter[int]
) -> tuple[nn.Module | None, nn.Module | None]:
    """What stands before and behind a batch norm in a Sequential, if it may be swapped with it."""
    parents = dict(found)
    parent = parents.get(name.rpartition(".")[0]) if name else None
    if parent is None or type(parent).forward is not nn.Sequential.forward:
        return None, None
    row = list(parent.children())
    if occurrences[id(norm)] > 1 or norm not in row:
        return None, None
    place = row.index(norm)

    def free(part: nn.Module | None) -> nn.Module | None:
        return part if part is not None and occurrences[id(part)] == 1 else None

    before = free(row[place - 1] if place > 0 else None)
    after = free(row[place + 1] if place + 1 < len(row) else None)
    if after is not None and (any(_hooks(norm)) or any(_hooks(after))):
        after = None  # a hook would see other numbers
    if before is not None and any(_hooks(before)):
        before = None
    return before, after


def _hooks(part: nn.Module) -> Iterator[Any]:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (getattr(part, name) for name in names)
