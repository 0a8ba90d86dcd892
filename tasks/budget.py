"""Which strategies a run trains, so that their training takes at most `compare.budget_minutes`.

The run writes its decision into params.yaml: `strategies` lists those that are trained, and `compare.left_out` the
others. If there is no time for `compare.folds`, it becomes null, and `left_out` names them, too. So `dvc repro` does
the same as `make run`, and the report can tell what was left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from tasks.runs.costs import Costs, expected_seconds, scale_trainings
from tasks.settings import STRATEGIES, Settings
from tasks.vgg.strategies import plan_phases

ASSUMED_IMAGES_PER_S = 10.0
"""Through VGG16 on two CPU cores; used until this clone has computed features, which measures the rate."""
_RECENT = 5


def must_decide(settings: Settings, changes: Mapping[str, Any]) -> bool:
    """Whether a run has to decide: it was told other strategies or another budget, or nobody has decided yet.

    Args:
        settings: with the changes.
        changes: what the run was told, nested as in params.yaml.
    """
    told = changes.get("compare", {})
    if "left_out" in told:
        return told["left_out"] is None and settings.compare.budget_minutes is not None
    if "strategies" in changes or {"budget_minutes", "folds"} & told.keys():
        return settings.compare.budget_minutes is not None or settings.compare.left_out is not None
    return settings.compare.budget_minutes is not None and settings.compare.left_out is None


def wanted_folds(settings: Settings, changes: Mapping[str, Any]) -> int | None:
    """`compare.folds`, or as many as the budget had no time for; a number that the run was told counts alone."""
    left_out = [name for name, _ in settings.compare.left_out or () if name not in STRATEGIES]
    if settings.compare.folds or "folds" in changes.get("compare", {}) or not left_out:
        return settings.compare.folds
    return int(left_out[0].split()[0])


def decide(
    settings: Settings, wanted: Sequence[str], images: int | None, history: Sequence[Costs], folds: int | None = None
) -> dict[str, Any]:
    """Spend the budget: the changes of params.yaml.

    If there is no time for all strategies with the folds, the folds are left out first. The cheapest strategy is always
    trained. Then those that train blocks of the network, the cheapest first. Those that train a head alone come last,
    because they learn the same kind of model as feature extraction.

    Args:
        settings: with the budget; without one, all strategies are trained.
        wanted: strategies, in the order of params.yaml.
        images: at the source; None if unknown.
        history: the result of `tasks.runs.costs.read_experience`.
        folds: the result of `wanted_folds`.
    """
    budget = settings.compare.budget_minutes
    with_folds: dict[str, int | None] = {"folds": folds} if folds else {}
    if budget is None:
        return {"strategies": list(wanted), "compare": {"left_out": None, **with_folds}}
    minutes = {name: estimate_minutes(name, settings, images, history) for name in wanted}
    left_out: list[list[Any]] = []
    if folds and settings.train.recipe == "modern":
        once = None if None in minutes.values() else sum(filter(None, minutes.values()))
        if once is not None and once * folds <= budget:  # see `Settings.as_many_trainings`
            return {"strategies": list(wanted), "compare": {"left_out": [], **with_folds}}
        left_out = [[f"{folds} folds", None if once is None else round((folds - 1) * once, 1)]]
        with_folds = {"folds": None}
    kept = _affordable(settings, wanted, minutes, budget)
    left_out = [*([name, minutes[name]] for name in wanted if name not in kept), *left_out]
    kept_in_order = [name for name in wanted if name in kept]
    return {"strategies": kept_in_order, "compare": {"left_out": left_out, **with_folds}}


def _affordable(
    settings: Settings, wanted: Sequence[str], minutes: Mapping[str, float | None], budget: float
) -> set[str]:
    first = min(wanted, key=STRATEGIES.index)
    left, kept = budget - (minutes[first] or 0.0), {first}
    others = [name for name in wanted if name != first]
    for name in sorted(others, key=lambda name: (not _trains_blocks(name, settings), minutes[name] or 0.0)):
        needed = minutes[name]
        if needed is not None and needed <= left:
            left -= needed
            kept.add(name)
    return kept


def estimate_minutes(strategy: str, settings: Settings, images: int | None, history: Sequence[Costs]) -> float | None:
    """How long a training without folds takes: as in its last runs, or else at most, by its passes of the network.

    Returns:
        minutes, rounded; None if it has no runs and the number of images is unknown.
    """
    seconds = expected_seconds(scale_trainings(history, 1), f"train@{strategy}", None)
    if seconds is None and images is not None:
        from tasks.vgg.network_cost import most_passes  # a run without a budget needs no NumPy here

        rules = settings.train
        refits = rules.recipe == "modern" and rules.modern.refit_with_validation
        used = round(images * (1 - settings.prepare.test_fraction))
        passes = most_passes(plan_phases(strategy, rules, settings.augmentation), used, refits=refits)
        seconds = passes / _images_per_s(history)
    return None if seconds is None else round(seconds / 60, 1)


def _images_per_s(history: Sequence[Costs]) -> float:
    rates = [entry["images_per_s"] for entry in history if entry["stage"] == "features" and entry.get("images_per_s")]
    return float(median(rates[-_RECENT:])) if rates else ASSUMED_IMAGES_PER_S


def _trains_blocks(strategy: str, settings: Settings) -> bool:
    return any(phase.unfrozen for phase in plan_phases(strategy, settings.train, settings.augmentation))
