"""Trainings without each fold: nothing of a fold touches its predictions, and all strategies have the same folds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tasks import train
from tasks.images.manifest import Duplicate, Example, read_examples, write_examples
from tasks.settings import Settings
from tasks.vgg.trained_model import load_trained
from tasks.vgg.training import loop
from tasks.vgg.training.fold_trainings import draw_compared_folds
from tasks.workspace import PREPARED, TRAINED, Workspace
from tests.tasks.steps import Change

QUICKER = (
    "compare.folds=2",
    "train.modern.bilinear_up_to=0",
    "train.modern.folds_up_to=0",
    "train.modern.progressive.blocks=1",
    "train.modern.recalibrate=false",
)


def example(name: str, label: str, split: str, group: str = "") -> Example:
    return Example(name, f"{label}/{name}", label, split, 9, 9, "PNG", "", group or None)


def many(label: str, n: int, split: str, group: str = "") -> list[Example]:
    return [example(f"{label}-{split}-{number}{group}", label, split, group) for number in range(n)]


def test_folds_keep_belonging_images_together_and_spread_classes_and_leave_test_alone() -> None:
    some = [*many("ant", 12, "train"), *many("ant", 6, "validation"), *many("ant", 3, "test"), *many("bee", 9, "train")]
    some += [*many("bee", 4, "validation", "one"), *many("bee", 2, "train", "two")]
    alike = [Duplicate("ant/ant-train-3", "ant", "", "ant/ant-validation-1", "", "near", "kept_together")]
    fold_of = draw_compared_folds(some, alike, 3, seed=0)
    assert fold_of.keys() == {one.key for one in some if one.split != "test"}
    assert fold_of["ant-train-3"] == fold_of["ant-validation-1"]
    assert len({fold_of[one.key] for one in some if one.group == "one"}) == 1
    assert (
        sorted(Counter(fold_of[one.key] for one in some if one.key in fold_of and one.label == "ant").values())
        == [6] * 3
    )


def test_class_that_a_fold_would_leave_without_training_images_is_held_out_in_none() -> None:
    some = [*many("ant", 12, "train"), *many("ant", 6, "validation"), *many("bee", 4, "train", "g")]
    some += many("bee", 3, "validation")
    fold_of = draw_compared_folds(some, [], 3, seed=0)
    assert {key.partition("-")[0] for key in fold_of} == {"ant"}


@pytest.mark.parametrize(
    "some",
    [
        [*many("ant", 9, "train"), *many("bee", 9, "train"), *many("ant", 3, "validation", "all")],
        [*many("ant", 9, "train", "a"), *many("bee", 9, "train", "b"), *many("ant", 3, "validation")],
    ],
)
def test_images_too_few_for_the_folds_are_refused(some: list[Example]) -> None:
    with pytest.raises(ValueError, match="fold"):
        draw_compared_folds(some, [], 3, seed=0)


@pytest.mark.slow
def test_label_of_a_held_out_image_changes_no_prediction_of_its_fold(
    tiny: Settings, workspace: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training is made to improve, so that head, block, share and refit all take part."""
    settings, prepared = change(*QUICKER), workspace / PREPARED
    examples, plain = read_examples(prepared), loop._PhaseTraining._measure
    fold_of = {key: fold for key, fold in draw_compared_folds(examples, [], 2, seed=0).items() if fold}
    monkeypatch.setattr(train, "draw_compared_folds", lambda *_: fold_of)
    monkeypatch.setattr(loop._PhaseTraining, "_measure", lambda self: (-self._state.epoch, plain(self)[1]))
    monkeypatch.setattr(loop, "is_at_chance", lambda *_: False)

    def predict(*splits: str, held_out: bool) -> npt.NDArray[np.float32]:
        """With another label of the first image of each split."""
        of = {one.split: one.key for one in reversed(examples) if (one.key in fold_of) == held_out}
        keys, other = [of[split] for split in splits], {"ant": "bee", "bee": "ant"}
        write_examples(prepared, [replace(one, label=other[one.label]) if one.key in keys else one for one in examples])
        folder = workspace / f"{'-'.join(splits)}-{held_out}"
        material = train.read_material(settings, Workspace.at(workspace), "progressive")
        found = train._predict_out_of_fold(settings, material, folder)
        assert found is not None
        assert found.summary["best_epochs"] == [[2]]
        assert set(found.predictions.keys) == fold_of.keys()
        return found.predictions.probabilities

    before = predict("test", held_out=False)
    np.testing.assert_array_equal(predict("train", "validation", held_out=True), before)
    assert not np.array_equal(predict("train", held_out=False), before)


@pytest.mark.slow
def test_strategies_that_improve_nothing_predict_the_folds_as_feature_extraction_does(
    tiny: Settings, workspace: Path, change: Change
) -> None:
    """So the predictions are paired: the same folds, the same start, chosen without the fold."""
    rates = ("train.modern.progressive.head_learning_rate=1.0", "train.modern.progressive.block_learning_rate=0.1")
    settings = change(*QUICKER, *rates)
    trained = []
    for name in ("feature_extraction", "progressive"):
        train.run(settings, Workspace.at(workspace), name)
        trained.append(load_trained(workspace / TRAINED / name))
    train.run(change("compare.folds=null"), Workspace.at(workspace), "feature_extraction")
    plain, (probe, tuned) = load_trained(workspace / TRAINED / "feature_extraction"), trained
    assert tuned.summary["folds"]["best_epochs"] == [[0], [0]]
    assert tuned.fold_keys == probe.fold_keys
    np.testing.assert_array_equal(tuned.fold_probabilities, probe.fold_probabilities)
    assert "folds" not in plain.summary
    assert plain.fold_keys == ()
    np.testing.assert_array_equal(plain.validation_probabilities, probe.validation_probabilities)
    for name, tensor in plain.head.tensors().items():
        np.testing.assert_array_equal(tensor, probe.head.tensors()[name])
    assert tuned.summary["network_passes"] - tuned.summary["folds"]["network_passes"] > plain.summary["network_passes"]
    assert tuned.summary["folds"]["network_passes"] > 0
