"""The strategies: each file except `base.py` is one. A new strategy is a new file, and its block in params.yaml.

The settings import this package, so its files import nothing that computes.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.settings import Augmentation, Train
    from tasks.vgg.strategies.base import Phase, Strategy


def _find() -> dict[str, Strategy]:
    names = [file.name for file in pkgutil.iter_modules(__path__) if file.name != "base"]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    found: list[Strategy] = sorted((module.STRATEGY for module in modules), key=lambda one: one.order)
    return {strategy.name: strategy for strategy in found}


BY_NAME = _find()
"""All strategies, the cheapest first."""


def plan_phases(strategy: str, rules: Train, augmentation: Augmentation) -> tuple[Phase, ...]:
    """The phases of gradient descent; none if a strategy only fits a linear probe to stored features."""
    return BY_NAME[strategy].phases(rules, augmentation)
