"""What `export` refuses: formats that predict otherwise, another network, missing outputs of earlier stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import export
from tasks.errors import ExportError, IntegrityError
from tasks.files import read_json, write_bytes, write_json
from tasks.images.manifest import read_examples, write_examples
from tasks.settings import Settings
from tasks.vgg.head import Dense, Head
from tasks.vgg.trained_model import save_trained
from tasks.workspace import EVALUATION, EXPORT, PREPARED, TRAINED, Workspace
from tests.tasks.export_workspace import make_ready, make_tiny, store_features, trained_on
from tests.tasks.vgg.small_weights import tiny_weights


@pytest.fixture
def tiny(workspace: Path, source: Path, change: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_tiny(make_ready(workspace, source, change), monkeypatch)


def test_export_fails_and_keeps_the_former_one_when_a_format_differs(
    tiny: Path, change: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    former = tiny / EXPORT / "labels.txt"
    former.parent.mkdir(parents=True)
    former.write_text("former", encoding="utf-8")
    kept = tiny / ".rootstock/exports/template-0/graph"
    write_bytes(kept, b"")
    answer = export.run_onnx
    monkeypatch.setattr(export, "run_onnx", lambda model, pixels: (answer(model, pixels)[0][:, ::-1], None))
    monkeypatch.setattr(export.Template, "fill", lambda *_: ())  # the other formats aren't reached
    with pytest.raises(ExportError, match=r"ONNX doesn't predict what the trained model does on .*(ant|bee)"):
        export.run(change(), Workspace.at(tiny))
    assert former.read_text(encoding="utf-8") == "former"
    assert not kept.exists(), "the next attempt uses nothing that may be the reason"
    assert [path.name for path in (tiny / "models").iterdir() if path.name.startswith(".")] == []


def test_export_fails_when_the_features_of_onnx_differ(
    tiny: Path, change: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = export.run_onnx

    def swapped(model: bytes, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probabilities, features = answer(model, pixels)
        return probabilities, features[:, ::-1]

    monkeypatch.setattr(export, "run_onnx", swapped)
    monkeypatch.setattr(export.Template, "fill", lambda *_: ())  # the other formats aren't reached
    with pytest.raises(ExportError, match=r"ONNX doesn't compute the trained model's features of .*(ant|bee)"):
        export.run(change(), Workspace.at(tiny))


def test_export_fails_when_another_network_was_evaluated(tiny: Path, change: Callable[..., Settings]) -> None:
    kernel = np.random.default_rng(0).normal(0, 1, (8 * 49, 2)).astype(np.float32)
    head = Head("flatten", (Dense(kernel, np.zeros(2, np.float32), "softmax"),))
    save_trained(tiny / TRAINED / "feature_extraction", replace(trained_on(16), head=head))
    store_features(tiny, tiny_weights(), factor=-1)
    with pytest.raises(ExportError, match=r"The evaluation doesn't predict what the trained model does on .*(ant|bee)"):
        export.run(change(), Workspace.at(tiny))


@pytest.mark.parametrize("damage", [None, "[]", '{"champion": "x", "strategies": {}}', "{"])
def test_export_needs_a_champion(workspace: Path, change: Callable[..., Settings], damage: str | None) -> None:
    if damage is not None:
        (workspace / "reports").mkdir()
        (workspace / EVALUATION).write_text(damage, encoding="utf-8")
    with pytest.raises(IntegrityError, match="names no champion"):
        export.run(change(), Workspace.at(workspace))


def test_export_needs_held_out_images(tiny: Path, change: Callable[..., Settings]) -> None:
    prepared = tiny / PREPARED
    write_examples(prepared, [example for example in read_examples(prepared) if example.split != "test"])
    with pytest.raises(IntegrityError, match="no held-out images"):
        export.run(change(), Workspace.at(tiny))


def test_export_of_a_missing_model_says_what_to_run(workspace: Path, change: Callable[..., Settings]) -> None:
    evaluation: dict[str, Any] = {"champion": "feature_extraction", "strategies": {"feature_extraction": {}}}
    write_json(workspace / EVALUATION, evaluation)
    assert read_json(workspace / EVALUATION) == evaluation
    with pytest.raises(IntegrityError, match="dvc repro"):
        export.run(change(), Workspace.at(workspace))
