"""Complete trainings: one seed gives one model, with and without interruptions."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import features, train
from tasks.images.manifest import read_examples, write_examples
from tasks.images.shards import open_shards
from tasks.scores import log_loss
from tasks.settings import Settings
from tasks.vgg import strategies
from tasks.vgg.boundaries import BOTTLENECK
from tasks.vgg.trained_model import load_trained
from tasks.vgg.training import loop
from tasks.workspace import FEATURES, PREPARED, TRAINED, Workspace
from tests.tasks.fork_server import ForkServer
from tests.tasks.steps import Change
from tests.tasks.vgg.training.miniature import STRATEGIES, Uninterrupted, model

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("recipe", ["modern", "tutorial"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_killed_training_ends_with_the_weights_of_an_uninterrupted_one(
    tiny: Settings, workspace: Path, change: Change, trainings: ForkServer, uninterrupted: Uninterrupted,
    strategy: str, recipe: str,
) -> None:  # fmt: skip
    change(f"train.recipe={recipe}")
    whole = uninterrupted(workspace, strategy)
    for _ in range(2):  # in the middle of an epoch, and again after it went on
        assert trainings.run(str(workspace), strategy, "kill-at", "3").returncode == -9
        assert list((Workspace.at(workspace).checkpoints / strategy).glob("*.safetensors"))
        assert not (workspace / TRAINED / strategy / "model.json").exists()
    ended = trainings.run(str(workspace), strategy)
    assert ended.returncode == 0, ended.stderr
    assert "Continuing from the checkpoint at epoch" in ended.stdout
    assert model(workspace, strategy) == whole
    assert not (Workspace.at(workspace).checkpoints / strategy).exists()


@pytest.mark.parametrize("strategy", ["head_replacement", "progressive"])
def test_training_killed_in_its_refit_ends_with_the_weights_of_an_uninterrupted_one(
    tiny: Settings, workspace: Path, trainings: ForkServer, strategy: str
) -> None:
    whole = workspace.with_name("whole")
    shutil.copytree(workspace, whole)
    assert trainings.run(str(whole), strategy, "improving").returncode == 0
    steps = 8 * len(load_trained(whole / TRAINED / strategy).summary["phases"])  # two epochs of each phase
    assert trainings.run(str(workspace), strategy, "kill-at", str(steps + 3), "improving").returncode == -9
    ended = trainings.run(str(workspace), strategy, "improving")
    assert ended.returncode == 0, ended.stderr
    assert "which is trained again with the validation images" in ended.stdout
    assert model(workspace, strategy) == model(whole, strategy)


def test_training_killed_in_a_fold_goes_on_there_and_ends_with_the_same_bytes(
    tiny: Settings, workspace: Path, change: Change, trainings: ForkServer
) -> None:
    change("compare.folds=2")
    name, whole = "head_replacement", workspace.with_name("whole")
    shutil.copytree(workspace, whole)
    assert trainings.run(str(whole), name).returncode == 0
    folds = Workspace.at(workspace).checkpoints / f"{name}.folds"
    assert trainings.run(str(workspace), name, "kill-at", "10").returncode == -9
    assert [file.name for file in folds.glob("*.json")] == ["0.json"]
    assert list((folds / "1").glob("*.safetensors"))
    ended = trainings.run(str(workspace), name)
    assert ended.returncode == 0, ended.stderr
    assert "Continuing from the checkpoint at epoch" in ended.stdout
    assert ended.stdout.count("without fold") == 1
    assert model(workspace, name) == model(whole, name)
    assert not folds.exists()


def test_sigterm_saves_the_position_and_the_next_run_goes_on(
    tiny: Settings, workspace: Path, change: Change, trainings: ForkServer, uninterrupted: Uninterrupted
) -> None:
    whole = uninterrupted(workspace, "progressive")
    change("train.checkpoint_interval_s=3600")
    assert trainings.run(str(workspace), "progressive", "term-at", "2").returncode == 143
    assert len(list((Workspace.at(workspace).checkpoints / "progressive").glob("*.safetensors"))) == 1
    ended = trainings.run(str(workspace), "progressive")
    assert "epoch 1, step 3" in ended.stdout
    assert model(workspace, "progressive") == whole


def test_training_killed_while_it_chooses_the_share_ends_with_the_same_weights(
    tiny: Settings, workspace: Path, trainings: ForkServer, uninterrupted: Uninterrupted
) -> None:
    whole = uninterrupted(workspace, "progressive")
    assert trainings.run(str(workspace), "progressive", "kill-in-choice").returncode == -9
    assert trainings.run(str(workspace), "progressive").returncode == 0
    assert model(workspace, "progressive") == whole


def test_damaged_checkpoint_falls_back_to_the_one_before(
    tiny: Settings, workspace: Path, trainings: ForkServer, uninterrupted: Uninterrupted
) -> None:
    whole = uninterrupted(workspace, "head_replacement")
    assert trainings.run(str(workspace), "head_replacement", "kill-at", "4").returncode == -9
    older, newer = sorted((Workspace.at(workspace).checkpoints / "head_replacement").iterdir())
    content = bytearray(newer.read_bytes())
    content[-5] ^= 1
    newer.write_bytes(content)
    ended = trainings.run(str(workspace), "head_replacement")
    assert "is damaged; the one before it is used" in ended.stderr
    assert model(workspace, "head_replacement") == whole
    assert not older.exists()


def test_checkpoint_of_other_settings_is_not_used(
    tiny: Settings, workspace: Path, change: Change, trainings: ForkServer
) -> None:
    assert trainings.run(str(workspace), "head_replacement", "kill-at", "4").returncode == -9
    change("train.seed=1")
    other = workspace.with_name("other")
    shutil.copytree(workspace, other)
    shutil.rmtree(Workspace.at(other).checkpoints)
    for folder in (workspace, other):
        ended = trainings.run(str(folder), "head_replacement")
        assert "Going on" not in ended.stdout
    assert model(workspace, "head_replacement") == model(other, "head_replacement")


@pytest.mark.parametrize("strategy", ["head_replacement", "progressive"])
def test_training_from_kept_features_equals_training_from_images(
    tiny: Settings, workspace: Path, change: Change, strategy: str
) -> None:
    """The boundary cache saves time and changes nothing but the rounding to 16 bits."""
    settings = change("train.precision=float32")
    train.run(settings, Workspace.at(workspace), strategy)
    kept = load_trained(workspace / TRAINED / strategy)
    settings = change("features.boundary_cache=never")
    features.run(settings, Workspace.at(workspace))
    train.run(settings, Workspace.at(workspace), strategy)
    computed = load_trained(workspace / TRAINED / strategy)
    assert set(computed.summary["starts_from"]) == {"images"}
    assert "images" not in kept.summary["starts_from"]
    np.testing.assert_allclose(
        kept.summary["history"]["loss"], computed.summary["history"]["loss"], rtol=5e-3, atol=5e-3
    )
    np.testing.assert_allclose(kept.validation_probabilities, computed.validation_probabilities, atol=0.02)


def test_class_weight_counts_in_the_choice_of_the_epoch(
    tiny: Settings, workspace: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop._PhaseTraining, "_measure_with", lambda *_: float("inf"))  # no mean of epochs is chosen
    folder = workspace / PREPARED
    examples = read_examples(folder)
    bees = [one.key for one in examples if (one.split, one.label) == ("validation", "bee")]
    write_examples(folder, [one for one in examples if one.key not in bees[1:]])
    longer = ("train.modern.head_replacement.epochs=2", "train.modern.head_replacement.head_learning_rate=0.3")
    settings = change("train.precision=float32", "train.class_weight=balanced", *longer)
    train.run(settings, Workspace.at(workspace), "head_replacement")
    trained = load_trained(workspace / TRAINED / "head_replacement")
    labels = np.array([int(key == bees[0]) for key in trained.validation_keys])
    weights = np.where(labels, 0.5 / labels.sum(), 0.5 / (1 - labels).sum())
    [note] = trained.summary["phases"]
    expected = log_loss(trained.validation_probabilities, labels, weights)
    assert trained.summary["history"]["val_loss"][note["best_epoch"] - 1] == pytest.approx(expected, abs=2e-3)
    assert expected != pytest.approx(log_loss(trained.validation_probabilities, labels), abs=0.02)


def test_every_strategy_changes_what_it_unfreezes_and_nothing_else(
    tiny: Settings, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, losses = loop._PhaseTraining, itertools.count(0.0, -1.0)
    plain = training._measure
    monkeypatch.setattr(training, "_measure", lambda self: (next(losses), plain(self)[1]))  # every epoch is better
    for strategy in STRATEGIES:
        train.run(tiny, Workspace.at(workspace), strategy)
    changed = {
        strategy: {name.split("_")[0] for name in load_trained(workspace / TRAINED / strategy).backbone}
        for strategy in STRATEGIES
    }
    assert changed["head_replacement"] == set()
    assert changed["fine_tuning"] == {f"block{number}" for number in range(1, 6)}
    assert changed["progressive"] == {"block4", "block5"}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_model_that_training_improved_is_trained_again_with_the_validation_images(
    tiny: Settings, workspace: Path, change: Change, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    plain, found = loop._PhaseTraining._measure, []
    for refit in ("true", "false"):
        losses = iter([0.0, -1.0, -2.0])  # the second epoch of the first phase is the best

        def measure(self: Any, left: Iterator[float] = losses) -> tuple[float, Any]:
            return next(left, 0.0), plain(self)[1]

        monkeypatch.setattr(loop._PhaseTraining, "_measure", measure)
        monkeypatch.setattr(loop, "is_at_chance", lambda *_: False)
        settings = change(f"train.modern.refit_with_validation={refit}")
        train.run(settings, Workspace.at(workspace), strategy)
        found.append(load_trained(workspace / TRAINED / strategy))
    again, once = found
    assert [note["best_epoch"] for note in again.summary["phases"]] == [2, 0][: 1 + (strategy == "progressive")]
    assert (again.summary["refitted_with_validation"], once.summary["refitted_with_validation"]) == (True, False)
    assert [len(curve) for curve in again.summary["refit"].values()] == [2, 2, 2]
    assert "refit" not in once.summary
    np.testing.assert_array_equal(again.validation_probabilities, once.validation_probabilities)
    assert again.backbone.keys() == once.backbone.keys()
    for name, tensor in again.head.tensors().items():
        assert not np.array_equal(tensor, once.head.tensors()[name])


def test_refit_that_collapses_leaves_the_chosen_model(
    tiny: Settings, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = loop._PhaseTraining._measure
    losses, lost = iter([0.0, -1.0, -2.0, 5.0]), iter([False, False, True, True])
    monkeypatch.setattr(loop._PhaseTraining, "_measure", lambda self: (next(losses), plain(self)[1]))
    monkeypatch.setattr(loop, "is_at_chance", lambda *_: next(lost))
    assert not train.run(tiny, Workspace.at(workspace), "head_replacement").unusable
    trained = load_trained(workspace / TRAINED / "head_replacement")
    assert not trained.summary["refitted_with_validation"]
    assert "The model that validation chose is kept." in capsys.readouterr().err
    stored = open_shards(workspace / FEATURES / BOTTLENECK)
    given = trained.head.probabilities(stored.read(trained.validation_keys))
    np.testing.assert_allclose(given, trained.validation_probabilities, atol=2e-3)


@pytest.mark.parametrize("strategy", ["fine_tuning", "progressive"])
def test_unfreezing_that_improves_nothing_is_feature_extraction(
    tiny: Settings, workspace: Path, change: Change, strategy: str
) -> None:
    settings = change(
        f"train.modern.{strategy}.head_learning_rate=1.0", f"train.modern.{strategy}.block_learning_rate=0.1"
    )
    for name in (strategy, "feature_extraction"):
        train.run(settings, Workspace.at(workspace), name)
    tried, probe = (load_trained(workspace / TRAINED / name) for name in (strategy, "feature_extraction"))
    assert [note["best_epoch"] for note in tried.summary["phases"]] == [0]
    assert tried.summary["refitted_with_validation"]
    assert "the result is this linear model" in strategies.BY_NAME[strategy].describe("modern", tried.summary)
    assert tried.backbone == {}
    assert tried.head.outline() == probe.head.outline()
    for name, tensor in tried.head.tensors().items():
        np.testing.assert_array_equal(tensor, probe.head.tensors()[name])
    np.testing.assert_array_equal(tried.validation_probabilities, probe.validation_probabilities)


def test_probe_that_a_collapse_falls_back_to_is_no_collapsed_model(
    tiny: Settings, workspace: Path, change: Change, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "is_at_chance", lambda *_: True)
    settings = change("train.modern.fine_tuning.block_learning_rate=0.1")
    assert not train.run(settings, Workspace.at(workspace), "fine_tuning").unusable
    trained = load_trained(workspace / TRAINED / "fine_tuning")
    assert trained.problem is None
    assert trained.backbone == {}
    assert "The linear probe is kept." in capsys.readouterr().err
    assert train.run(settings, Workspace.at(workspace), "head_replacement").unusable  # its head was never trained


def test_collapse_of_a_later_phase_leaves_the_model_of_the_one_before(
    tiny: Settings, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = loop._PhaseTraining._measure
    losses, lost = iter([0.0, -1.0, -2.0]), iter([False, False, True, True])
    monkeypatch.setattr(loop._PhaseTraining, "_measure", lambda self: (next(losses, 5.0), plain(self)[1]))
    monkeypatch.setattr(loop, "is_at_chance", lambda *_: next(lost, False))
    assert not train.run(tiny, Workspace.at(workspace), "progressive").unusable
    trained = load_trained(workspace / TRAINED / "progressive")
    assert [note["best_epoch"] for note in trained.summary["phases"]] == [2, 0]
    assert "The weights from before are kept." in capsys.readouterr().err


def test_memory_that_runs_out_halves_the_batch_and_is_recorded(
    tiny: Settings, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import tensorflow as tf

    from tasks.vgg.training.steps import Steps

    train.run(tiny, Workspace.at(workspace), "head_replacement")
    whole = load_trained(workspace / TRAINED / "head_replacement")
    plain = Steps._replica_gradients

    def limited(self: Steps, inputs: tf.Tensor, *rest: tf.Tensor) -> object:
        if inputs.shape[0] > 2:
            raise tf.errors.ResourceExhaustedError(None, None, "out of memory")
        return plain(self, inputs, *rest)

    monkeypatch.setattr(Steps, "_replica_gradients", limited)
    train.run(tiny, Workspace.at(workspace), "head_replacement")
    halved = load_trained(workspace / TRAINED / "head_replacement")
    assert [note["batch_parts"] for note in whole.summary["phases"]] == [1]
    assert [note["batch_parts"] for note in halved.summary["phases"]] == [4]
    np.testing.assert_allclose(whole.validation_probabilities, halved.validation_probabilities, atol=2e-3)
    assert "doesn't fit into the memory" in capsys.readouterr().err


def test_two_devices_give_what_one_gives(
    tiny: Settings, workspace: Path, change: Change, trainings: ForkServer
) -> None:
    change("train.precision=float32", "train.modern.batch_size=5")  # not a multiple of the devices
    two = workspace.with_name("two")
    shutil.copytree(workspace, two)
    alone = trainings.run(str(workspace), "progressive")
    assert alone.returncode == 0
    assert "E0000" not in alone.stderr, "TensorFlow complains"
    ended = trainings.run(str(two), "progressive", "devices", "2")
    assert ended.returncode == 0, ended.stderr
    assert "2 devices" in ended.stdout
    first, second = (load_trained(folder / TRAINED / "progressive") for folder in (workspace, two))
    np.testing.assert_allclose(first.summary["history"]["loss"], second.summary["history"]["loss"], rtol=1e-4)
    np.testing.assert_allclose(first.validation_probabilities, second.validation_probabilities, atol=1e-3)
