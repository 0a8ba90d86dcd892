"""The log's limit of bytes: the oldest days go first, and a single day can't fill the disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tasks.serving import image_log
from tasks.serving.image_log import ImageLog

ANSWER = {"label": "red"}


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    monkeypatch.setattr(image_log, "_today", lambda: "2026-03-03")
    return Counter()


def log_noise(folder: Path, outcomes: Counter[str], most_bytes: int, images: int) -> None:
    """Log so many images of 150 KB each."""
    log = ImageLog(folder, lambda one: outcomes.update([one]), most_bytes)
    for seed in range(images):
        log.add("v", [np.random.default_rng(seed).integers(0, 255, (224, 224, 3), np.uint8)], [ANSWER])
    log.close()


def days(folder: Path) -> dict[str, list[str]]:
    return {kind.name: sorted(day.name for day in kind.iterdir()) for kind in folder.iterdir()}


def test_oldest_days_are_removed_with_their_answers(tmp_path: Path, outcomes: Counter[str]) -> None:
    for day in ("2026-03-01", "2026-03-02"):
        for kind, name in (("images", f"{day}/1.png"), ("answers", f"{day}.jsonl"), ("shadow", f"{day}.jsonl")):
            (tmp_path / kind / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / kind / name).write_bytes(bytes(80_000))
    log_noise(tmp_path, outcomes, 500_000, 1)
    assert days(tmp_path) == {
        "images": ["2026-03-02", "2026-03-03"],
        "answers": ["2026-03-02.jsonl", "2026-03-03.jsonl"],
        "shadow": ["2026-03-02.jsonl"],
    }
    assert outcomes == {"written": 1}


def test_single_day_does_not_grow_beyond_the_limit(tmp_path: Path, outcomes: Counter[str]) -> None:
    log_noise(tmp_path, outcomes, 500_000, 6)
    assert outcomes == {"written": 3, "skipped": 3}
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 500_000
    log_noise(tmp_path, outcomes, 500_000, 6)  # a new process knows what is there
    assert len(list((tmp_path / "images/2026-03-03").iterdir())) == 3
