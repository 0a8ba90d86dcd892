"""The champion is the first strategy that is not clearly worse than the best, by images that all have predicted."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.errors import IntegrityError
from tasks.reports.champion import Validated, certainty_of_choice, choose_champion


def validated(
    right: list[bool], confidence: float = 0.9, groups: list[int] | None = None, labels: list[int] | None = None
) -> Validated:
    """A model that predicts each image with the same confidence."""
    n = len(right)
    classes = np.zeros(n, int) if labels is None else np.array(labels)
    share = np.where(right, confidence, 1 - confidence)
    probabilities = np.where(np.arange(2) == classes[:, np.newaxis], share[:, np.newaxis], 1 - share[:, np.newaxis])
    of_group = np.arange(n) if groups is None else np.array(groups)
    return Validated([f"{number:03}" for number in range(n)], probabilities, classes, of_group)


def champion(*candidates: Validated, balanced: bool = False) -> str:
    return choose_champion(dict(zip("abcd", candidates, strict=False)), balanced)


@pytest.mark.parametrize(("more", "expected"), [(1, "a"), (2, "b")])
@pytest.mark.parametrize("n", [56, 153, 1000])
def test_one_more_right_image_does_not_decide(more: int, n: int, expected: str) -> None:
    first, second = ([number >= wrong for number in range(n)] for wrong in (5 + more, 5))
    assert champion(validated(first), validated(second)) == expected
    assert champion(validated(second), validated(first)) == "a"


def test_differences_in_both_directions_decide_less() -> None:
    first, second = ([number not in wrong for number in range(56)] for wrong in (range(6), range(6, 10)))
    assert champion(validated(first), validated(second)) == "a"


def test_log_loss_decides_among_equally_accurate_ones() -> None:
    right = [True] * 20 + [False]
    assert champion(validated(right, 0.7), validated(right, 0.9)) == "b"
    assert champion(validated(right, 0.9), validated(right, 0.91)) == "a"


def test_lower_log_loss_does_not_make_up_for_clearly_more_errors() -> None:
    accurate, confident = validated([True] * 56, 0.6), validated([True] * 48 + [False] * 8, 0.99)
    assert champion(confident, accurate) == "b"


def test_the_lowest_log_loss_is_that_of_the_accurate_ones() -> None:
    wrong_often = validated([True] * 40 + [False] * 16, 0.51)
    assert champion(wrong_often, validated([True] * 56, 0.6), validated([True] * 56, 0.9)) == "c"


def test_images_of_one_group_count_as_one() -> None:
    right, wrong = [True] * 80, [True] * 70 + [False] * 10
    assert champion(validated(wrong), validated(right)) == "b"
    groups = [number // 10 for number in range(80)]
    assert champion(validated(wrong, groups=groups), validated(right, groups=groups)) == "a"


def test_one_group_can_not_tell_strategies_apart() -> None:
    groups = [0] * 20
    assert champion(validated([False] * 20, groups=groups), validated([True] * 20, groups=groups)) == "a"


def test_balanced_counts_a_rare_class_like_the_others() -> None:
    labels = [0] * 36 + [1] * 4
    common, rare = [True] * 36 + [False] * 4, [True] * 20 + [False] * 16 + [True] * 4
    candidates = validated(rare, labels=labels), validated(common, labels=labels)
    assert (champion(*candidates), champion(*candidates[::-1])) == ("b", "a")
    assert (champion(*candidates, balanced=True), champion(*candidates[::-1], balanced=True)) == ("a", "b")


def test_only_images_that_all_have_are_compared_whatever_their_order() -> None:
    first = validated([False] * 4 + [True] * 36)
    backwards = Validated(first.keys[:3:-1], first.probabilities[:3:-1], first.labels[:3:-1], first.groups[:3:-1])
    assert champion(first, backwards) == "a"
    assert champion(validated([True] * 30 + [False] * 10), backwards) == "b"


def test_candidates_without_a_common_image_are_refused() -> None:
    first = validated([True])
    other = Validated(["other"], first.probabilities, first.labels, first.groups)
    with pytest.raises(IntegrityError, match="dvc repro evaluate"):
        champion(first, other)


def test_choice_that_a_few_images_decide_is_unsure_and_a_clear_one_is_sure() -> None:
    cheap, close, far = (validated([number >= wrong for number in range(200)]) for wrong in (12, 9, 0))
    sure = certainty_of_choice({"cheap": cheap, "far": far}, balanced=False)
    assert sure is not None
    assert sure["chosen"] == {"cheap": 0, "far": 1}
    assert sure["lost"] == pytest.approx(0)
    unsure = certainty_of_choice({"cheap": cheap, "close": close}, balanced=False)
    assert unsure is not None
    assert list(unsure["chosen"]) == ["cheap", "close"]
    assert 0.05 < unsure["chosen"]["cheap"] < 0.95
    assert unsure["lost"] == pytest.approx(unsure["chosen"]["cheap"] * 3 / 200)
    assert certainty_of_choice({"cheap": cheap}, balanced=False) is None


@pytest.mark.parametrize("wrong", range(1, 9))
def test_choice_among_equals_loses_nothing(wrong: int) -> None:
    """Sums of rounded shares must not tell that a choice gains."""
    equal = {
        str(first): validated([not first <= number < first + wrong for number in range(56)]) for first in (0, 9, 18)
    }
    found = certainty_of_choice(equal, balanced=False)
    assert found is not None
    assert 0 <= found["lost"] < 1e-12


def test_images_of_a_group_are_drawn_together() -> None:
    """One group, whose images only `second` predicts right, decides: 37 of 100 resamples don't have it."""
    first, second = [True] * 50 + [False] * 50, [True] * 100
    groups = [*range(50), *[50] * 50]
    alone = certainty_of_choice({"first": validated(first), "second": validated(second)}, balanced=False)
    grouped = [validated(right, groups=groups) for right in (first, second)]
    together = certainty_of_choice(dict(zip(("first", "second"), grouped, strict=True)), balanced=False)
    assert alone is not None
    assert together is not None
    assert alone["chosen"]["second"] == 1
    assert together["chosen"]["first"] > 0.3
