"""Pooled features for scores of foreign images: kept ones, or computed by the backbone that is exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.errors import IntegrityError
from tasks.files import write_json
from tasks.images.shards import Writer, write_shard
from tasks.vgg import foreign_features, inference
from tasks.vgg.boundaries import BOTTLENECK, RECIPE
from tasks.vgg.engines import Engine, build_extractor
from tasks.vgg.far_images import FAR_IMAGES, draw_far_images
from tasks.vgg.foreign_features import pool_far, pool_known
from tasks.vgg.head import pool
from tasks.vgg.weights import Weights
from tasks.workspace import SHARDS, Workspace
from tests import far_features
from tests.tasks.vgg.small_weights import tiny_weights

KEYS = ("a", "b", "c")


@pytest.fixture
def place(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with three prepared images, and with kept features that no network would give."""
    monkeypatch.setattr(inference, "load_weights", tiny_weights)
    writer = Writer(workspace / SHARDS, "images", 8)
    for key, image in zip(KEYS, images(), strict=True):
        writer.add({"key": key}, image)
    writer.close()
    place = Workspace.at(workspace)
    write_json(place.features / BOTTLENECK / RECIPE, {"engine": "ncnn", "precision": "float32"})
    write_shard(place.features / BOTTLENECK, [{"key": key} for key in KEYS], kept(), "made here")
    return place


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (len(KEYS), 224, 224, 3)).astype(np.uint8)


def kept() -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 9, (len(KEYS), 7, 7, 8)).astype(np.float16)


def tuned(factor: float) -> Weights:
    scale = np.float32(factor)
    return {name: value * scale for name, value in tiny_weights().items() if name.startswith("block5_conv3")}


def computed(pixels: np.ndarray, backbone: Weights) -> np.ndarray:
    weights = {**tiny_weights(), **backbone}
    extract = build_extractor(Engine("ncnn", "float32"), weights, (BOTTLENECK,), 8, dtype=np.float32)
    return pool(
        np.concatenate([extract(pixels[start : start + 8])[0] for start in range(0, len(pixels), 8)]), "average_maximum"
    )


def test_a_frozen_backbones_features_are_the_kept_ones(place: Workspace) -> None:
    assert np.array_equal(pool_known({}, place, KEYS[::-1]), pool(kept()[::-1], "average_maximum"))


def test_a_trained_backbone_computes_its_own(place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = tuned(2)
    backbone["block5_conv3/bias"] += 1
    np.testing.assert_allclose(pool_known(backbone, place, KEYS), computed(images(), backbone), atol=1e-5)
    assert "3/3 images for the foreign score" in capsys.readouterr().err
    np.testing.assert_allclose(pool_far(backbone, place), computed(draw_far_images(), backbone), atol=1e-5)


def test_a_trained_backbone_computes_by_the_engine_of_training_images(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines: list[object] = []

    def build(engine: object, *_: object, **__: object) -> object:
        engines.append(engine)
        return lambda pixels: (np.zeros((len(pixels), 7, 7, 8), np.float32),)

    monkeypatch.setattr(inference, "build_extractor", build)
    monkeypatch.setattr(foreign_features, "training_engine", lambda _: "fast")
    pool_known(tuned(2), place, KEYS)
    pool_far(tuned(2), place)
    assert engines == ["fast", "fast"]


def test_a_backbone_that_diverged_is_refused(place: Workspace) -> None:
    with pytest.raises(IntegrityError, match="its training diverged"):
        pool_known(tuned(np.inf), place, KEYS)


@pytest.mark.slow
@pytest.mark.weights
def test_kept_features_of_the_drawn_images_are_those_of_the_published_weights(place: Workspace) -> None:
    kept = pool_far({}, place)
    assert kept.shape == (FAR_IMAGES, 1024)
    np.testing.assert_allclose(kept[:6], far_features.compute(6), atol=2e-3)


def test_drawn_images_are_always_the_same_and_all_different() -> None:
    drawn = draw_far_images()
    assert np.array_equal(drawn, draw_far_images())
    assert len({image.tobytes() for image in drawn}) == FAR_IMAGES
