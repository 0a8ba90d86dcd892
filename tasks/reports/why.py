"""Which answers are explained in the report, and how: what speaks for them, and what the model learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.images.manifest import Example
from tasks.reports.data_uris import thumbnail
from tasks.reports.metrics import rounded
from tasks.reports.overlays import describe_place, draw_overlay
from tasks.scores import Floats, Integers, predict

MOST_MISTAKES = 24
"""Further mistakes are shown without a map, so that the page stays small."""
MOST_RIGHT = 6
NEAREST = 3
_SIDE_PX, _NEAR_PX = 224, 112

Images = Mapping[str, npt.NDArray[np.uint8]]


def right_answers(
    probabilities: Floats, labels: Integers, classes: Sequence[str], examples: Sequence[Example]
) -> list[dict[str, Any]]:
    """The surest right answer of each class, for the classes with the most right answers.

    Args:
        probabilities: (n, c).
        labels: (n,) indices of the actual classes.
        classes: c names.
        examples: n, in the same order.
    """
    hits = predict(probabilities) == labels
    numbers = np.bincount(labels[hits], minlength=len(classes))
    shown = sorted(np.flatnonzero(numbers).tolist(), key=lambda number: (-numbers[number], number))[:MOST_RIGHT]
    found = []
    for number in sorted(shown):
        of_class: list[int] = np.flatnonzero(hits & (labels == number)).tolist()
        place = min(of_class, key=lambda one: (-probabilities[one, number], examples[one].key))
        others = probabilities[place].copy()
        others[number] = -1
        found.append(
            {
                "key": examples[place].key,
                "path": examples[place].path,
                "actual": classes[number],
                "other": classes[int(np.argmax(others))],
                "probability": rounded(float(probabilities[place, number])),
            }
        )
    return found


def show_mistakes(mistakes: Sequence[Mapping[str, Any]], why: Mapping[str, Any], images: Images) -> list[Any]:
    """The mistakes with their images; the explained ones also with a map and the nearest images."""
    shown = []
    for number, (mistake, suspect) in enumerate(zip(mistakes, suspicions(mistakes, why), strict=True)):
        pixels = images[mistake["key"]]
        row = {**mistake, "image": thumbnail(pixels, _SIDE_PX), "overlay": None, "near": [], "suspect": suspect}
        if number < len(why["mistakes"]):
            found = why["mistakes"][number]
            near = [{**one, "image": thumbnail(images[one["key"]], _NEAR_PX)} for one in found["near"]]
            row |= {**_show_map(pixels, found), "near": near}
        shown.append(row)
    return shown


def suspicions(mistakes: Sequence[Mapping[str, Any]], why: Mapping[str, Any]) -> list[bool]:
    """Whether each mistake may have a wrong label: all of the nearest images have the predicted one."""
    near = [[one["label"] for one in found["near"]] for found in why["mistakes"]]
    explained = [labels == NEAREST * [one["predicted"]] for labels, one in zip(near, mistakes, strict=False)]
    return explained + [False] * (len(mistakes) - len(explained))


def show_right_answers(why: Mapping[str, Any], images: Images) -> list[dict[str, Any]]:
    """The explained right answers with their images and maps."""
    return [
        {**one, "image": thumbnail(images[one["key"]], _SIDE_PX), **_show_map(images[one["key"]], one)}
        for one in why["right"]
    ]


def shown_images(why: Mapping[str, Any]) -> list[str]:
    """The keys of all images that the explanations show."""
    near = [one["key"] for mistake in why["mistakes"] for one in mistake["near"]]
    return [*near, *(one["key"] for one in why["right"])]


def _show_map(pixels: npt.NDArray[np.uint8], found: Mapping[str, Any]) -> dict[str, str]:
    places = np.array(found["places"])
    return {"overlay": thumbnail(draw_overlay(pixels, places), _SIDE_PX), "where": describe_place(places)}
