"""What tabular.py and rare_classes.py share: networks of PyTorch's that are fastbn's twins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from fastbn import BatchNormMLP
from fastbn.torch import to_torch

Logits = Callable[[np.ndarray], torch.Tensor]


def shared(hidden: Any, rate: float, epochs: int, batch: int, alpha: float, seed: int) -> Any:
    """Return parameters that scikit-learn's estimators and ours have in common."""
    return {
        "hidden_layer_sizes": hidden, "learning_rate_init": rate, "max_iter": epochs,
        "batch_size": batch, "alpha": alpha, "random_state": seed, "n_iter_no_change": epochs,
    }  # fmt: skip


def train_torch(
    sizes: tuple[int, ...],
    is_softmax: bool,
    seed: int,
    rate: float,
    decay: float,
    X: np.ndarray,
    minibatches: Callable[[], Iterable[torch.Tensor]],
    cost: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Logits:
    """Train a net of the layers and weights that fastbn's begins with; return what predicts.

    `minibatches` yields rows of X, in an order that PyTorch draws, and `cost` makes a loss of
    outputs and rows. The penalty is on matrices alone.
    """
    loss = "softmax_cross_entropy" if is_softmax else "sigmoid_cross_entropy"
    model = BatchNormMLP(sizes, activation="relu", loss=loss, seed=seed, batch_norm_output=False)
    net, _ = to_torch(model)
    groups = [
        {"params": [p for p in net.parameters() if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in net.parameters() if p.dim() == 1]},
    ]
    adam = torch.optim.Adam(groups, lr=rate, fused=True)
    inputs = torch.from_numpy(X.astype(np.float32))
    torch.manual_seed(seed)
    net.train()
    for rows in minibatches():
        adam.zero_grad(set_to_none=True)
        cost(net(inputs[rows]), rows).backward()
        adam.step()
    net.eval()

    def logits(X: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            return net(torch.from_numpy(X.astype(np.float32)))

    return logits
