"""What `evaluate` tells of the champion besides its metrics: why it answered so, where it is weak, and what if.

`reports/evaluation.json` holds it as `why`, `weak` and `what_if`. The champion's features of the shown images alone
are read (a backbone that was trained further computes them), and those of all images that it learned from once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.images.augmentation import PLAIN
from tasks.images.corruptions import KINDS, STRENGTHS, Pixels, corrupt
from tasks.images.manifest import Example
from tasks.images.shards import Shards, open_shards
from tasks.progress import Progress
from tasks.reports import why
from tasks.reports.metrics import rounded
from tasks.reports.slices import attributes_of, find_weak_slices
from tasks.reports.what_if import measure_what_if
from tasks.scores import Floats, Integers, predict
from tasks.vgg.activation_maps import explain
from tasks.vgg.boundaries import BOTTLENECK
from tasks.vgg.inference import BATCH, features_reader, pixels_predictor, views_of
from tasks.vgg.nearest_images import find_nearest
from tasks.vgg.trained_model import Trained
from tasks.workspace import Workspace

SHOWN_OF_SLICE = 8


@dataclass(frozen=True)
class Champion:
    """The champion, and what it predicts for the test images.

    Attributes:
        model: the trained one.
        examples: n, of the test split.
        probabilities: (n, classes).
        labels: (n,) indices of the actual classes.
        groups: (n,) numbers of the images' groups.
        pooled: key -> pooled features (d,) of some of the images, if its backbone was trained further.
    """

    model: Trained
    examples: Sequence[Example]
    probabilities: Floats
    labels: Integers
    groups: Integers
    pooled: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def wrong(self) -> npt.NDArray[np.bool_]:
        return np.not_equal(predict(self.probabilities), self.labels)


def diagnose(
    champion: Champion,
    mistakes: Sequence[Mapping[str, Any]],
    examples: Sequence[Example],
    shift_images: int,
    workspace: Workspace,
) -> dict[str, Any]:
    """Explain answers, find weak slices, and try worse images.

    Args:
        champion: with its predictions.
        mistakes: those that the report shows; see `worst_mistakes`.
        examples: of all splits.
        shift_images: `evaluate.shift_images`; 0: none is tried.
        workspace: with images and features.

    Returns:
        JSON: why, weak, and what_if (None if it wasn't asked for).
    """
    found = {
        "why": _explain(champion, mistakes, examples, workspace),
        "weak": _find_weak(champion, open_shards(workspace.shards)),
        "what_if": _try_worse(champion, shift_images, workspace) if shift_images else None,
    }
    result: dict[str, Any] = rounded(found)
    return result


def _explain(
    champion: Champion, mistakes: Sequence[Mapping[str, Any]], examples: Sequence[Example], workspace: Workspace
) -> dict[str, Any]:
    """Maps of the mistakes (the predicted class against the actual one) and of right answers (against the next)."""
    wrong = mistakes[: why.MOST_MISTAKES]
    right = why.right_answers(champion.probabilities, champion.labels, champion.model.classes, champion.examples)
    pairs = [(one["key"], one["predicted"], one["actual"]) for one in wrong]
    pairs += [(one["key"], one["actual"], one["other"]) for one in right]
    maps = list(_maps(champion.model, pairs, workspace))
    near = _nearest(champion.model, [one["key"] for one in wrong], examples, workspace)
    return {
        "mistakes": [{**found, "near": close} for found, close in zip(maps[: len(wrong)], near, strict=True)],
        "right": [{**one, **found} for one, found in zip(right, maps[len(wrong) :], strict=True)],
    }


def _maps(model: Trained, pairs: Sequence[tuple[str, str, str]], workspace: Workspace) -> Iterator[dict[str, Any]]:
    """What speaks for a class and against another one, for each (key, class, other class)."""
    if not pairs:
        return
    read, number = features_reader(model.backbone, workspace), {name: n for n, name in enumerate(model.classes)}
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        for features, (_, chosen, other) in zip(read([key for key, _, _ in batch], PLAIN), batch, strict=True):
            found = explain(model.head, features, number[chosen], number[other])
            yield {"places": found.places.tolist(), "constant": found.constant}


def _nearest(
    model: Trained, keys: Sequence[str], examples: Sequence[Example], workspace: Workspace
) -> list[list[dict[str, Any]]]:
    """For each key, the images most alike of those that the model learned from."""
    splits = ("train", "validation") if model.summary.get("refitted_with_validation") else ("train",)
    known = {example.key: example for example in examples if example.split in splits}
    found = find_nearest(open_shards(workspace.features / BOTTLENECK), keys, list(known), why.NEAREST)
    return [
        [
            {"key": one.key, "label": known[one.key].label, "path": known[one.key].path, "similarity": one.similarity}
            for one in near
        ]
        for near in found
    ]


def _find_weak(champion: Champion, images: Shards) -> dict[str, Any]:
    """The weak slices; each with its most frequent confusion and the keys of its surest mistakes."""
    keys = [example.key for example in champion.examples]
    scores = [images.row(key)["scores"] for key in keys]
    batches = (images.read(keys[start : start + BATCH]) for start in range(0, len(keys), BATCH))
    found = find_weak_slices(champion.wrong, attributes_of(champion.examples, scores, batches), champion.groups)
    confidence, predicted = champion.probabilities.max(axis=1), predict(champion.probabilities).tolist()
    classes, labels = champion.model.classes, champion.labels.tolist()
    for one in found["slices"]:
        surest = sorted(one.pop("places"), key=lambda place: (-confidence[place], keys[place]))
        pairs = Counter((labels[place], predicted[place]) for place in surest)
        (actual, taken_for), n = min(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
        one["confused"] = {"actual": classes[actual], "predicted": classes[taken_for], "n": n}
        one["keys"] = [keys[place] for place in surest[:SHOWN_OF_SLICE]]
    return found


def _try_worse(champion: Champion, number: int, workspace: Workspace) -> dict[str, Any]:
    """The accuracy on worse copies of a sample of the test images."""
    model, keys = champion.model, [example.key for example in champion.examples]
    chosen = sorted(range(len(keys)), key=keys.__getitem__)[:number]  # keys are digests: a random sample
    images = open_shards(workspace.shards)
    predictor = pixels_predictor(model.head, model.backbone, model.test_time_augmentation, workspace)
    copies = [(kind, strength) for kind in KINDS for strength in STRENGTHS]
    hits = {copy: np.empty(len(chosen), bool) for copy in copies}
    with Progress("evaluate", len(chosen) * len(copies), "worse copies") as progress:
        for start in range(0, len(chosen), BATCH):
            places = chosen[start : start + BATCH]
            pixels: Pixels = images.read([keys[place] for place in places])
            for copy in copies:
                worse = np.stack([corrupt(one, *copy, keys[place]) for one, place in zip(pixels, places, strict=True)])
                hits[copy][start : start + BATCH] = predict(predictor(worse)) == champion.labels[places]
                progress.advance(len(places))
    passes = len(chosen) * len(copies) * len(views_of(model.test_time_augmentation))
    clean = ~champion.wrong[chosen]
    by_kind = {kind: {strength: hits[kind, strength] for strength in STRENGTHS} for kind in KINDS}
    found = measure_what_if(clean, by_kind, champion.groups[chosen], passes)
    return {**found, "sample": keys[chosen[int(np.argmax(clean))]]}
