"""Take the first training step with fastbn."""

from __future__ import annotations

import json

import _work as work  # type: ignore[import-not-found]

from fastbn import BatchNormMLP

model = BatchNormMLP(
    work.FIRST_SIZES, negative_slope=work.SLOPE, eps=work.EPS, momentum=work.MOMENTUM, lr=work.LR,
    betas=(work.BETA1, work.BETA2), optimizer_eps=work.ADAM_EPS,
)  # fmt: skip
print(json.dumps({"loss": model.train_step(*work.first_batch())}))
