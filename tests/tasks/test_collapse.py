"""Fine-tuning as in tutorials destroys what VGG16 learned: the stages report it, and another model is exported.

VGG16 itself collapses at the tutorial's own rate, 0.001, but takes minutes. The miniature stands that rate, so it gets
a higher one; the recipe, the stages and what they do about it are the real ones.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from tasks import evaluate, export, features, train
from tasks.workspace import Workspace
from tests.conftest import fill_source
from tests.tasks.steps import Change, run_prepare, settings_for
from tests.tasks.vgg.small_weights import tiny_weights
from tests.tasks.vgg.training.miniature import use_tiny_weights

CLASSES = ("ant", "bee", "cat")
RATE = 0.03
pytestmark = pytest.mark.slow


def test_collapse_is_reported_with_its_fix_and_the_other_model_is_exported(
    workspace: Path, tmp_path: Path, change: Change, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_tiny_weights(monkeypatch.setattr)
    monkeypatch.setattr(export, "load_weights", tiny_weights)
    settings = settings_for(
        change,
        fill_source(tmp_path / "source", 12, CLASSES),
        "strategies=[fine_tuning, feature_extraction]",
        "augmentation.count=0",
        "features.boundary_cache=never",
        "train.recipe=tutorial",
        "train.tutorial.batch_size=8",
        "train.tutorial.epochs=4",
        "export.formats=[saved_model, onnx]",
    )
    run_prepare(settings, workspace)
    features.run(settings, Workspace.at(workspace))

    learnt = train.run(settings, Workspace.at(workspace), "feature_extraction")
    assert not learnt.unusable
    assert learnt.validation_accuracy > 1 / len(CLASSES)
    collapsed = train.run(change(f"train.tutorial.learning_rate={RATE}"), Workspace.at(workspace), "fine_tuning")
    assert collapsed.unusable
    assert str(collapsed).endswith("failed, and will not be exported")
    told = re.search(r"train@fine_tuning: (Collapsed: since epoch (\d) .*)", capsys.readouterr().err)
    assert told
    problem, since = told[1], int(told[2])
    assert since == 1
    assert f"({RATE:g})" in problem
    assert "train.recipe=modern" in problem
    assert f'make run SET="train.tutorial.learning_rate={RATE / 10:g}"' in problem

    assert evaluate.run(settings, Workspace.at(workspace)).champion == "feature_extraction"
    found = json.loads((workspace / "reports/evaluation.json").read_text())["strategies"]
    assert [found[name]["problem"] for name in ("fine_tuning", "feature_extraction")] == [problem, None]
    losses = found["fine_tuning"]["training"]["history"]["loss"]
    assert len(losses) == since + 2  # it is given up after three epochs, not run to its end
    assert losses[-1] == pytest.approx(math.log(len(CLASSES)), abs=0.2)  # three steps an epoch, at a high rate
    page = (workspace / "reports/report.html").read_text()
    assert f"Collapsed: since epoch {since} " in page
    assert "train.recipe=modern" in page

    assert export.run(settings, Workspace.at(workspace)).champion == "feature_extraction"
    assert json.loads((workspace / "models/export/export.json").read_text())["strategy"] == "feature_extraction"
