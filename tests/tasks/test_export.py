"""The stage `export`, end to end with the real weights on a small workspace."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import export, ingest, prepare
from tasks.errors import ExportError, IntegrityError
from tasks.files import read_json, write_json
from tasks.predict import predict_files
from tasks.reports.metrics import measure
from tasks.settings import Settings
from tasks.vgg.head import Dense, Head
from tasks.vgg.trained import TRAINED, Trained, load_trained, save_trained
from tasks.vgg.weights import load_weights
from tests.conftest import contents
from tests.tasks.steps import run_afresh, twins

CLASSES = ("ant", "bee")
FILES = {
    "MODEL_CARD.md",
    "export.json",
    "labels.txt",
    "model.onnx",
    "model.tflite",
    "saved_model/saved_model.pb",
    "saved_model/variables/variables.data-00000-of-00001",
    "saved_model/variables/variables.index",
}


@pytest.fixture
def ready(workspace: Path, source: Path, change: Callable[..., Settings]) -> Path:
    """A workspace after `evaluate`: prepared pictures, a trained head of random numbers, and its figures."""
    settings = change(f"source.uri={source}", "prepare.min_entropy_bits=0", "export.parity_pictures=2")
    ingest.run(settings, workspace)
    prepare.run(settings, workspace)
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(0, 3, (1024, 2)).astype(np.float32), np.zeros(2, np.float32)
    head = Head("average_maximum", (Dense(kernel, bias, "softmax"),))
    answers = np.zeros((0, 2), np.float32)
    trained = Trained("feature_extraction", "modern", CLASSES, head, {}, False, None, (), answers, {"backbone": {}})
    save_trained(workspace / TRAINED / "feature_extraction", trained)
    figures = measure(np.tile([[0.6, 0.4]], (4, 1)), np.array([0, 1, 0, 1]), CLASSES)
    data = {"accepted": 24, "quarantined": 0, "excluded": {}, "counts": {}, "source": str(source)}
    evaluation = {
        "champion": "feature_extraction",
        "strategies": {"feature_extraction": {"test": figures}},
        "data": data,
    }
    write_json(workspace / export.EVALUATION, evaluation)
    return workspace


@pytest.mark.slow
@pytest.mark.weights
def test_export_of_a_backbone_that_was_trained_further_agrees_in_every_format(
    ready: Path, change: Callable[..., Settings]
) -> None:
    """Tuned layers and flip averaging reach ONNX, LiteRT and the SavedModel; parity would refuse anything else."""
    trained = load_trained(ready / TRAINED / "feature_extraction")
    published = load_weights()
    tuned = {name: value * np.float32(1.2) for name, value in published.items() if name.startswith("block5")}
    save_trained(ready / TRAINED / "feature_extraction", replace(trained, backbone=tuned, flip_averaging=True))
    summary = export.run(change("export.probability_tolerance=0.01"), ready)
    assert summary.formats == 3
    card = (ready / export.EXPORT / "MODEL_CARD.md").read_text()
    assert "changed: it was trained further" in card
    assert "trained further: block5" in card
    save_trained(ready / TRAINED / "feature_extraction", trained)
    export.run(change(), ready)
    assert "used without change" in (ready / export.EXPORT / "MODEL_CARD.md").read_text()


@pytest.mark.slow
@pytest.mark.weights
def test_export_is_the_same_bytes_in_every_process_and_can_be_used(ready: Path, source: Path) -> None:
    one, two = twins(ready)
    assert run_afresh((one, two), "tasks.export") == ["", ""], "the terminal shows only what matters"
    made = contents(one / export.EXPORT)
    assert set(made) == FILES
    assert contents(two / export.EXPORT) == made

    about = json.loads(made["export.json"])
    assert about["classes"] == list(CLASSES) == made["labels.txt"].decode().split()
    assert set(about["sha256"]) == FILES - {"export.json"}
    rows = list(predict_files(ready / export.EXPORT, [str(source)]))
    assert len(rows) == 24
    assert {row["label"] for row in rows} <= set(CLASSES)


@pytest.mark.slow
@pytest.mark.weights
def test_export_fails_and_keeps_the_former_one_when_a_format_differs(
    ready: Path, change: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    former = ready / export.EXPORT / "labels.txt"
    former.parent.mkdir(parents=True)
    former.write_text("former", encoding="utf-8")
    answer = export.run_onnx
    monkeypatch.setattr(export, "run_onnx", lambda model, pixels: answer(model, pixels)[:, ::-1])
    with pytest.raises(ExportError, match=r"ONNX doesn't answer as the trained model on .*(ant|bee)"):
        export.run(change(), ready)
    assert former.read_text(encoding="utf-8") == "former"
    assert [path.name for path in (ready / "models").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("damage", [None, "[]", '{"champion": "x", "strategies": {}}', "{"])
def test_export_needs_a_champion(workspace: Path, change: Callable[..., Settings], damage: str | None) -> None:
    if damage is not None:
        (workspace / "reports").mkdir()
        (workspace / export.EVALUATION).write_text(damage, encoding="utf-8")
    with pytest.raises(IntegrityError, match="names no champion"):
        export.run(change(), workspace)


@pytest.mark.weights
def test_export_needs_held_out_pictures(ready: Path, change: Callable[..., Settings]) -> None:
    from tasks.pictures.manifest import read_examples, write_examples

    prepared = ready / prepare.PREPARED
    write_examples(prepared, [example for example in read_examples(prepared) if example.split != "test"])
    with pytest.raises(IntegrityError, match="no held-out pictures"):
        export.run(change(), ready)


def test_export_of_a_missing_model_says_what_to_run(workspace: Path, change: Callable[..., Settings]) -> None:
    evaluation: dict[str, Any] = {"champion": "feature_extraction", "strategies": {"feature_extraction": {}}}
    write_json(workspace / export.EVALUATION, evaluation)
    assert read_json(workspace / export.EVALUATION) == evaluation
    with pytest.raises(IntegrityError, match="dvc repro"):
        export.run(change(), workspace)
