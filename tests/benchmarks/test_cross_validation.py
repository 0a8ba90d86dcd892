"""The benchmark of cross-validation: every image has features of the precision in which models are evaluated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.cross_validation import compute_features
from tasks.images.manifest import read_examples
from tasks.settings import Settings
from tasks.vgg import engine_choice
from tasks.vgg.calibration import FILE
from tasks.workspace import FEATURES, PREPARED
from tests.conftest import fill_source
from tests.tasks.steps import run_prepare, settings_for, use_tiny_extractor


def test_images_need_no_check_of_int8(
    workspace: Path, tmp_path: Path, change: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image is held out once, so none is left to check int8 on; and none may be in int8."""
    use_tiny_extractor(monkeypatch)
    monkeypatch.setattr(engine_choice, "has_fast_int8", lambda: True)
    monkeypatch.setattr(engine_choice, "_WORTH_CHECKING", 5)
    monkeypatch.setattr(engine_choice, "calibrate", lambda *_: pytest.fail("int8 was chosen"))
    wanted = settings_for(change, fill_source(tmp_path / "images", 12))
    run_prepare(wanted, workspace)
    summary = compute_features(wanted, workspace)
    assert {one.split for one in read_examples(workspace / PREPARED)} == {"train"}
    assert summary.extracted >= 12
    assert not list((workspace / FEATURES).rglob(FILE))
