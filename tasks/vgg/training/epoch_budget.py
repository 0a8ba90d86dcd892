"""How many epochs the time allows (`train.modern.budget_minutes`).

A budget makes the result depend on the speed of the machine. So it is off by default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.vgg.strategies.base import Phase


def affordable_epochs(phase_epochs: int, done: int, took_s: float, left_s: float) -> int:
    """Epochs of a phase that the time allows, those that are done included; never more than the phase has.

    Args:
        phase_epochs: of the phase at most.
        done: at least 1.
        took_s: seconds for those that are done.
        left_s: seconds that are left for others; negative if the time is over.
    """
    return min(phase_epochs, done + max(0, math.floor(left_s * done / took_s)) if took_s else phase_epochs)


def share_of_phase(budget_s: float, spent_s: float, phases_left: int) -> float:
    """Seconds that a phase may take: each that is left gets as much as the others."""
    return (budget_s - spent_s) / phases_left


def tell_shortened(minutes: float, phases: Sequence[Phase], notes: Sequence[Mapping[str, Any]]) -> str | None:
    """What a budget cut off, as a sentence; None: nothing."""
    cut = [
        f"{phase.name} to {note['planned']} of {phase.epochs} epochs"
        for phase, note in zip(phases, notes, strict=False)
        if note["planned"] < phase.epochs
    ]
    if not cut:
        return None
    return f"train.modern.budget_minutes={minutes:g} shortened {' and '.join(cut)}."
