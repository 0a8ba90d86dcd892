"""The comparison of the strategies in sentences: the champion, how sure its choice is, what was left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tasks.markdown_tables import duration
from tasks.reports.text import percent

SIGNIFICANT = 0.05
"""Below this p-value a difference is called clear."""
SURE_CHOICE = 0.8
"""If fewer resamples choose the champion, more images should choose it."""


def certainty_sentence(champion: str, choice: Mapping[str, Any] | None) -> str:
    """On which images the champion was chosen, how sure that is, and what it costs; empty if nothing was to choose."""
    if choice is None:
        return ""
    shares = {name: percent(share) for name, share in choice["chosen"].items() if share and name != champion}
    others = "".join(f", {name} in {share}" for name, share in shares.items())
    images = f"images of train and validation, in {choice['folds']} folds" if choice["folds"] else "validation images"
    rests_on = f"It rests on {choice['images']:,} {images}."
    unsure = choice["chosen"][champion] < SURE_CHOICE and not choice["folds"]
    more = " With compare.folds=5 all images of train and validation choose, for five times the time." if unsure else ""
    return (
        f"How sure is this choice? {rests_on} Of {choice['resamples']} resamples of them "
        f"{percent(choice['chosen'][champion])} choose {champion}{others}. A choice loses "
        f"{100 * choice['lost']:.1f} points of accuracy on them on average against the most accurate strategy.{more}"
    )


def refit_sentence(strategies: Mapping[str, Mapping[str, Any]], choice: Mapping[str, Any] | None) -> str:
    """Which strategies learned from more images than the others; empty if none did."""
    again = [name for name, one in strategies.items() if one["training"].get("refitted_with_validation")]
    others = [name for name in strategies if name not in again]
    if not again or not others:
        return ""
    different = "so the test metrics compare models that learned from different numbers of images."
    if choice and choice["folds"]:
        return f"{_listed(again)} learned from train and validation together, {_listed(others)} from train; {different}"
    was, were = ("was" if len(names) == 1 else "were" for names in (again, others))
    return (
        f"For the choice, all strategies learned from train alone. Then {_listed(again)} {was} trained again on train "
        f"and validation together; {_listed(others)} {were} not, {different}"
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def comparison_verdict(pair: Mapping[str, Any]) -> str:
    """The result of the paired test of the champion (first) and another strategy (second)."""
    if pair["first_only"] == pair["second_only"]:
        return "no difference"
    better = "the champion" if pair["first_only"] > pair["second_only"] else "the other"
    return f"{better} is better" if pair["p_value_corrected"] < SIGNIFICANT else "no clear difference"


def recommendation(evaluation: Mapping[str, Any]) -> str:
    """Which strategy to take, and what the best other one would give at which price; empty with a single strategy."""
    champion, strategies = evaluation["champion"], evaluation["strategies"]
    usable = [pair for pair in evaluation["comparisons"] if not strategies[pair["second"]]["problem"]]
    if not usable:
        return ""
    costs = {name: one["training"].get("network_passes") for name, one in strategies.items()}
    known = None not in costs.values()
    cheaper = [
        pair["second"]
        for pair in usable
        if known and costs[pair["second"]] < costs[champion] and pair["difference_ci95"][0] <= 0
    ]
    best = min(usable, key=lambda pair: (pair["difference"], pair["second"]))["second"]
    name = min(cheaper, key=lambda name: costs[name]) if cheaper else best
    pair = next(pair for pair in usable if pair["second"] == name)
    low, high = (100 * -end for end in reversed(pair["difference_ci95"]))
    difference = 0.0 - 100 * pair["difference"]  # not -0.0, which would read as a loss
    found = f"{difference:+.1f} percentage points (95 % confidence interval {low:+.1f} to {high:+.1f})"
    price = f" for {_times(costs[name] / costs[champion])} the work of the network" if known else ""
    if cheaper:
        return (
            f"{name} does about as well as the champion, {champion},{price}: its accuracy on the test images differs "
            f"by {found}. If time matters, take {name}."
        )
    return f"Take {champion}. On the test images, the accuracy of {name} differs by {found}{price}."


def folds_sentence(trainings: int) -> str:
    """What `compare.folds` costs, and what it is for; empty with 1: without it."""
    if trainings == 1:
        return ""
    return (
        f"compare.folds={trainings}: every strategy is also trained without each of {trainings} folds of train and "
        f"validation, which takes about {trainings} times as long. The champion is chosen on these images, not on the "
        "validation images alone."
    )


def told_left_out(evaluation: Mapping[str, Any]) -> str:
    """`left_out_sentence` of an evaluation."""
    return left_out_sentence(evaluation["compare"]["budget_minutes"], evaluation["compare"]["left_out"])


def left_out_sentence(budget_minutes: float | None, left_out: Iterable[tuple[str, float | None]] | None) -> str:
    """Which strategies the budget left out, with the time that they would take; empty if there is no budget.

    Args:
        budget_minutes: `compare.budget_minutes`.
        left_out: (strategy, minutes; None: unknown).
    """
    if budget_minutes is None or left_out is None:
        return ""
    budget = f"compare.budget_minutes={budget_minutes:g}"
    named = [f"{name} ({_about(minutes)})" for name, minutes in left_out]
    if not named:
        return f"All wanted strategies fit into {budget}."
    return f"Left out, because {budget} has no time for {'it' if len(named) == 1 else 'them'}: {_listed(named)}."


def _about(minutes: float | None) -> str:
    return "its time is unknown" if minutes is None else f"about {duration(60 * minutes)}"


def _times(ratio: float) -> str:
    if ratio < 1:
        return f"{100 * ratio:.2g} % of"
    return f"{ratio:.2g} times" if ratio < 10 else f"{ratio:,.0f} times"
