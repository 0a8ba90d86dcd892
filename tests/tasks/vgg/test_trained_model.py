"""A trained model comes back as it was stored, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import IntegrityError
from tasks.vgg.head import Dense, Head
from tasks.vgg.trained_model import Trained, load_all, load_trained, save_trained

RNG = np.random.default_rng(0)
TRAINED = Trained(
    strategy="feature_extraction",
    recipe="modern",
    classes=("ant", "bee", "<img onerror=x>"),
    head=Head(
        "average_maximum", (Dense(RNG.normal(size=(16, 3)).astype(np.float32), np.ones(3, np.float32), "softmax"),)
    ),
    backbone={"block5_conv3/bias": RNG.random(4).astype(np.float32)},
    test_time_augmentation=True,
    problem="Collapsed: <b>",
    validation_keys=("a" * 64, "b" * 64),
    validation_probabilities=RNG.random((2, 3)).astype(np.float32),
    summary={"chosen": {"inverse_regularization": 3.0}, "backbone": {"engine": "ncnn"}},
)


def test_trained_model_comes_back_as_it_was(tmp_path: Path) -> None:
    save_trained(tmp_path / "one", TRAINED)
    found = load_trained(tmp_path / "one")
    assert (found.strategy, found.recipe, found.classes, found.validation_keys, found.summary) == (
        TRAINED.strategy,
        TRAINED.recipe,
        TRAINED.classes,
        TRAINED.validation_keys,
        TRAINED.summary,
    )
    assert (found.test_time_augmentation, found.problem) == (True, "Collapsed: <b>")
    assert found.backbone.keys() == TRAINED.backbone.keys()
    assert np.array_equal(found.backbone["block5_conv3/bias"], TRAINED.backbone["block5_conv3/bias"])
    assert np.array_equal(found.validation_probabilities, TRAINED.validation_probabilities)
    features = RNG.random((4, 2, 2, 8)).astype(np.float16)
    assert np.array_equal(found.head.probabilities(features), TRAINED.head.probabilities(features))


def test_trained_model_holds_nothing_that_can_run(tmp_path: Path) -> None:
    save_trained(tmp_path, TRAINED)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("name", ["model.safetensors", "validation.safetensors"])
@pytest.mark.parametrize("harm", ["flip", "cut", "lose", "swap"])
def test_changed_tensors_are_refused(tmp_path: Path, name: str, harm: str) -> None:
    save_trained(tmp_path, TRAINED)
    path = tmp_path / name
    content = path.read_bytes()
    if harm == "flip":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "cut":
        path.write_bytes(content[:-4])
    elif harm == "lose":
        path.unlink()
    else:
        other = {"model.safetensors": "validation.safetensors", "validation.safetensors": "model.safetensors"}[name]
        shutil.copy(tmp_path / other, path)
    with pytest.raises(IntegrityError, match=f"{name}.*dvc repro --force --single-item train@{tmp_path.name}"):
        load_trained(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b'{"sha256": 3}'])
def test_description_that_is_missing_or_nonsense_is_refused(tmp_path: Path, content: bytes | None) -> None:
    save_trained(tmp_path, TRAINED)
    (tmp_path / "model.json").unlink()
    if content is not None:
        (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(IntegrityError, match="is not a complete trained model"):
        load_trained(tmp_path)


def test_load_all_keeps_the_order_of_the_strategies(tmp_path: Path) -> None:
    for name in ("b", "a"):
        save_trained(tmp_path / name, TRAINED)
    assert list(load_all(tmp_path, ["b", "a"])) == ["b", "a"]
