"""Which answers are explained, and how the page gets them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.images.manifest import Example
from tasks.reports.why import MOST_RIGHT, right_answers, show_mistakes, show_right_answers, shown_images

CLASSES = [f"class {number}" for number in range(8)]
LABELS = np.repeat(np.arange(8), [9, 2, 8, 7, 6, 5, 4, 3])
EXAMPLES = [Example(f"{n:02}", f"{n}.jpg", CLASSES[label], "test", 9, 9, "PNG", "") for n, label in enumerate(LABELS)]
IMAGES = {key: np.full((224, 224, 3), n, np.uint8) for n, key in enumerate(["a", "b", "c", "d", "e"])}


def test_right_answers_are_the_surest_of_the_most_frequent_classes() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(8), len(LABELS))
    probabilities[np.arange(len(LABELS)), LABELS] += 1  # all are right
    probabilities[-3:, 0] += 5  # but those of the last class
    found = right_answers(probabilities, LABELS, CLASSES, EXAMPLES)
    assert [one["actual"] for one in found] == [CLASSES[number] for number in (0, 2, 3, 4, 5, 6)]
    assert len(found) == MOST_RIGHT
    first = int(found[0]["key"])
    assert probabilities[first, 0] == probabilities[LABELS == 0, 0].max()
    assert found[0]["other"] == CLASSES[int(np.argsort(probabilities[first])[-2])]


def mistake(key: str) -> dict[str, Any]:
    return {"key": key, "actual": "ants", "predicted": "bees"}


def explained(labels: str) -> dict[str, Any]:
    near = [{"key": key, "label": "bees" if label == "b" else "ants"} for key, label in zip("cde", labels, strict=True)]
    return {"places": np.eye(7).tolist(), "constant": 0.0, "near": near}


def test_label_is_suspect_if_all_three_nearest_images_have_the_predicted_label() -> None:
    why = {"mistakes": [explained("bbb"), explained("bba")], "right": []}
    first, second = show_mistakes([mistake("a"), mistake("b")], why, IMAGES)
    assert (first["suspect"], second["suspect"]) == (True, False)
    assert [one["label"] for one in second["near"]] == ["bees", "bees", "ants"]
    assert first["where"] == "upper left"
    assert shown_images(why) == [*"cdecde"]


def test_mistakes_beyond_the_explained_ones_are_shown_without_a_map() -> None:
    first, second = show_mistakes([mistake("a"), mistake("b")], {"mistakes": [explained("bbb")], "right": []}, IMAGES)
    assert first["overlay"]
    assert second["overlay"] is None
    assert second["image"].startswith("data:image/jpeg")


def test_right_answers_are_shown_with_their_maps() -> None:
    (shown,) = show_right_answers({"right": [{"key": "a", **explained("aaa")}]}, IMAGES)
    assert shown["overlay"] != shown["image"]
