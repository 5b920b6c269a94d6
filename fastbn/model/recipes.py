"""The settings of compiled calls, built from the config of a model."""

from __future__ import annotations

import math

import numpy as np

from fastbn.kernels import network as kernels
from fastbn.model.config import ModelConfig
from fastbn.model.layout import BufferLayout
from fastbn.options import ElementwiseActivation, Loss, Optimizer, code


class Recipes:
    """The recipes of one config. They are kept, since building one takes some microseconds."""

    def __init__(self, config: ModelConfig, layout: BufferLayout) -> None:
        self.config = config
        self._layout = layout
        self._kept: dict[tuple[bool, int, bool], kernels.Recipe] = {}
        recipe = self.recipe(0, 1, False, 0)
        # the last fields of a `Predictor`
        self.for_predictions = recipe.eps, recipe.slope, recipe.elementwise

    def recipe(
        self, rows: int, members: int, has_weights: bool, most_refused: int
    ) -> kernels.Recipe:
        """Return the recipe for minibatches of up to `rows` samples and a team of `members`."""
        weighted = self.config.weighted and has_weights
        # weighted statistics need a barrier before them, after the weights are gathered
        gathers_whole_batch = (
            members > 1 and not weighted and self._layout.gathers_whole_batch(rows, members)
        )
        key = weighted, most_refused, gathers_whole_batch
        recipe = self._kept.get(key)
        if recipe is None:
            recipe = self._kept[key] = self._build(*key)
        return recipe

    def _build(
        self, weighted: bool, most_refused: int, gathers_whole_batch: bool
    ) -> kernels.Recipe:
        config, number = self.config, np.dtype(self.config.dtype).type
        return kernels.Recipe(
            eps=number(config.eps),
            slope=number(config.slope),
            elementwise=code(ElementwiseActivation, config.elementwise_activation),
            momentum=config.momentum,
            unbiased=config.unbiased,
            weighted=weighted,
            exact=config.gradient == "exact",
            dropout=config.dropout,
            seed=config.seed,
            loss=code(Loss, config.loss),
            smoothing=config.label_smoothing,
            optimizer=code(Optimizer, config.optimizer),
            beta1=config.betas[0],
            beta2=config.betas[1],
            optimizer_eps=config.optimizer_eps,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            decay_vectors=config.decay_vectors,
            max_norm=math.inf if config.max_norm is None else config.max_norm,
            limit=number(config.gradient_limit),
            most_refused=most_refused,
            gathers_whole_batch=gathers_whole_batch,
        )
