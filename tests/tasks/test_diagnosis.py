"""What `evaluate` tells of the champion, on images of a tiny network: of a frozen one, and of one trained further."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.diagnosis import Champion, diagnose
from tasks.files import write_json
from tasks.images.corruptions import KINDS, STRENGTHS, corrupt
from tasks.images.manifest import Example
from tasks.images.quality import scores
from tasks.images.shards import Writer
from tasks.reports.evaluated_images import worst_mistakes
from tasks.vgg import inference
from tasks.vgg.backbone import BOUNDARIES
from tasks.vgg.boundaries import BOTTLENECK, RECIPE
from tasks.vgg.engines import Engine, build_extractor
from tasks.vgg.head import Dense, Head, pool
from tasks.vgg.trained_model import Trained
from tasks.workspace import SHARDS, Workspace
from tests.tasks.vgg.small_weights import tiny_weights

CLASSES = ("ants", "bees", "wasps")
RNG = np.random.default_rng(0)
EXAMPLES = [
    Example(f"{(n * 37) % 101:064x}", f"{n}.png", CLASSES[n % 3], split, 224, 224, "PNG", "")
    for n, split in enumerate(["train"] * 8 + ["validation"] * 4 + ["test"] * 24)
]
TEST = [example for example in EXAMPLES if example.split == "test"]
PIXELS = {
    example.key: np.clip(RNG.normal(40 + 25 * (n % 7), 40, (224, 224, 3)), 0, 255).astype(np.uint8)
    for n, example in enumerate(EXAMPLES)
}
HEAD = Head(
    "average_maximum",
    (Dense(RNG.normal(0, 3, (16, 3)).astype(np.float32), np.array([0.1, 0, -0.1], np.float32), "softmax"),),
)
TUNED = {name: np.roll(value, 3, axis=-1) for name, value in tiny_weights().items() if name.startswith("block5_conv3")}


def features_of(backbone: dict[str, Any], pixels: np.ndarray) -> np.ndarray:
    weights = {**tiny_weights(), **backbone}
    (found,) = build_extractor(Engine("ncnn", "float32"), weights, BOUNDARIES[-1:], 64, dtype=np.float32)(pixels)
    return found


@pytest.fixture
def place(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(inference, "load_weights", tiny_weights)
    place = Workspace.at(workspace)
    pixels = np.stack([PIXELS[example.key] for example in EXAMPLES])
    features = features_of({}, pixels).astype(np.float16)
    for folder, data in ((workspace / SHARDS, pixels), (place.features / BOTTLENECK, features)):
        writer = Writer(folder, "test", 64)
        for example, row in zip(EXAMPLES, data, strict=True):
            writer.add({"key": example.key, "scores": scores(PIXELS[example.key])}, row)
        writer.close()
    write_json(place.features / BOTTLENECK / RECIPE, {"engine": "ncnn", "precision": "float32"})
    return place


def champion(backbone: dict[str, Any], refitted: bool = False) -> Champion:
    features = features_of(backbone, np.stack([PIXELS[example.key] for example in TEST]))
    probabilities = HEAD.probabilities(features)
    summary = {"refitted_with_validation": refitted}
    model = Trained("fine_tuning", "modern", CLASSES, HEAD, backbone, False, None, (), probabilities[:0], summary)
    labels = np.array([CLASSES.index(example.label) for example in TEST])
    return Champion(model, TEST, probabilities, labels, np.arange(len(TEST)))


def run(place: Workspace, subject: Champion, shift_images: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    mistakes = worst_mistakes(subject.probabilities, subject.labels, CLASSES, TEST)[:5]
    return diagnose(subject, mistakes, EXAMPLES, shift_images, place), mistakes


@pytest.mark.parametrize("backbone", [{}, TUNED], ids=["frozen", "trained further"])
def test_maps_and_constants_add_up_to_what_the_model_says(place: Workspace, backbone: dict[str, Any]) -> None:
    found, mistakes = run(place, champion(backbone))
    assert len(found["why"]["mistakes"]) == 5
    right = [(one["key"], one["actual"], one["other"]) for one in found["why"]["right"]]
    assert right
    pairs = [(one["key"], one["predicted"], one["actual"]) for one in mistakes]
    for (key, chosen, other), one in zip(pairs + right, found["why"]["mistakes"] + found["why"]["right"], strict=True):
        pooled = pool(features_of(backbone, PIXELS[key][np.newaxis]), HEAD.pooling)
        logits = (pooled @ HEAD.layers[0].kernel + HEAD.layers[0].bias)[0]
        says = logits[CLASSES.index(chosen)] - logits[CLASSES.index(other)]
        assert np.sum(one["places"]) + one["constant"] == pytest.approx(says, abs=2e-2 if not backbone else 1e-4)
        assert says > 0


def test_nearest_images_are_those_that_the_model_learned_from(place: Workspace) -> None:
    split_of = {example.key: example.split for example in EXAMPLES}
    for refitted, splits in ((False, {"train"}), (True, {"train", "validation"})):
        found, _ = run(place, champion({}, refitted))
        near = [one for mistake in found["why"]["mistakes"] for one in mistake["near"]]
        assert len(near) == 15
        assert {split_of[one["key"]] for one in near} == splits
        assert all(one["label"] in CLASSES for one in near)


def test_weak_slice_shows_its_surest_mistakes(place: Workspace) -> None:
    subject = champion({})
    dark = np.argsort([scores(PIXELS[example.key])["light"] for example in TEST], kind="stable")[:10]
    labels = subject.probabilities.argmax(axis=1)
    labels[dark] = (labels[dark] + [1, 1, 1, 1, 1, 1, 1, 2, 2, 2]) % 3
    formats = [replace(one, format="GIF" if n in dark else "PNG") for n, one in enumerate(TEST)]
    found, _ = run(place, replace(subject, labels=labels, examples=formats))
    weak = next(one for one in found["weak"]["slices"] if one["attribute"] == "format")
    assert (weak["n"], weak["wrong"], weak["words"]) == (10, 10, "images with format: GIF")
    predicted = subject.probabilities.argmax(axis=1)
    pairs = Counter((labels[place], predicted[place]) for place in dark.tolist())
    assert len(set(pairs.values())) > 1
    number = max(pairs.values())
    assert weak["confused"]["n"] == number
    assert pairs[CLASSES.index(weak["confused"]["actual"]), CLASSES.index(weak["confused"]["predicted"])] == number
    surest = sorted(dark, key=lambda place: -subject.probabilities[place].max())[:8]
    assert weak["keys"] == [TEST[place].key for place in surest]


def test_worse_images_pass_the_champions_network(place: Workspace) -> None:
    subject = champion(TUNED)
    found, _ = run(place, subject, shift_images=5)
    what_if = found["what_if"]
    chosen = sorted(TEST, key=lambda example: example.key)[:5]
    assert (what_if["n"], what_if["passes"]) == (5, 5 * 18)
    assert what_if["clean"]["accuracy"] == np.mean([~subject.wrong[TEST.index(one)] for one in chosen])
    for kind in what_if["kinds"]:
        for row in kind["strengths"]:
            copies = np.stack([corrupt(PIXELS[one.key], kind["kind"], row["strength"], one.key) for one in chosen])
            predicted = HEAD.probabilities(features_of(TUNED, copies)).argmax(axis=1)
            assert row["accuracy"] == np.mean(
                [CLASSES[p] == one.label for p, one in zip(predicted, chosen, strict=True)]
            )
    assert [one["kind"] for one in what_if["kinds"]] == [*KINDS]
    assert [row["strength"] for row in what_if["kinds"][0]["strengths"]] == [*STRENGTHS]


def test_nothing_is_tried_unless_it_is_asked_for(place: Workspace) -> None:
    assert run(place, champion({}))[0]["what_if"] is None
