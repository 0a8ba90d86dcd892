"""Checkpoints of trainings; that a killed training ends with the same bytes is tested with whole trainings."""

from __future__ import annotations

from dataclasses import make_dataclass
from pathlib import Path

import pytest

from tasks.vgg.training import checkpoints
from tasks.vgg.training.checkpoints import Checkpoints, State


def test_checkpoint_of_another_version_of_the_program_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Checkpoints(tmp_path, {"strategy": "progressive"}, 0).save(State(epoch=3))
    found = Checkpoints(tmp_path, {"strategy": "progressive"}, 0).load()
    assert found
    assert found.epoch == 3
    monkeypatch.setattr(checkpoints, "State", make_dataclass("State", ["epoch", "what_it_keeps_now"]))
    assert Checkpoints(tmp_path, {"strategy": "progressive"}, 0).load() is None
    assert not tmp_path.exists()
