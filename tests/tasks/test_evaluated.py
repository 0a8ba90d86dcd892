"""What the trained models predict for held-out images, and what must fit for that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import evaluated, foreign
from tasks.errors import DataError, IntegrityError
from tasks.evaluate import run
from tasks.images.manifest import read_examples, write_examples
from tasks.vgg.head import Dense, Head, pool
from tasks.vgg.trained_model import Trained, load_trained, save_trained
from tasks.workspace import PREPARED, TRAINED, Workspace
from tests.tasks.evaluate_workspace import STRATEGIES, make_settings, make_workspace


def test_a_tuned_backbone_leaves_the_features_of_test_images_for_the_foreign_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_workspace(tmp_path, {STRATEGIES[0]: {}})
    examples = read_examples(tmp_path / PREPARED)
    outputs = {one.key: np.full((7, 7, 2), place, np.float32) for place, one in enumerate(examples)}

    def predict(_head: Head, _backbone: object, _sides: bool, _: Workspace, keys: list[str], see: Any) -> Iterator[Any]:
        for start in range(0, len(keys), 4):
            batch = keys[start : start + 4]
            if see:
                see(batch, np.stack([outputs[key] for key in batch]))
            yield np.full((len(batch), 2), 0.5)

    monkeypatch.setattr(evaluated, "predict_probabilities", predict)
    monkeypatch.setattr(foreign, "MOST_TESTED", 7)
    frozen = load_trained(tmp_path / TRAINED / STRATEGIES[0])
    models = {"frozen": frozen, "tuned": replace(frozen, backbone={"block5_conv3/bias": np.zeros(1, np.float32)})}
    test = [one for one in examples if one.split == "test"]
    group_of = {one.key: place for place, one in enumerate(examples)}
    found = evaluated.evaluate_models(models, examples, test, group_of, Workspace.at(tmp_path))
    assert found["frozen"].pooled == {}
    assert set(found["tuned"].pooled) == {one.key for one in foreign.tested_images(test)}
    for key, row in found["tuned"].pooled.items():
        np.testing.assert_array_equal(row, pool(outputs[key][np.newaxis], "average_maximum")[0])


@pytest.mark.parametrize("split", ["test", "validation"])
def test_evaluate_without_held_out_images_says_what_to_do(tmp_path: Path, split: str) -> None:
    make_workspace(tmp_path, {STRATEGIES[0]: {}}, a_split=2)
    if split == "test":
        write_examples(tmp_path / PREPARED, [one for one in read_examples(tmp_path / PREPARED) if one.split != "test"])
    else:
        classes = ("ants", "bees")
        head = Head("flatten", (Dense(np.eye(2, dtype=np.float32), np.zeros(2, np.float32), "softmax"),))
        nothing = np.empty((0, 2), np.float32)
        empty = Trained("feature_extraction", "modern", classes, head, {}, False, None, (), nothing, {})
        save_trained(tmp_path / TRAINED / "feature_extraction", empty)
    with pytest.raises(DataError, match=f"prepare.{split}_fraction"):
        run(make_settings(), Workspace.at(tmp_path))


def test_evaluate_refuses_a_model_of_other_images(tmp_path: Path) -> None:
    make_workspace(tmp_path, {STRATEGIES[0]: {}})
    moved = [one for one in read_examples(tmp_path / PREPARED) if one.split != "validation"]
    write_examples(tmp_path / PREPARED, moved)
    with pytest.raises(IntegrityError, match="dvc repro train@feature_extraction"):
        run(make_settings(), Workspace.at(tmp_path))
