"""The gate refuses a worse, a leaking, a collapsed, a slow model, and says why; chance alone refuses none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tasks import gate
from tasks.errors import PredictError
from tasks.gate import Scores, Side, check_alone, compare
from tasks.images.manifest import Example
from tasks.params import load_settings
from tasks.settings import Settings
from tasks.vgg.exports.signature import PUBLIC_KEY, sign_model
from tests.conftest import PARAMS
from tests.tasks.versions import CLASSES, draw, example, examples, write_version
from tests.tasks.vgg.exports.test_model_folder import new_keys

ALL = examples(96)
Rows = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Side:
    return Side(write_version(tmp_path_factory.mktemp("production"), ALL))


@pytest.fixture
def settings() -> Settings:
    return load_settings(PARAMS.parent)


def with_gate(settings: Settings, **changed: Any) -> Settings:
    return settings.model_copy(update={"gate": settings.gate.model_copy(update=changed)})


def candidate(folder: Path, rows: Sequence[Example] = ALL, *arguments: Any, **more: Any) -> Side:
    return Side(write_version(folder / "candidate", rows, *arguments, **more))


def by_check(rows: Sequence[dict[str, Any]]) -> Rows:
    return {row["check"]: row for row in rows}


def failed(rows: Rows) -> list[str]:
    return [name for name, row in rows.items() if not row["passed"]]


def wrong_for(count: int, label: str = "") -> Any:
    """A model that answers wrongly for some test images, of one class or of all."""

    def change(predicted: np.ndarray, test: Sequence[Example]) -> np.ndarray:
        chosen = [place for place, one in enumerate(test) if not label or one.label == label][:count]
        predicted[chosen] = predicted[chosen, ::-1]
        return predicted

    return change


def test_equal_model_passes_and_every_row_of_the_table_is_filled_in(
    production: Side, settings: Settings, tmp_path: Path
) -> None:
    now = candidate(tmp_path)
    rows = by_check([*compare(now, production, settings), *check_alone(now, settings)])
    assert failed(rows) == []
    assert list(rows) == [
        *("held-out images", "accuracy", "log loss", "foreign images", "worse images"),
        *("recall of each class", "export"),
    ]
    for row in rows.values():
        assert row.keys() == {"check", "candidate", "production", "limit", "passed", "sentence"}
        assert row["sentence"].endswith((".", ")."))
    assert rows["accuracy"]["production"] == "100.0\u00a0%"
    assert rows["export"]["sentence"].startswith("A new process has loaded the exported model.")


def test_worse_model_is_refused_and_the_margin_decides(production: Side, settings: Settings, tmp_path: Path) -> None:
    now = candidate(tmp_path, ALL, None, wrong_for(4))  # 4 of 24
    rows = by_check(compare(now, production, settings))
    assert failed(rows) == ["accuracy", "log loss"]
    assert "differs by -16.7 points on the same 24 images" in rows["accuracy"]["sentence"]
    rows = by_check(compare(now, production, with_gate(settings, margin=0.17)))
    assert rows["accuracy"]["passed"]


def test_difference_that_may_be_chance_says_so(production: Side, settings: Settings, tmp_path: Path) -> None:
    rows = by_check(compare(candidate(tmp_path, ALL, None, wrong_for(1)), production, settings))
    assert "This may be chance" in rows["accuracy"]["sentence"]
    assert failed(rows) == ["accuracy"]


def test_collapsed_class_is_refused(production: Side, settings: Settings, tmp_path: Path) -> None:
    now = candidate(tmp_path, ALL, None, wrong_for(99, "bee"))
    rows = by_check(check_alone(now, settings))
    assert "recall of each class" in failed(rows)
    assert rows["recall of each class"]["sentence"] == "Clearly below the floor: bee 0.0\u00a0% of 12."


def test_leaking_model_is_refused_for_near_duplicates_of_its_own_training_images(
    production: Side, settings: Settings, tmp_path: Path
) -> None:
    test = [one for one in ALL if one.split == "test"]
    copies = [example(1000 + place, "train") for place in range(5)]  # test images, slightly brighter
    images = {
        copy.key: np.minimum(draw(int(Path(one.path).stem)).astype(int) + 3, 255).astype(np.uint8)
        for copy, one in zip(copies, test, strict=False)
    }
    rows = by_check(compare(candidate(tmp_path, [*ALL, *copies], images), production, settings))
    assert failed(rows) == ["held-out images"]
    assert "5 of 24 are training images of the candidate, or near duplicates" in rows["held-out images"]["sentence"]


def test_images_that_production_has_learned_from_are_left_out_and_counted(
    production: Side, settings: Settings, tmp_path: Path
) -> None:
    moved = [replace(one, split="test") if number < 16 else one for number, one in enumerate(ALL)]
    learned = {one.key for one in ALL if one.split != "test"}

    def know_by_heart(predicted: np.ndarray, test: Sequence[Example]) -> np.ndarray:
        chosen = [one.key in learned for one in test]
        predicted[chosen] = predicted[chosen, ::-1]
        return predicted

    now = candidate(tmp_path, moved, None, know_by_heart)  # it is wrong for all that production has learned
    rows = by_check(compare(now, production, settings))
    assert failed(rows) == []
    assert rows["held-out images"]["sentence"] == (
        "12 are training images of the version in production and are left out; 24 images are compared."
    )
    every = [replace(one, split="test" if one.split == "train" else "train") for one in ALL]
    rows = by_check(compare(Side(write_version(tmp_path / "other", every)), production, settings))
    assert failed(rows) == ["held-out images"]
    assert rows["held-out images"]["sentence"].endswith("no image is left to compare.")


def test_production_answers_new_images_by_its_exported_model_and_new_classes_are_left_out(
    production: Side, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "add_outputs", lambda *_: None)
    new = [example(2000 + number, "test") for number in range(10)]
    now = candidate(tmp_path, [*ALL, *new])
    rows = by_check(compare(now, production, settings))
    assert failed(rows) == []
    assert "on the same 34 images" in rows["accuracy"]["sentence"]
    now.evaluation["classes"].append("cat")  # type: ignore[attr-defined]
    now.examples[-1] = replace(now.examples[-1], label="cat")
    rows = by_check(compare(now, production, settings))
    assert "1 are of classes that it doesn't know" in rows["held-out images"]["sentence"]
    assert "on the same 33 images" in rows["accuracy"]["sentence"]


def test_overconfident_model_is_refused(production: Side, settings: Settings, tmp_path: Path) -> None:
    def exaggerate(predicted: np.ndarray, _test: object) -> np.ndarray:
        predicted[:2] = predicted[:2, ::-1]
        return predicted.round()

    before = Side(write_version(tmp_path / "before", ALL, None, wrong_for(2)))
    assert failed(by_check(compare(candidate(tmp_path, ALL, None, exaggerate), before, settings))) == []
    meek = Side(write_version(tmp_path / "meek", ALL, sharpness=0.002))
    sharp = Side(write_version(tmp_path / "sharp", ALL, sharpness=0.05))
    assert failed(by_check(compare(meek, sharp, settings))) == ["log loss"]


def test_first_version_needs_no_other(settings: Settings, tmp_path: Path) -> None:
    now = candidate(tmp_path)
    assert failed(by_check([*compare(now, None, settings), *check_alone(now, settings)])) == []


def foreign(near: float, called: float) -> dict[str, Any]:
    def around(value: float) -> dict[str, Any]:
        return {"value": value, "ci95": [value - 0.02, value + 0.02]}

    scores = {"energy": {"near": around(near), "far": around(0.99)}}
    return {"score": "energy", "scores": scores, "caught": around(0.9), "called_foreign": around(called)}


def what_if(accuracy: float) -> dict[str, Any]:
    row = {"strength": 3, "accuracy": accuracy, "accuracy_ci95": [accuracy - 0.05, accuracy + 0.05]}
    return {"kinds": [{"kind": "blurred", "strengths": [row]}]}


@pytest.mark.parametrize(
    ("name", "now", "before", "said"),
    [
        ("foreign", foreign(0.8, 0.05), foreign(0.81, 0.05), ""),
        ("foreign", foreign(0.7, 0.05), foreign(0.8, 0.05), "Clearly worse: AUROC of classes held out."),
        ("foreign", foreign(0.8, 0.15), foreign(0.8, 0.05), "Clearly worse: called foreign."),
        ("foreign", None, foreign(0.8, 0.05), "The candidate can't tell foreign images; production can."),
        ("what_if", what_if(0.8), what_if(0.85), ""),
        ("what_if", what_if(0.7), what_if(0.85), "Clearly less accurate: blurred (strong)."),
        ("what_if", None, what_if(0.85), ""),
    ],
)
def test_what_is_clearly_worse_is_refused(
    name: str, now: Any, before: Any, said: str, settings: Settings, tmp_path: Path
) -> None:
    sides = [
        Side(write_version(tmp_path / side, ALL[:16], **{name: found}))
        for side, found in (("now", now), ("before", before))
    ]
    rows = by_check(compare(*sides, settings))
    row = rows["foreign images" if name == "foreign" else "worse images"]
    assert row["passed"] is (not said)
    assert not said or row["sentence"] == said


def test_slow_or_large_model_is_refused(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = candidate(tmp_path)
    predicted = np.array([now.predictions[key] for key in sorted(now.predictions)[:4]])
    monkeypatch.setattr(Scores, "of", lambda *_: Scores(list(CLASSES), predicted, 250.0))
    rows = by_check(check_alone(now, with_gate(settings, max_latency_ms=200, max_size_mb=0.0001)))
    assert failed(rows) == ["latency of one image", "size of the export"]
    assert rows["latency of one image"]["sentence"] == "It takes 250 ms; the budget is 200 ms."
    assert failed(by_check(check_alone(now, with_gate(settings, max_latency_ms=300, max_size_mb=1)))) == []


def test_export_that_answers_otherwise_or_does_not_load_is_refused(settings: Settings, tmp_path: Path) -> None:
    def swap(predicted: np.ndarray, _test: object) -> np.ndarray:
        return predicted[:, ::-1]

    rows = by_check(check_alone(candidate(tmp_path, ALL, None, swap), settings))
    assert "export" in failed(rows)
    now = Side(write_version(tmp_path / "damaged", ALL))
    (now.workspace.export / "model.onnx").write_bytes(b"changed")
    rows = by_check(check_alone(now, settings))
    assert failed(rows) == ["export"]
    assert "is not the file that was exported: its SHA-256 differs" in rows["export"]["sentence"]


def test_model_that_is_not_signed_by_the_owner_of_the_public_key_is_refused(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ours, public), (theirs, _) = (new_keys(tmp_path / name, ec.SECP256R1()) for name in ("ours", "theirs"))
    now = candidate(tmp_path, ALL[:16])
    monkeypatch.setenv(PUBLIC_KEY, str(public))
    rows = by_check(check_alone(now, settings))
    assert failed(rows) == ["export"]
    assert "it has no signature" in rows["export"]["sentence"]
    sign_model(now.workspace.export, theirs)
    assert failed(by_check(check_alone(now, settings))) == ["export"]
    sign_model(now.workspace.export, ours)
    rows = by_check(check_alone(now, settings))
    assert failed(rows) == []
    assert rows["export"]["sentence"].endswith("It is signed by the owner of the public key.")


def test_latency_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    now = candidate(tmp_path, ALL[:16])
    found = Scores.of(now.workspace.export, now.shards.read([ALL[0].key]), tmp_path)
    assert found.latency_ms > 0
    with pytest.raises(PredictError, match=r"The exported model can't be used: .*complete exported model"):
        Scores.of(tmp_path, now.shards.read([ALL[0].key]), tmp_path)
