"""Adam with a learning rate for each layer.

Nothing pulls the weights to where they began: early stopping keeps them near. Such a pull (L2-SP: X. Li et al.,
Explicit Inductive Bias for Transfer Learning, 2018) changed the lowest validation loss of block5 on flowers by 0.001
at its authors' highest strength, 0.1 (one split), and by +0.004 +- 0.006 at ten times that (five splits).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tasks.vgg.strategies.base import Phase
from tasks.vgg.training.network import group_of


def make_optimizer(phase: Phase, variables: Mapping[str, Any]) -> Any:
    """A built Keras optimizer; its `learning_rate` is the share of the highest ones that `schedule_at` returns."""
    import keras

    highest = [phase.learning_rates[group_of(name)] for name in variables]

    class Layerwise(keras.optimizers.Adam):  # type: ignore[misc]  # Keras has no types
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            super().update_step(gradient, variable, learning_rate * highest[self._get_variable_index(variable)])

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
