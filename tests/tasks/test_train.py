"""Train: it learns classes that can be learned, reproducibly, and chooses without reading the test split."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tasks import train
from tasks.errors import IntegrityError, TrainingError
from tasks.files import write_json
from tasks.images.manifest import Duplicate, Example, read_examples, write_duplicates, write_examples
from tasks.images.shards import open_shards, write_shard
from tasks.scores import accuracy, log_loss
from tasks.settings import ClassWeight
from tasks.vgg.boundaries import BOTTLENECK, RECIPE, inputs_of
from tasks.vgg.trained_model import load_trained
from tasks.vgg.training.linear_probe import fit_linear_probe
from tasks.vgg.training.outcome import example_weights
from tasks.vgg.training_data import Split, draw_folds, make_split, read_pooled
from tasks.workspace import FEATURES, PREPARED, TRAINED, Workspace
from tests.conftest import contents
from tests.tasks.steps import Change, run_afresh, start_program, twins

STRATEGY = "feature_extraction"
SPLITS = ("train", "validation", "test")
CLASSES = ("ant", "bee", "cat")


def fill(workspace: Path, a_split: int = 18, classes: int = 3, noise: float = 0.4, poison: float = 0.0) -> Path:
    """Prepared examples and their features (2, 2, 8): each class has channels of its own that are active."""
    rng = np.random.default_rng(0)
    examples, arrays = [], []
    for split in SPLITS:
        for number in range(a_split):
            label = number % classes
            key = hashlib.sha256(f"{split}{number}".encode()).hexdigest()
            examples.append(Example(key, f"{split}/{number}.png", CLASSES[label], split, 9, 9, "PNG", ""))
            active = np.zeros(8)
            active[2 * label : 2 * label + 2] = 1
            arrays.append(np.maximum(0, active + rng.normal(scale=noise, size=(2, 2, 8))))
    data = np.stack(arrays).astype(np.float16)
    if poison:
        data[4, 0, 0, 0] = poison
    folder = workspace / FEATURES / BOTTLENECK
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(data), 7):
        rows = [{"key": example.key} for example in examples[start : start + 7]]
        write_shard(folder, rows, data[start : start + 7], "test")
    write_examples(workspace / PREPARED, examples)
    write_duplicates(workspace / PREPARED, [])
    recipe = {"engine": "ncnn", "precision": "float32"}
    write_json(folder / RECIPE, recipe)
    write_json(workspace / FEATURES / inputs_of(STRATEGY) / RECIPE, {**recipe, "kept": ["block5_pool"]})
    return workspace


def model(workspace: Path) -> dict[str, bytes]:
    return contents(workspace / TRAINED / STRATEGY)


def relabel(workspace: Path, split: str) -> None:
    """Give every example of the split another class."""
    folder = workspace / PREPARED
    write_examples(
        folder,
        [
            replace(example, label=CLASSES[(CLASSES.index(example.label) + 1) % 3])
            if example.split == split
            else example
            for example in read_examples(folder)
        ],
    )


def test_modern_learns_what_can_be_learnt(workspace: Path, change: Change) -> None:
    summary = train.run(change(), Workspace.at(fill(workspace)), STRATEGY)
    assert (summary.train_examples, summary.validation_examples, summary.recipe) == (18, 18, "modern")
    assert summary.validation_accuracy > 0.9
    trained = load_trained(workspace / TRAINED / STRATEGY)
    split = make_split(read_examples(workspace / PREPARED), "test", CLASSES, feature_shards(workspace))
    assert accuracy(trained.head.probabilities(split.features.read(split.keys)), split.labels) > 0.9


def feature_shards(workspace: Path):  # type: ignore[no-untyped-def]
    return open_shards(workspace / FEATURES / BOTTLENECK)


def test_modern_learns_two_classes(workspace: Path, change: Change) -> None:
    train.run(change(), Workspace.at(fill(workspace, classes=2)), STRATEGY)
    trained = load_trained(workspace / TRAINED / STRATEGY)
    assert trained.classes == ("ant", "bee")
    split = make_split(read_examples(workspace / PREPARED), "test", trained.classes, feature_shards(workspace))
    assert accuracy(trained.head.probabilities(split.features.read(split.keys)), split.labels) > 0.9


def test_training_keeps_the_validation_answers_of_the_head_that_never_saw_them(workspace: Path, change: Change) -> None:
    fill(workspace)
    train.run(change("train.modern.refit_with_validation=true"), Workspace.at(workspace), STRATEGY)
    refitted = load_trained(workspace / TRAINED / STRATEGY)
    train.run(change("train.modern.refit_with_validation=false"), Workspace.at(workspace), STRATEGY)
    plain = load_trained(workspace / TRAINED / STRATEGY)
    assert np.array_equal(refitted.validation_probabilities, plain.validation_probabilities)
    assert not np.array_equal(refitted.head.layers[0].kernel, plain.head.layers[0].kernel)
    split = make_split(read_examples(workspace / PREPARED), "validation", CLASSES, feature_shards(workspace))
    assert plain.validation_keys == split.keys
    given = plain.head.probabilities(split.features.read(split.keys))
    np.testing.assert_allclose(given, plain.validation_probabilities, atol=1e-6)


@pytest.mark.parametrize(("up_to", "chosen_on"), [(35, "validation"), (36, "5 folds of train and validation")])
def test_modern_chooses_the_smallest_held_out_loss(workspace: Path, change: Change, up_to: int, chosen_on: str) -> None:
    train.run(change(f"train.modern.folds_up_to={up_to}"), Workspace.at(fill(workspace)), STRATEGY)
    trained = load_trained(workspace / TRAINED / STRATEGY)
    losses = {one["inverse_regularization"]: one["log_loss"] for one in trained.summary["candidates"]}
    assert {0.3, 1, 3, 10, 30, 100, 300} <= set(losses)
    assert losses[trained.summary["chosen"]["inverse_regularization"]] == min(losses.values())
    assert trained.summary["chosen_on"] == chosen_on


def test_figures_of_a_candidate_are_those_of_its_round(workspace: Path, change: Change) -> None:
    fill(workspace, noise=1.0)
    examples = read_examples(workspace / PREPARED)
    one, two = (make_split(examples, split, CLASSES, feature_shards(workspace)) for split in ("train", "validation"))
    rules = change("train.modern.inverse_regularization=[10.0]", "train.modern.folds_up_to=0").train.modern
    probe = fit_linear_probe(rules, "none", 3, one, two)
    [figures] = probe.summary["candidates"]
    assert figures["log_loss"] == pytest.approx(log_loss(probe.validation_probabilities, two.labels), abs=2e-3)
    assert figures["accuracy"] == pytest.approx(accuracy(probe.validation_probabilities, two.labels), abs=1e-6)


def test_folds_don_t_depend_on_the_order_of_the_images(workspace: Path, change: Change) -> None:
    fill(workspace, noise=1.0)
    examples = read_examples(workspace / PREPARED)
    one, two = (make_split(examples, split, CLASSES, feature_shards(workspace)) for split in ("train", "validation"))
    turned = Split(one.features, one.keys[::-1], one.labels[::-1])
    rules = change().train.modern
    fold_of = draw_folds(examples, [], change().train)
    first, second = (fit_linear_probe(rules, "none", 3, split, two, fold_of).summary for split in (one, turned))
    assert first["chosen_on"] == "5 folds of train and validation"
    assert first["chosen"] == second["chosen"]
    for theirs, ours in zip(first["candidates"], second["candidates"], strict=True):
        assert theirs == pytest.approx(ours, abs=5e-3)


def test_folds_keep_near_duplicates_together_and_leave_test_out(workspace: Path, change: Change) -> None:
    examples = read_examples(fill(workspace) / PREPARED)
    rules = change().train
    ants = [one for one in examples if one.label == "ant" and one.split != "test"][:4]
    alike = [Duplicate(one.path, "ant", "", ants[0].path, "", "near", "kept_together") for one in ants[1:]]
    apart, together = draw_folds(examples, [], rules), draw_folds(examples, alike, rules)
    assert apart
    assert together
    assert apart.keys() == together.keys() == {one.key for one in examples if one.split != "test"}
    assert len({apart[one.key] for one in ants}) > 1
    assert len({together[one.key] for one in ants}) == 1


def test_one_class_of_few_images_does_not_take_the_folds_from_the_others(workspace: Path, change: Change) -> None:
    examples = read_examples(fill(workspace, a_split=30) / PREPARED)
    cats = [one for one in examples if one.label == "cat" and one.split != "test"]
    some = [one for one in examples if one not in cats]
    for left, held_out in ((cats[:1] + cats[-1:], True), (cats[:1], False)):
        write_examples(workspace / PREPARED, [*some, *left])
        fold_of = draw_folds([*some, *left], [], change().train)
        assert fold_of is not None
        assert all((one.key in fold_of) == held_out for one in left)
        train.run(change(), Workspace.at(workspace), STRATEGY)
        trained = load_trained(workspace / TRAINED / STRATEGY)
        assert trained.classes == CLASSES
        assert trained.summary["chosen_on"] == "5 folds of train and validation"
        assert min(one["log_loss"] for one in trained.summary["candidates"]) < 0.5


def test_classes_of_fewer_images_than_folds_are_chosen_for_by_validation(workspace: Path, change: Change) -> None:
    train.run(change(), Workspace.at(fill(workspace, a_split=6)), STRATEGY)
    assert load_trained(workspace / TRAINED / STRATEGY).summary["chosen_on"] == "validation"


def test_test_split_changes_nothing(workspace: Path, change: Change) -> None:
    train.run(change(), Workspace.at(fill(workspace)), STRATEGY)
    before = model(workspace)
    relabel(workspace, "test")
    train.run(change(), Workspace.at(workspace), STRATEGY)
    assert model(workspace) == before


@pytest.mark.parametrize("split", ["train", "validation"])
def test_other_splits_do_change_the_model(workspace: Path, change: Change, split: str) -> None:
    train.run(change(), Workspace.at(fill(workspace)), STRATEGY)
    before = model(workspace)
    relabel(workspace, split)
    train.run(change(), Workspace.at(workspace), STRATEGY)
    assert model(workspace) != before


def test_model_says_what_its_features_were_made_of(workspace: Path, change: Change) -> None:
    train.run(change(), Workspace.at(fill(workspace)), STRATEGY)
    assert load_trained(workspace / TRAINED / STRATEGY).summary["backbone"] == {
        "engine": "ncnn",
        "precision": "float32",
    }


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_modern_refuses_features_that_are_no_numbers(workspace: Path, change: Change, poison: float) -> None:
    with pytest.raises(TrainingError, match="features of 1 images are NaN or infinite"):
        train.run(change(), Workspace.at(fill(workspace, poison=poison)), STRATEGY)
    assert not (workspace / TRAINED / STRATEGY / "model.json").exists()


def test_missing_features_say_what_to_run(workspace: Path, change: Change) -> None:
    fill(workspace)
    key = next(example.key for example in read_examples(workspace / PREPARED) if example.split == "train")
    for header in feature_shards(workspace).headers:
        if key in {row["key"] for row in header.rows}:
            header.path.unlink()
    with pytest.raises(IntegrityError, match="dvc repro"):
        train.run(change(), Workspace.at(workspace), STRATEGY)


def test_missing_examples_say_what_to_run(workspace: Path, change: Change) -> None:
    with pytest.raises(IntegrityError, match="dvc repro"):
        train.run(change(), Workspace.at(workspace), STRATEGY)


def test_hard_classes_do_not_warn_of_unfinished_fits(workspace: Path, change: Change) -> None:
    """Candidates with little regularization take the most iterations."""
    fill(workspace, a_split=60, noise=3.0)
    split = make_split(read_examples(workspace / PREPARED), "train", CLASSES, feature_shards(workspace))
    rules = change("train.modern.inverse_regularization=[0.01, 300.0, 1e4]").train.modern
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe = fit_linear_probe(rules, "none", 3, split, split)
    assert np.isfinite(probe.validation_probabilities).all()


def test_split_is_in_the_order_of_the_disk_and_pools_all(workspace: Path) -> None:
    fill(workspace)
    shards = feature_shards(workspace)
    split = make_split(read_examples(workspace / PREPARED), "train", CLASSES, shards)
    assert list(split.keys) == shards.order(split.keys)
    labels = {example.key: example.label for example in read_examples(workspace / PREPARED)}
    assert [CLASSES[label] for label in split.labels] == [labels[key] for key in split.keys]
    assert read_pooled([split], "flatten").shape == (18, 32)


def run_program(workspace: Path) -> tuple[int, str]:
    with start_program(workspace, "tasks.train", STRATEGY) as process:
        _, err = process.communicate(timeout=300)
    return process.returncode, err


@pytest.mark.slow
def test_modern_gives_the_same_files_in_another_process(workspace: Path) -> None:
    one, two = twins(fill(workspace))
    for place, threads in ((one, "1"), (two, "")):  # "": as many as there are cores
        run_afresh([place], "tasks.train", STRATEGY, OPENBLAS_NUM_THREADS=threads)
    assert model(one) == model(two)
    assert {"model.json", "model.safetensors", "validation.safetensors"} < model(one).keys()


@pytest.mark.slow
def test_tutorial_learns_and_gives_the_same_files_in_another_process(workspace: Path, change: Change) -> None:
    settings = change("train.recipe=tutorial", "train.tutorial.epochs=12", "train.tutorial.batch_size=6")
    assert settings.train.recipe == "tutorial"
    one, two = twins(fill(workspace))
    run_afresh((one, two), "tasks.train", STRATEGY)
    assert model(one) == model(two)
    trained = load_trained(one / TRAINED / STRATEGY)
    assert trained.recipe == "tutorial"
    assert len(trained.summary["history"]["loss"]) == 12
    split = make_split(read_examples(one / PREPARED), "test", CLASSES, feature_shards(one))
    assert accuracy(trained.head.probabilities(split.features.read(split.keys)), split.labels) > 0.9


@pytest.mark.slow
def test_tutorial_that_diverges_is_explained(
    workspace: Path, change: Change, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change("train.recipe=tutorial", "train.tutorial.epochs=2", "train.tutorial.hidden_units=4")
    monkeypatch.chdir(fill(workspace, poison=float("nan")))
    assert train.main([STRATEGY]) == 2
    err = capsys.readouterr().err
    assert "TrainingError: The loss became nan in step" in err
    assert 'lower the learning rate: make run SET="train.tutorial.learning_rate=0.0001"' in err
    assert not (workspace / TRAINED / STRATEGY / "model.json").exists()


def test_unknown_strategy_lists_the_known_ones(workspace: Path) -> None:
    with start_program(workspace, "tasks.train", "magic") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert STRATEGY in err


@pytest.mark.parametrize("weight", ["none", "balanced"])
def test_balanced_weights_find_more_of_a_rare_class(tmp_path: Path, change: Change, weight: ClassWeight) -> None:
    random = np.random.default_rng(0)
    labels = np.array([0] * 180 + [1] * 20, np.int32)
    arrays = random.normal(labels[:, None, None, None] * 0.4 + 3, 1.0, (200, 7, 7, 8)).astype(np.float16)
    keys = [f"{number:064x}" for number in range(200)]
    write_shard(tmp_path, [{"key": key} for key in keys], arrays, "made here")
    split = Split(open_shards(tmp_path), tuple(keys), labels)
    rules = change("train.modern.inverse_regularization=[1.0]").train.modern
    probe = fit_linear_probe(rules, weight, 2, split, split)
    found = (probe.validation_probabilities[labels == 1].argmax(axis=1) == 1).mean()
    assert (found > 0.5) == (weight == "balanced")


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.array([0, 0, 0, 2], np.int32)
    np.testing.assert_allclose(example_weights(labels, "balanced"), [2 / 3] * 3 + [2])
    np.testing.assert_allclose(example_weights(labels, "none"), [1] * 4)


def test_bilinear_probe_in_few_coordinates_is_the_one_on_all_inputs(workspace: Path, change: Change) -> None:
    fill(workspace, noise=1.0)
    examples = read_examples(workspace / PREPARED)
    one, two = (make_split(examples, split, CLASSES, feature_shards(workspace)) for split in ("train", "validation"))
    rules = change("train.modern.inverse_regularization=[10.0]").train.modern
    probe = fit_linear_probe(rules, "none", 3, one, two, poolings=["bilinear"])
    plain = LogisticRegression(C=10.0, max_iter=2000).fit(read_pooled([one], "bilinear"), one.labels)
    expected = plain.predict_proba(read_pooled([two], "bilinear"))
    np.testing.assert_allclose(probe.validation_probabilities, expected, atol=2e-3)
    given = probe.head.probabilities(two.features.read(two.keys))
    np.testing.assert_allclose(given, probe.validation_probabilities, atol=1e-5)


def test_bilinear_pooling_is_tried_only_where_it_is_small(workspace: Path, change: Change) -> None:
    fill(workspace)
    for limit, tried in ((36, {"average_maximum", "bilinear"}), (35, {"average_maximum"})):
        train.run(change(f"train.modern.bilinear_up_to={limit}"), Workspace.at(workspace), STRATEGY)
        summary = load_trained(workspace / TRAINED / STRATEGY).summary
        losses = summary["log_loss_by_pooling"]
        assert set(losses) == tried
        assert losses[summary["pooling"]] == min(losses.values())
