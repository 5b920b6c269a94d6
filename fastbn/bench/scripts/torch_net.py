"""The network in PyTorch: eager, with fused Adam.

Adam is called as a function, because `torch.optim.Adam` imports the compiler first, which takes as
long as `import torch`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.optim.adam import adam


def build(weights: list[np.ndarray], constants: Any, inplace: bool = False) -> torch.nn.Sequential:
    """Return Linear (no bias), BatchNorm1d and, except in the last layer, LeakyReLU."""
    modules: list[torch.nn.Module] = []
    for weight in weights:
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight = torch.nn.Parameter(torch.from_numpy(weight))
        norm = torch.nn.BatchNorm1d(len(weight), eps=constants.EPS, momentum=constants.MOMENTUM)
        modules += [linear, norm, torch.nn.LeakyReLU(constants.SLOPE, inplace)]
    return torch.nn.Sequential(*modules[:-1])


class TorchNet:
    """The network and the state of Adam."""

    def __init__(self, weights: list[np.ndarray], constants: Any) -> None:
        self.net, self.constants = build(weights, constants), constants
        self.params: list[torch.Tensor] = list(self.net.parameters())
        self.m, self.v = ([torch.zeros_like(p) for p in self.params] for _ in range(2))
        self.steps = [torch.zeros(()) for _ in self.params]

    def step(self, x: Any, y: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Take a step on x (samples, features); return its loss and hits."""
        y, constants = torch.as_tensor(y), self.constants
        logits = self.net(torch.as_tensor(x))
        loss = torch.nn.functional.cross_entropy(logits, y)
        grads = list(torch.autograd.grad(loss, self.params))
        with torch.no_grad():
            adam(
                self.params, grads, self.m, self.v, [], self.steps, fused=True, amsgrad=False,
                beta1=constants.BETA1, beta2=constants.BETA2, lr=constants.LR, weight_decay=0.0,
                eps=constants.ADAM_EPS, maximize=False,
            )  # fmt: skip
            return loss.detach(), (logits.argmax(1) == y).sum()

    def take(self, X: np.ndarray, y: np.ndarray, center: np.ndarray, scale: np.ndarray) -> None:
        """Convert the images once."""
        self.center, self.scale = torch.from_numpy(center), torch.from_numpy(scale)
        self.X, self.y = self.scaled(X), torch.from_numpy(y)

    def scaled(self, X: np.ndarray) -> torch.Tensor:
        """Return X (samples, pixels), scaled to float32."""
        return torch.tensor(X, dtype=torch.float32).sub_(self.center).mul_(self.scale)

    def epoch(self, order: np.ndarray) -> int:
        """Train on the minibatches."""
        hits = torch.zeros((), dtype=torch.int64)
        for rows in torch.from_numpy(order):
            hits += self.step(self.X.index_select(0, rows), self.y.index_select(0, rows))[1]
        return int(hits)

    @torch.no_grad()
    def accuracy(self, X: np.ndarray, y: np.ndarray) -> float:
        """Return the accuracy."""
        logits = self.net.eval()(self.scaled(X))
        return (logits.argmax(1) == torch.from_numpy(y)).float().mean().item()

    def save(self, path: str) -> None:
        """Write the net's tensors."""
        torch.save(self.net.state_dict(), path)


if __name__ == "__main__":
    import _work  # type: ignore[import-not-found]

    _work.main(TorchNet)
