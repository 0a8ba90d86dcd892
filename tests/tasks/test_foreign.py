"""What `evaluate` finds out about foreign images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from tasks import diagnosis, foreign
from tasks.evaluate import run
from tasks.files import sha256_hex
from tasks.images.manifest import read_examples
from tasks.vgg.foreign import Detector
from tasks.vgg.foreign_features import pool_known
from tasks.vgg.trained_model import load_trained
from tasks.workspace import PREPARED, TRAINED, Workspace
from tests.conftest import contents
from tests.tasks.evaluate_workspace import STRATEGIES, make_settings, make_workspace, read

pytestmark = pytest.mark.usefixtures("far_images")


def test_evaluation_says_how_foreign_images_are_told_and_keeps_what_was_fitted(tmp_path: Path) -> None:
    make_workspace(tmp_path, {STRATEGIES[0]: {"test": 0.8}}, ("ant", "bee", "cat"), a_split=60)
    run(make_settings(), Workspace.at(tmp_path))
    found, content = (
        read(tmp_path, "evaluation.json")["foreign"],
        (tmp_path / "reports/foreign.safetensors").read_bytes(),
    )
    assert set(found["scores"]) == set(foreign.report.WORDS)
    assert (found["images"], found["tested"], found["far_images"]) == (120, 60, 24)
    assert found["sha256"] == sha256_hex(content)
    detector = Detector(found["score"], load(content), found["threshold"])
    examples = [example for example in read_examples(tmp_path / PREPARED) if example.split == "test"]
    scores = detector.score(pool_known({}, Workspace.at(tmp_path), [example.key for example in examples]))
    assert found["called_foreign"]["value"] == pytest.approx(np.mean(scores > found["threshold"]), abs=0.04)
    assert found["most"][0]["score"] == pytest.approx(scores.max(), abs=1e-4)
    page = (tmp_path / "reports/report.html").read_text()
    assert "Images of none of the classes" in page
    before = contents(tmp_path / "reports")
    run(make_settings(), Workspace.at(tmp_path))
    assert contents(tmp_path / "reports") == before


def test_a_backbone_that_was_trained_further_computes_few_images_and_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_workspace(tmp_path, {STRATEGIES[0]: {}}, a_split=60)
    examples, asked = read_examples(tmp_path / PREPARED), []
    monkeypatch.setattr(foreign, "MOST_COMPUTED", 70)

    def pool_known(_backbone: object, _workspace: Workspace, keys: Sequence[str]) -> np.ndarray:
        asked.append([example.label for example in examples if example.key in keys])
        return np.random.default_rng(1).normal(size=(len(keys), 4)).astype(np.float32)

    monkeypatch.setattr(foreign, "pool_known", pool_known)
    model = replace(load_trained(tmp_path / TRAINED / STRATEGIES[0]), backbone={"block5_conv3/bias": np.zeros(1)})
    test = [example for example in examples if example.split == "test"]
    pooled = {one.key: np.full(4, 9, np.float32) for one in test}  # the predictions left them
    tested = diagnosis.Champion(model, test, np.tile([[0.9, 0.1]], (60, 1)), np.zeros(60, int), np.arange(60), pooled)
    group_of = {example.key: number for number, example in enumerate(examples)}
    found, content = foreign.detect_foreign(tested, examples, group_of, Workspace.at(tmp_path))
    assert found is not None
    assert (found["images"], found["tested"]) == (70, 60)
    assert [labels.count("ants") for labels in asked] == [35], "no test image passes the network once more"
    [score] = Detector(found["score"], load(content), found["threshold"]).score(np.full((1, 4), 9, np.float32))
    assert found["most"][0]["score"] == pytest.approx(score, abs=1e-4)


def test_few_images_cannot_tell_what_is_foreign(tmp_path: Path) -> None:
    run(make_settings(), Workspace.at(make_workspace(tmp_path, {STRATEGIES[0]: {}})))
    assert read(tmp_path, "evaluation.json")["foreign"] is None
    assert load((tmp_path / "reports/foreign.safetensors").read_bytes()) == {}
    assert "Images of none of the classes" not in (tmp_path / "reports/report.html").read_text()
