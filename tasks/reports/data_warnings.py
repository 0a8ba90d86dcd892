"""What a person should know about the images before they trust a model: for the log of `prepare` and its report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.reports.text import visible

_LISTED = 5


def data_warnings(summary: Mapping[str, Any]) -> list[str]:
    """Sentences about the content of `data/prepared/summary.json`, each with what to do."""
    near = summary["near_duplicates"]
    sets = near["large_sets"]
    apart, together = ([one for one in sets if one["apart"] is loose] for loose in (True, False))
    found = [_apart(one) for one in apart[:_LISTED]]
    if len(apart) > _LISTED:
        found.append(f"{len(apart) - _LISTED} more sets of near duplicates are not kept together either.")
    if together:
        found.append(_together(together))
    if near["mixed"]:
        found.append(
            f"{near['mixed']} accepted images look like an image with another label. Check their labels: "
            "the data report shows them side by side."
        )
    return found + _gaps(summary["classes"])


def _apart(one: Mapping[str, Any]) -> str:
    return (
        f"{one['n']} images look alike, among them {one['of_label']} of the {one['class_size']} images of "
        f"{visible(one['label'], 60)} ({_first(one)}). So they are split like different images, as those of a fixed "
        "camera are: prepare.near_duplicate_bits=0 says the same and ends this warning. If they are frames of one "
        "video or versions of one image, the accuracy will be too high: then use a table with the column group."
    )


def _together(sets: list[Mapping[str, Any]]) -> str:
    largest = sets[0]
    many = f"{len(sets)} sets" if len(sets) > 1 else "a set"
    return (
        f"{sum(one['n'] for one in sets)} images are in {many} of near duplicates; the largest has {largest['n']} "
        f"({_first(largest)}). Each set is in one split. If they are different images (of a fixed camera, screenshots, "
        "forms), set prepare.near_duplicate_bits=0: then only images with equal pixels count as duplicates."
    )


def _first(one: Mapping[str, Any]) -> str:
    return f"{', '.join(visible(path, 90) for path in one['paths'])}, ..."


def _gaps(classes: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Classes without an image in a held-out split."""
    found = []
    for split, consequence in (
        ("validation", "choices ignore"),
        ("test", "the test accuracy says nothing about"),
    ):
        missing = sorted(label for label, counts in classes.items() if not counts[split])
        if missing:
            names = ", ".join(visible(label, 40) for label in missing[:_LISTED])
            more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
            several = len(missing) > 1
            found.append(
                f"No {split} image of {names}{more}: {consequence} {'them' if several else 'it'}. Add images of "
                f"{'these classes' if several else 'the class'}: with 3 or more that don't belong together, a class is "
                "in all splits that are drawn."
            )
    return found
