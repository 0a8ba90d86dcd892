"""Accuracies on worse copies of images, and the sentence about them."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.reports.uncertainty import accuracy_interval, compare_paired
from tasks.reports.what_if import measure_what_if, what_if_verdict

N = 80
CLEAN = np.arange(N) >= 4


def hits(wrong: int) -> np.ndarray:
    return np.arange(N) >= wrong


def test_accuracies_come_with_intervals_and_corrected_p_values() -> None:
    worse = {"darker": {1: hits(4), 2: hits(12)}, "blurred": {1: hits(4), 2: hits(40)}}
    groups = np.arange(N) // 2
    found = measure_what_if(CLEAN, worse, groups, 320)
    assert (found["n"], found["passes"]) == (N, 320)
    assert found["clean"] == {"accuracy": 0.95, "accuracy_ci95": list(accuracy_interval(CLEAN, groups))}
    row = found["kinds"][0]["strengths"][1]
    assert row["accuracy"] == pytest.approx(0.85)
    assert row["p_value"] == pytest.approx(4 * compare_paired(CLEAN, hits(12), groups)["p_value"])
    assert found["kinds"][0]["strengths"][0]["p_value"] == 1


def test_verdict_names_what_harms_first_and_what_does_not() -> None:
    worse = {
        "darker": {1: hits(4), 2: hits(5), 3: hits(6)},
        "blurred": {1: hits(5), 2: hits(40), 3: hits(70)},
        "noisy": {1: hits(20), 2: hits(20), 3: hits(20)},
    }
    said = what_if_verdict(measure_what_if(CLEAN, worse, np.arange(N), 1))
    assert "most sensitive to noisy images: at slight strength" in said
    assert "from 95.0\u00a0% to 75.0\u00a0%" in said
    assert "No clear loss even at full strength: darker." in said


def test_verdict_does_not_read_a_loss_into_chance_nor_a_gain_as_a_loss() -> None:
    worse = {"darker": {1: hits(6)}, "rotated": {1: hits(0)}, "cropped": {1: ~hits(0)[::-1] | True}}
    said = what_if_verdict(measure_what_if(hits(30), worse, np.arange(N), 1))
    assert "No kind of worse images lowers the accuracy beyond chance" in said
