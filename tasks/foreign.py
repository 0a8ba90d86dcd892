"""What `evaluate` finds out about foreign images, which belong to none of the classes: how to tell them, how surely.

`reports/evaluation.json` holds it as `foreign`; `reports/foreign.safetensors` holds what was fitted, for `export`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from safetensors.numpy import save

from tasks.diagnosis import Champion
from tasks.files import sha256_hex
from tasks.images.manifest import Example
from tasks.reports import foreign as report
from tasks.reports.metrics import rounded
from tasks.vgg.exports.checks import choose
from tasks.vgg.foreign import Detector
from tasks.vgg.foreign_features import pool_far, pool_known
from tasks.vgg.foreign_trials import FEWEST_GROUPS, try_scores
from tasks.workspace import Workspace

MOST_KNOWN, MOST_TESTED = 3000, 3000
"""At most so many images are used, each class in turn. 3,000 known ones are at most 6 MB in an export."""
MOST_COMPUTED = 200
"""The same, if the backbone was trained further: then these images pass the network for this alone. More images hardly
make the score better; see docs/foreign.md."""
SHOWN = 8


def detect_foreign(
    tested: Champion, examples: Sequence[Example], group_of: Mapping[str, int], workspace: Workspace
) -> tuple[dict[str, Any] | None, bytes]:
    """Choose a score for foreign images, and its threshold, on train and validation images.

    Args:
        tested: the champion.
        examples: of all splits.
        group_of: key -> number of the image's group.
        workspace: with images and features.

    Returns:
        JSON (see `reports.foreign.judge_scores`) with `called_foreign` (the share of the test images) and `most` (the
        most foreign test images), None if there are too few images; and what was fitted, as a safetensors file.
    """
    backbone, classes = tested.model.backbone, tested.model.classes
    used = choose([one for one in examples if one.split != "test"], MOST_COMPUTED if backbone else MOST_KNOWN)
    groups = np.array([group_of[one.key] for one in used])
    if len(np.unique(groups)) < FEWEST_GROUPS:
        return None, save({})
    labels = np.array([classes.index(one.label) for one in used])
    features = pool_known(backbone, workspace, [one.key for one in used])
    trials = try_scores(features, labels, groups, pool_far(backbone, workspace))
    held_out = {
        name: [(one.label, one.rows, one.foreign, one.scores[name]) for one in trials.near if name in one.scores]
        for name in trials.out_of_fold
    }
    judged = report.judge_scores(trials.out_of_fold, held_out, trials.far, groups, classes)
    name = judged["score"]
    content = save({key: np.ascontiguousarray(value) for key, value in trials.fitted[name].items()})
    found = {**judged, **_try_on_test(Detector(name, trials.fitted[name], judged["threshold"]), tested, workspace)}
    return {**rounded(found), "sha256": sha256_hex(content)}, content


def tested_images(test: Sequence[Example]) -> list[Example]:
    """The test images that the score is tried on."""
    return choose(test, MOST_TESTED)


def _try_on_test(detector: Detector, tested: Champion, workspace: Workspace) -> dict[str, Any]:
    """Which share of the test images is called foreign, and which images come first."""
    chosen = tested_images(tested.examples)
    group_of = {one.key: group for one, group in zip(tested.examples, tested.groups, strict=True)}
    keys = [one.key for one in chosen]
    is_tuned = bool(tested.model.backbone)
    pooled = np.stack([tested.pooled[key] for key in keys]) if is_tuned else pool_known({}, workspace, keys)
    scores = detector.score(pooled)
    groups = np.array([group_of[one.key] for one in chosen])
    first = sorted(range(len(chosen)), key=lambda place: (-scores[place], chosen[place].key))[:SHOWN]
    return {
        "tested": len(chosen),
        "called_foreign": report.share_above(scores, detector.threshold, groups),
        "most": [
            {
                "key": chosen[place].key,
                "path": chosen[place].path,
                "label": chosen[place].label,
                "score": float(scores[place]),
                "foreign": bool(scores[place] > detector.threshold),
            }
            for place in first
        ],
    }
