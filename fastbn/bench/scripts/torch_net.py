"""PyTorch's net: eager, with the fused Adam.

Adam is called as a function: `torch.optim.Adam` imports the compiler first, which takes as long as
`import torch` does.
"""

from __future__ import annotations

import _work as work  # type: ignore[import-not-found]
import numpy as np
import torch
from torch.optim.adam import adam


class TorchNet:
    """Linear, BatchNorm1d and LeakyReLU."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        modules: list[torch.nn.Module] = []
        for weight in work.weights(sizes):
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            linear.weight = torch.nn.Parameter(torch.from_numpy(weight))
            norm = torch.nn.BatchNorm1d(len(weight), eps=work.EPS, momentum=work.MOMENTUM)
            modules += [linear, norm, torch.nn.LeakyReLU(work.SLOPE)]
        self.net = torch.nn.Sequential(*modules[:-1])
        self.params: list[torch.Tensor] = list(self.net.parameters())
        self.m, self.v = ([torch.zeros_like(p) for p in self.params] for _ in range(2))
        self.steps = [torch.zeros(()) for _ in self.params]

    def first_step(self, x: np.ndarray, y: np.ndarray) -> float:
        """Take a step."""
        loss, _ = self.step(torch.from_numpy(x), torch.from_numpy(y))
        return loss.item()

    def take(self, X: np.ndarray, y: np.ndarray) -> None:
        """Convert the images once."""
        self.center, self.scale = map(torch.from_numpy, work.min_max(X))
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

    def step(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Take a step; return its loss and hits."""
        logits = self.net(x)
        loss = torch.nn.functional.cross_entropy(logits, y)
        grads = list(torch.autograd.grad(loss, self.params))
        with torch.no_grad():
            adam(
                self.params, grads, self.m, self.v, [], self.steps, fused=True, amsgrad=False,
                beta1=work.BETA1, beta2=work.BETA2, lr=work.LR, weight_decay=0.0,
                eps=work.ADAM_EPS, maximize=False,
            )  # fmt: skip
            return loss, (logits.argmax(1) == y).sum()

    @torch.no_grad()
    def accuracy(self, X: np.ndarray, y: np.ndarray) -> float:
        """Test."""
        logits = self.net.eval()(self.scaled(X))
        return (logits.argmax(1) == torch.from_numpy(y)).float().mean().item()

    def save(self, path: str) -> None:
        """Write the net's tensors."""
        torch.save(self.net.state_dict(), path)


if __name__ == "__main__":
    work.main(TorchNet)
