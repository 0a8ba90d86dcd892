"""The stage `evaluate` on a small workspace with real shards, tables and trained heads."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handbook.files_page import FILES
from tasks.errors import IntegrityError, TrainingError
from tasks.evaluate import Summary, remove_stale, run, summarise_strategy
from tasks.evaluated import Evaluated
from tasks.files import write_json
from tasks.images.manifest import Duplicate, read_examples, write_duplicates, write_examples
from tasks.reports.champion import Validated
from tasks.settings import Settings
from tasks.vgg.trained_model import load_trained, save_trained
from tasks.workspace import EVALUATION, PREPARED, TRAINED, Workspace
from tests.conftest import contents
from tests.tasks.evaluate_workspace import STRATEGIES, make_settings, make_workspace, read
from tests.tasks.reports.evaluations import Page
from tests.tasks.steps import run_afresh, twins

PLOTS = ("answers", "confusion", "calibration", "per_class")
pytestmark = pytest.mark.usefixtures("far_images")


def test_evaluate_reports_the_held_out_images(tmp_path: Path) -> None:
    summary = run(make_settings(), Workspace.at(make_workspace(tmp_path, {STRATEGIES[0]: {"test": 0.8}})))
    assert summary == Summary("feature_extraction", 0.8, 0.490162, 0.943318, 10, 1)
    assert "80.0" in str(summary)
    assert len(str(summary).splitlines()) == 1
    metrics = read(tmp_path, "metrics.json")
    assert metrics["champion"] == "feature_extraction"
    test = metrics["strategies"]["feature_extraction"]["test"]
    assert (test["accuracy"], test["n"], test["accuracy_ci95"]) == (0.8, 10, [0.490162, 0.943318])
    assert metrics["strategies"]["feature_extraction"]["validation"]["accuracy"] == 1.0
    assert metrics["strategies"]["feature_extraction"]["recipe"] == "modern"


def test_evaluation_says_when_an_answer_is_sure_enough_and_what_the_recalibration_did(tmp_path: Path) -> None:
    make_workspace(tmp_path, {STRATEGIES[0]: {"test": 0.8}}, a_split=80)
    folder = tmp_path / TRAINED / STRATEGIES[0]
    trained = load_trained(folder)
    about = {"method": "temperature", "temperature": 2.0, "bias": [0.0, 0.0], "examples": 160}
    keys = [example.key for example in read_examples(tmp_path / PREPARED) if example.split != "test"]
    sure = np.tile(np.float32([[0.9, 0.1]]), (len(keys), 1))
    summary = {**trained.summary, "recalibration": about}
    save_trained(folder, replace(trained, summary=summary, fold_keys=tuple(keys), fold_probabilities=sure))
    settings = make_settings()
    wanted = settings.evaluate.model_copy(update={"wanted_precision": 0.6})
    run(settings.model_copy(update={"evaluate": wanted}), Workspace.at(tmp_path))
    evaluation = read(tmp_path, "evaluation.json")
    [described] = [file for file in FILES if file.path == EVALUATION]
    assert set(evaluation) == set(described.fields)  # docs/reference/files.md
    (promise,) = evaluation["answers"]["promises"]
    assert promise["images"] == 160  # the folds, not the validation split, which is all right here
    assert promise["threshold"] is None  # half of the images are bees
    assert evaluation["answers"]["thresholds"] == [None, None]
    before, after = evaluation["recalibration"]["test"]["before"], evaluation["recalibration"]["test"]["after"]
    assert before["log_loss"] != after["log_loss"] == evaluation["strategies"][STRATEGIES[0]]["test"]["log_loss"]
    assert "so it is corrected: by the temperature 2.00" in (tmp_path / "reports/report.html").read_text()


def test_interval_and_test_count_images_that_belong_together_as_less_than_as_many_alone(tmp_path: Path) -> None:
    def measure() -> tuple[float, float, float]:
        run(make_settings(STRATEGIES), Workspace.at(tmp_path))
        low, high = read(tmp_path, "metrics.json")["strategies"][STRATEGIES[0]]["test"]["accuracy_ci95"]
        evaluation = read(tmp_path, "evaluation.json")
        bins = [row["accuracy_ci95"] for row in evaluation["calibration"]]
        return high - low, max(high - low for low, high in bins), evaluation["comparisons"][0]["p_value"]

    make_workspace(tmp_path, {STRATEGIES[0]: {"test": 0.75}, STRATEGIES[1]: {"test": 0.25}}, a_split=40)
    alone = measure()
    examples = read_examples(tmp_path / PREPARED)
    pairs = [
        Duplicate(two.path, two.label, "", one.path, "", "near", "kept_together")
        for one, two in zip(examples[::2], examples[1::2], strict=True)
        if one.split == two.split
    ]
    write_duplicates(tmp_path / PREPARED, pairs)
    together = measure()
    write_duplicates(tmp_path / PREPARED, [])
    by_first_digit = [replace(one, group=f"{one.split} {Path(one.path).stem[0]}") for one in examples]
    write_examples(tmp_path / PREPARED, by_first_digit)
    grouped = measure()
    for belonging in (together, grouped):
        assert all(lower < higher for lower, higher in zip(alone, belonging, strict=True))


def test_evaluation_carries_the_summary_of_the_data(tmp_path: Path) -> None:
    run(make_settings(), Workspace.at(make_workspace(tmp_path, {STRATEGIES[0]: {}})))
    data = read(tmp_path, "evaluation.json")["data"]
    assert data["classes"] == {name: {"train": 5, "validation": 5, "test": 5} for name in ("ants", "bees")}
    assert data["quarantine"][0]["code"] == "truncated"
    assert data["excluded"] == {"hidden": 1}


def test_evaluate_tells_the_source_without_credentials(tmp_path: Path) -> None:
    run(make_settings(), Workspace.at(make_workspace(tmp_path, {STRATEGIES[0]: {}})))
    assert read(tmp_path, "evaluation.json")["data"]["source"] == "s3://host/images"
    assert "SECRET" not in (tmp_path / "reports/report.html").read_text(encoding="utf-8")


def test_evaluate_chooses_the_champion_on_validation_not_on_test(tmp_path: Path) -> None:
    right = {STRATEGIES[0]: {"validation": 0.6, "test": 1.0}, STRATEGIES[1]: {"validation": 0.9, "test": 0.2}}
    assert run(make_settings(STRATEGIES), Workspace.at(make_workspace(tmp_path, right))).champion == "head_replacement"
    comparison = read(tmp_path, "evaluation.json")["comparisons"][0]
    assert (comparison["first_only"], comparison["second_only"]) == (0, 8)


def test_one_more_right_validation_image_does_not_decide_the_champion(tmp_path: Path) -> None:
    right = {STRATEGIES[0]: {"validation": 0.9}, STRATEGIES[1]: {"validation": 1.0}}
    assert run(make_settings(STRATEGIES), Workspace.at(make_workspace(tmp_path, right))).champion == STRATEGIES[0]


def predict_folds(workspace: Path, strategy: str, wrong: int, images: int = 20, count: int = 2) -> None:
    """Give a trained model predictions for folds; so many are wrong, those of the first images."""
    trained = load_trained(workspace / TRAINED / strategy)
    examples = [one for one in read_examples(workspace / PREPARED) if one.split != "test"][:images]
    right = np.array([one.label == "bees" for one in examples]) ^ (np.arange(len(examples)) < wrong)
    given = np.where(right[:, np.newaxis], np.float32([[0.1, 0.9]]), np.float32([[0.9, 0.1]]))
    summary = {**trained.summary, "folds": {"count": count, "images": images, "network_passes": 9}}
    folds = {"fold_keys": tuple(one.key for one in examples), "fold_probabilities": given}
    save_trained(workspace / TRAINED / strategy, replace(trained, summary=summary, **folds))


def test_folds_choose_the_champion_where_validation_would_choose_another(tmp_path: Path) -> None:
    right = {STRATEGIES[0]: {"validation": 0.9}, STRATEGIES[1]: {"validation": 1.0}}
    make_workspace(tmp_path, right)
    settings, workspace = make_settings(STRATEGIES), Workspace.at(tmp_path)

    def chosen() -> tuple[str, Any, int]:
        champion = run(settings, workspace).champion
        choice = read(tmp_path, "evaluation.json")["choice"]
        return champion, choice["folds"], choice["images"]

    predict_folds(tmp_path, STRATEGIES[0], wrong=5)
    assert chosen() == (STRATEGIES[0], None, 10)  # only one has them
    predict_folds(tmp_path, STRATEGIES[1], wrong=0, images=19)
    assert chosen() == (STRATEGIES[0], None, 10)  # not for the same images
    predict_folds(tmp_path, STRATEGIES[1], wrong=0, count=3)
    assert chosen() == (STRATEGIES[0], None, 10)  # not from the same folds
    predict_folds(tmp_path, STRATEGIES[1], wrong=0)
    assert chosen() == (STRATEGIES[1], 2, 20)
    evaluation = read(tmp_path, "evaluation.json")
    assert evaluation["choice"]["accuracy"] == dict(zip(STRATEGIES, (0.75, 1.0), strict=True))
    assert "2 folds of train and validation" in evaluation["champion_rule"]
    shown = " ".join(Page((tmp_path / "reports/report.html").read_text(encoding="utf-8")).text).replace("\xa0", " ")
    assert "It rests on 20 images of train and validation, in 2 folds." in shown
    assert "out-of-fold accuracy" in shown
    assert "75.0 %" in shown.split("out-of-fold log loss")[1].split("head_replacement")[0]


def test_images_of_one_group_do_not_decide_the_champion(tmp_path: Path) -> None:
    right = {STRATEGIES[0]: {"validation": 0.75}, STRATEGIES[1]: {"validation": 1.0}}
    make_workspace(tmp_path, right, a_split=40)
    assert run(make_settings(STRATEGIES), Workspace.at(tmp_path)).champion == STRATEGIES[1]
    examples = read_examples(tmp_path / PREPARED)
    numbers = [int(Path(one.path).stem) for one in examples]
    of_ten = [replace(one, group=f"{one.split} {number // 10}") for one, number in zip(examples, numbers, strict=True)]
    write_examples(tmp_path / PREPARED, of_ten)
    assert run(make_settings(STRATEGIES), Workspace.at(tmp_path)).champion == STRATEGIES[0]


def test_with_balanced_weights_the_champion_is_chosen_as_if_each_class_had_as_many_images(tmp_path: Path) -> None:
    make_workspace(tmp_path, {key: {} for key in STRATEGIES}, a_split=40)
    examples = read_examples(tmp_path / PREPARED)
    rare = [replace(one, label="bees" if int(Path(one.path).stem) >= 36 else "ants") for one in examples]
    write_examples(tmp_path / PREPARED, rare)
    for strategy, ants in zip(STRATEGIES, (40, 20), strict=True):  # how many are predicted to be ants
        predicted = np.where(np.arange(40) < ants, 0.9, 0.1)
        trained = load_trained(tmp_path / TRAINED / strategy)
        probabilities = np.stack([predicted, 1 - predicted], axis=1).astype(np.float32)
        save_trained(tmp_path / TRAINED / strategy, replace(trained, validation_probabilities=probabilities))
    for class_weight, expected in zip(("none", "balanced"), STRATEGIES, strict=True):
        assert run(make_settings(STRATEGIES, class_weight=class_weight), Workspace.at(tmp_path)).champion == expected
        html = (tmp_path / "reports/report.html").read_text(encoding="utf-8")
        assert ("every class counts the same" in html.split('id="strategies"')[1]) == (class_weight == "balanced")


def test_evaluate_shows_the_most_confident_mistakes(tmp_path: Path) -> None:
    run(make_settings(worst_mistakes=2), Workspace.at(make_workspace(tmp_path, {STRATEGIES[0]: {"test": 0.5}})))
    mistakes = read(tmp_path, "evaluation.json")["mistakes"]
    assert [mistake["path"] for mistake in mistakes] == ["test/bees/9.jpg", "test/ants/8.jpg"]
    assert (mistakes[0]["actual"], mistakes[0]["predicted"]) == ("bees", "ants")
    page = (tmp_path / "reports/report.html").read_text(encoding="utf-8")
    assert page.split('id="mistakes"')[1].split("</section>")[0].count('class="sides"') == 2


@pytest.mark.slow
def test_evaluate_writes_the_same_bytes_in_every_process_whatever_training_took(
    workspace: Path, change: Callable[..., Settings]
) -> None:
    change(f"strategies=[{', '.join(STRATEGIES)}]")
    make_workspace(workspace, {STRATEGIES[0]: {"test": 0.5}, STRATEGIES[1]: {"test": 0.7}})
    one, two = twins(workspace)
    for seconds, folder in enumerate((one, two)):
        write_json(Workspace.at(folder).costs / "train@feature_extraction.json", {"seconds": seconds})
    run_afresh((one, two), "tasks.evaluate")
    first, second = (contents(folder / "reports") for folder in (one, two))
    assert first.pop("metrics.json") != second.pop("metrics.json")  # it alone holds seconds
    assert first == second
    files = {"evaluation.json", "map.html", "report.html", "foreign.safetensors", "predictions.safetensors"}
    assert first.keys() == files | {f"plots/{name}.csv" for name in PLOTS}


def leaves(values: Any, name: str = "") -> set[str]:
    """The dotted names of all values: the columns of `dvc metrics show`."""
    if not isinstance(values, dict):
        return {name}
    return set().union(*(leaves(value, f"{name}.{key}") for key, value in values.items()))


def test_metrics_file_has_the_headline_metrics_however_many_classes_there_are(tmp_path: Path) -> None:
    run(make_settings(), Workspace.at(make_workspace(tmp_path, {STRATEGIES[0]: {}}, tuple("abcdef"), a_split=12)))
    test = {"accuracy", "accuracy_ci95", "n", "balanced_accuracy", "log_loss", "expected_calibration_error"}
    validation = {"accuracy", "accuracy_ci95", "n", "log_loss"}
    columns = {f"test.{name}" for name in test} | {f"validation.{name}" for name in validation}
    expected = {f".strategies.{STRATEGIES[0]}.{name}" for name in columns | {"recipe", "train_seconds"}}
    assert leaves(read(tmp_path, "metrics.json")) == {".champion", *expected}
    assert set(read(tmp_path, "evaluation.json")["strategies"][STRATEGIES[0]]["test"]["per_class"]) == set("abcdef")


def test_evaluate_takes_seconds_from_costs_then_from_the_last_metrics(tmp_path: Path) -> None:
    make_workspace(tmp_path, {STRATEGIES[0]: {}})
    seen = []
    costs = Workspace.at(tmp_path).costs / "train@feature_extraction.json"
    for step in ("none", "costs", "kept", "torn"):
        if step == "costs":
            write_json(costs, {"seconds": 7.5})
        if step == "kept":
            costs.unlink()
        if step == "torn":
            (tmp_path / "reports/metrics.json").write_text("<<<<<<< HEAD")
        run(make_settings(), Workspace.at(tmp_path))
        seen.append(read(tmp_path, "metrics.json")["strategies"]["feature_extraction"]["train_seconds"])
    assert seen == [None, 7.5, 7.5, None]


def test_evaluate_removes_stale_strategies(tmp_path: Path) -> None:
    make_workspace(tmp_path, {STRATEGIES[0]: {}, STRATEGIES[1]: {}})
    (tmp_path / TRAINED / ".gitignore").write_text("/feature_extraction\n")
    run(make_settings(STRATEGIES[:1]), Workspace.at(tmp_path))
    assert sorted(path.name for path in (tmp_path / TRAINED).iterdir()) == [".gitignore", "feature_extraction"]
    assert list(read(tmp_path, "metrics.json")["strategies"]) == ["feature_extraction"]


def test_remove_stale_spares_what_a_link_points_to(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained/old").symlink_to(outside)
    assert remove_stale(tmp_path / "trained", ["new"]) == ["old"]
    assert outside.is_dir()
    assert not (tmp_path / "trained/old").exists()


def test_evaluate_writes_formula_safe_csv(tmp_path: Path) -> None:
    classes = ("=cmd|' /C calc'!A0", "+1", "-1", "@x", "'=y", 'a"b,c\nd')
    run(make_settings(), Workspace.at(make_workspace(tmp_path, {STRATEGIES[0]: {"test": 0.5}}, classes, a_split=12)))
    for name, columns in (("confusion.csv", ("actual", "predicted")), ("per_class.csv", ("class",))):
        with (tmp_path / "reports/plots" / name).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        cells = {row[column] for row in rows for column in columns}
        assert cells == {f"'{name}" for name in classes[:5]} | {classes[5]}
    assert "'" not in (tmp_path / "reports/plots/calibration.csv").read_text()


def test_evaluate_writes_a_confusion_row_for_each_test_image(tmp_path: Path) -> None:
    run(make_settings(), Workspace.at(make_workspace(tmp_path, {STRATEGIES[0]: {"test": 0.8}})))
    lines = (tmp_path / "reports/plots/confusion.csv").read_text().splitlines()
    assert lines[0] == "actual,predicted"
    assert len(lines) == 11
    assert sum(line.split(",")[0] == line.split(",")[1] for line in lines[1:]) == 8


def test_evaluate_writes_the_precision_for_each_share_of_answers(tmp_path: Path) -> None:
    run(make_settings(), Workspace.at(make_workspace(tmp_path, {STRATEGIES[0]: {"test": 0.8}})))
    with (tmp_path / "reports/plots/answers.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["answered", "precision", "threshold", "n"]
    assert [int(row["n"]) for row in rows] == list(range(1, 11))
    assert (float(rows[-1]["answered"]), float(rows[-1]["precision"])) == (1.0, 0.8)


def test_evaluate_refuses_a_missing_model(tmp_path: Path) -> None:
    make_workspace(tmp_path, {STRATEGIES[0]: {}})
    with pytest.raises(IntegrityError, match="head_replacement"):
        run(make_settings(STRATEGIES), Workspace.at(tmp_path))


def spoil(workspace: Path, strategy: str) -> None:
    folder = workspace / TRAINED / strategy
    save_trained(folder, replace(load_trained(folder), problem="Collapsed: <b>every</b> prediction is the same."))


def test_model_that_collapsed_is_explained_and_never_champion(tmp_path: Path) -> None:
    make_workspace(tmp_path, {"feature_extraction": {"validation": 1.0}, "head_replacement": {"validation": 0.5}})
    spoil(tmp_path, "feature_extraction")
    assert run(make_settings(STRATEGIES), Workspace.at(tmp_path)).champion == "head_replacement"
    page = (tmp_path / "reports/report.html").read_text()
    assert "can't be used" in page or "can&#39;t be used" in page
    assert "Collapsed: &lt;b&gt;every" in page


def test_no_usable_model_is_an_error_that_tells_why(tmp_path: Path) -> None:
    make_workspace(tmp_path, {"feature_extraction": {}})
    spoil(tmp_path, "feature_extraction")
    with pytest.raises(TrainingError, match=r"No strategy produced a usable model.*\n  feature_extraction: Collapsed"):
        run(make_settings(), Workspace.at(tmp_path))
    assert not (tmp_path / "reports/metrics.json").exists()


def summarise(workspace: Path, **changes: Any) -> dict[str, Any]:
    model = replace(load_trained(workspace / TRAINED / STRATEGIES[0]), **changes)
    nothing = np.empty((0, 2))
    return summarise_strategy(Evaluated(model, nothing, nothing, Validated((), nothing, nothing, nothing), {}, {}))


def test_evaluation_names_the_blocks_that_were_trained_further(tmp_path: Path) -> None:
    make_workspace(tmp_path, {STRATEGIES[0]: {}})
    assert summarise(tmp_path)["backbone"] == {"engine": "test"}
    tuned = dict.fromkeys(("block5_conv1", "block4_conv3"), np.zeros(1))
    assert summarise(tmp_path, backbone=tuned)["backbone"]["trained_further"] == "block4, block5"


def test_evaluation_says_how_each_model_was_trained(tmp_path: Path) -> None:
    make_workspace(tmp_path, {STRATEGIES[0]: {}})
    by_gradient = summarise(tmp_path, strategy="head_replacement")["description"]
    assert "trained by gradient descent" in by_gradient
    assert "regularized linear model" not in by_gradient
    folds = {"chosen_on": "5 folds of train and validation", "phases": [{"best_epoch": 2}]}
    unfrozen = summarise(tmp_path, strategy="progressive", summary=folds)["description"]
    assert "blocks of convolutions are unfrozen one after the other" in unfrozen
    for text in (unfrozen, summarise(tmp_path, summary=folds)["description"]):
        assert "chosen on 5 folds of train and validation" in text
        assert "chosen on the validation images" not in text
