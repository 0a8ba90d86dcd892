"""Means of weights, chosen by validation: they often predict better, and cost nothing when the model is used.

Within a phase, the weights of an epoch are averaged with the best ones so far if that lowers the validation loss (M.
Wortsman et al., Model Soups, 2022: a greedy soup, in the order of the epochs). Then follows an interpolation between
the weights before the phase and these (M. Wortsman et al., Robust Fine-Tuning, 2021).

The share of the way is chosen on the validation split; 0 is the start, so the result is never worse there than what the
phase began with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tasks.vgg.head import Floats

BETWEEN = (0.25, 0.5, 0.75)
"""Shares that are tried besides both ends. Each costs one pass of the validation images through the trained blocks."""


def mix(start: Mapping[str, Floats], end: Mapping[str, Floats], share: float) -> dict[str, Floats]:
    """The weights at a share of the way from `start` (0) to `end` (1); both ends are exact."""
    if share == 1:
        return dict(end)
    return {name: np.asarray(start[name] + np.float32(share) * (value - start[name])) for name, value in end.items()}


def choose_share(at_start: float, at_end: float, measure: Callable[[float], float]) -> float:
    """The share with the lowest validation loss; of equal ones the smallest.

    Args:
        at_start: loss of the weights at share 0.
        at_end: at share 1.
        measure: gives the loss at a share between them.
    """
    losses = {0.0: at_start, **{share: measure(share) for share in BETWEEN}, 1.0: at_end}
    return min(losses, key=lambda share: (losses[share], share))
