"""What tabular.py and rare_classes.py share: networks of PyTorch's that are fastbn's twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from fastbn import BatchNormMLP
from fastbn.torch import to_torch

Parameters = dict[str, Any]


def parameters(
    hidden: tuple[int, ...], rate: float, epochs: int, batch: int, alpha: float, seed: int
) -> Parameters:
    """Return parameters that scikit-learn's estimators and ours have in common."""
    return {
        "hidden_layer_sizes": hidden, "learning_rate_init": rate, "max_iter": epochs,
        "batch_size": batch, "alpha": alpha, "random_state": seed, "n_iter_no_change": epochs,
    }  # fmt: skip


def train_torch(
    X: np.ndarray,
    y: np.ndarray,
    loss: str,
    params: Parameters,
    weight: np.ndarray | None = None,
    chunk: int | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
    """Train a net with the layers, first weights and penalty of fastbn's; return what predicts.

    `y` are labels if the loss is "softmax", and (samples, outputs) if it is "sigmoid" or "squared".
    A minibatch's loss is what PyTorch's functions make of the weights: the weighted mean of the
    softmax's losses, the mean of the others' weighted losses. Each pass goes over the chunks of the
    data, or over all of it, in an order that PyTorch draws.
    """
    outputs = int(y.max()) + 1 if loss == "softmax" else y.shape[1]
    model = BatchNormMLP(
        (X.shape[1], *params["hidden_layer_sizes"], outputs), activation="relu",
        loss="softmax_cross_entropy" if loss == "softmax" else "sigmoid_cross_entropy",
        seed=params["random_state"], batch_norm_output=False,
    )  # fmt: skip
    net, _ = to_torch(model)
    decay = params["alpha"] / params["batch_size"]  # of matrices only
    groups = [
        {"params": [p for p in net.parameters() if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in net.parameters() if p.dim() == 1]},
    ]
    adam = torch.optim.Adam(groups, lr=params["learning_rate_init"], fused=True)
    inputs = torch.from_numpy(X.astype(np.float32))
    targets = torch.from_numpy(y if loss == "softmax" else y.astype(np.float32))
    weights = torch.from_numpy(np.ones(len(X), "f4") if weight is None else weight.astype("f4"))
    torch.manual_seed(params["random_state"])
    net.train()
    for _ in range(params["max_iter"]):
        for part in torch.arange(len(X)).split(chunk or len(X)):
            for rows in part[torch.randperm(len(part))].split(params["batch_size"]):
                if len(rows) == 1:  # batch norm has nothing to normalize
                    continue
                out, target, w = net(inputs[rows]), targets[rows], weights[rows]
                if loss == "softmax":
                    cost = functional.cross_entropy(out, target, reduction="none") @ w / w.sum()
                elif loss == "sigmoid":
                    mean = functional.binary_cross_entropy_with_logits(out, target, w[:, None])
                    cost = outputs * mean
                else:
                    cost = functional.mse_loss(out, target) / 2
                adam.zero_grad(set_to_none=True)
                cost.backward()
                adam.step()
    net.eval()

    @torch.no_grad()
    def logits(X: np.ndarray) -> np.ndarray:
        return net(torch.from_numpy(X.astype(np.float32))).numpy()

    return logits
