"""AdamW with a learning rate for each layer, and a pull towards the weights that training began with.

I. Loshchilov, F. Hutter: Decoupled Weight Decay Regularization, 2019; X. Li et al.: Explicit Inductive Bias for
Transfer Learning (L2-SP), 2018: with few images, a pull towards the pretrained weights is better than one towards zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tasks.vgg.strategies.base import Phase
from tasks.vgg.training.network import HEAD, group_of


def make_optimizer(phase: Phase, variables: Mapping[str, Any]) -> Any:
    """A built Keras optimizer; its `learning_rate` is the share of the highest ones that `schedule_at` returns."""
    import keras
    from keras import ops

    highest = [phase.learning_rates[group_of(name)] for name in variables]
    anchors: list[Any] = [None] * len(highest)
    if phase.weight_decay:
        for index, (name, variable) in enumerate(variables.items()):
            if name.endswith("kernel"):
                anchors[index] = ops.zeros_like(variable) if group_of(name) == HEAD else ops.copy(variable)

    class Layerwise(keras.optimizers.Adam):  # type: ignore[misc]  # Keras has no types
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            index = self._get_variable_index(variable)
            learning_rate = learning_rate * highest[index]
            if anchors[index] is not None:
                self.assign_sub(variable, learning_rate * phase.weight_decay * (variable - anchors[index]))
            super().update_step(gradient, variable, learning_rate)

    optimizer = Layerwise(learning_rate=1.0)
    optimizer.build(list(variables.values()))
    return optimizer


def schedule_at(phase: Phase, step: int, steps: int) -> float:
    """Share of the highest learning rate at a step of `steps`: up to 1 in the warm-up, then half a cosine down to 0."""
    if phase.schedule == "constant":
        return 1.0
    warmup = max(1, round(phase.warmup_fraction * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
