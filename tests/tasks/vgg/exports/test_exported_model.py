"""An exported model leaves the cores to the processes that decode: its threads don't spin when they have no work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from tasks.vgg.exports.exported_model import ExportedModel
from tasks.vgg.foreign import Detector
from tests.tasks.exporting import save_export


def test_exported_model_leaves_the_cores_when_it_has_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ExportedModel(save_export(tmp_path / "export"))
    assert model._session.get_session_options().get_session_config_entry("session.intra_op.allow_spinning") == "0"
    threads: list[int] = []

    def score(_self: Detector, features: np.ndarray) -> np.ndarray:
        threads.extend(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")
        return np.zeros(len(features))

    monkeypatch.setattr(Detector, "score", score)
    with threadpool_limits(2, "blas"):
        model.answer([np.zeros((224, 224, 3), np.uint8)])
    assert set(threads) == {1}
