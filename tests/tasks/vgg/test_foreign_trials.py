"""Every score is tried on images that it was not fitted to."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.vgg.foreign import SCORES, Known
from tasks.vgg.foreign_trials import Trials, try_scores
from tests.tasks.vgg.test_foreign import make_known

CHANNELS = 12


def attempt(known: Known, groups: np.ndarray | None = None) -> Trials:
    far = 5 * np.random.default_rng(9).normal(size=(6, CHANNELS)).astype(np.float32)
    return try_scores(known.features, known.labels, np.arange(len(known.labels)) if groups is None else groups, far)


@pytest.fixture(scope="module")
def trials() -> Trials:
    return attempt(make_known())


@pytest.mark.parametrize("name", SCORES)
def test_every_image_has_a_score_that_was_fitted_without_its_fold(name: str, trials: Trials) -> None:
    known = make_known()
    held = np.arange(90) % 5 == 2
    fitted = SCORES[name].fit(Known(known.features[~held], known.labels[~held]))
    assert trials.out_of_fold[name][held] == pytest.approx(SCORES[name].score(fitted, known.features[held]))


def test_copies_of_an_image_in_its_group_dont_help_to_know_it() -> None:
    known = make_known(60)
    twice = Known(known.features.repeat(2, axis=0), known.labels.repeat(2))
    alone = attempt(twice).out_of_fold["nearest_neighbours"]
    grouped = attempt(twice, np.arange(60).repeat(2)).out_of_fold["nearest_neighbours"]
    assert grouped.mean() > alone.mean()


def test_each_class_is_held_out_once_and_scored_by_a_fit_to_the_others(trials: Trials) -> None:
    assert sorted(one.label for one in trials.near) == [0, 1, 2]
    known, one = make_known(), trials.near[1]
    assert np.array_equal(one.foreign, known.labels[one.rows] == one.label)
    assert one.foreign.sum() == 30
    unseen = np.isin(np.arange(90), one.rows)
    fitted = SCORES["mahalanobis"].fit(Known(known.features[~unseen], known.labels[~unseen]))
    expected = SCORES["mahalanobis"].score(fitted, known.features[one.rows])
    assert one.scores["mahalanobis"] == pytest.approx(expected)


def test_with_two_classes_only_scores_that_need_none_are_tried_near() -> None:
    assert [set(one.scores) for one in attempt(make_known(classes=2)).near] == 2 * [{"nearest_neighbours"}]


@pytest.mark.parametrize("name", ["nearest_neighbours", "virtual_logit"])
def test_far_images_have_higher_scores_than_true_ones(name: str, trials: Trials) -> None:
    assert np.median(trials.far[name]) > trials.out_of_fold[name].max()


def test_a_class_without_images_is_left_out() -> None:
    known = make_known()
    assert sorted(one.label for one in attempt(Known(known.features, 2 * known.labels)).near) == [0, 2, 4]
