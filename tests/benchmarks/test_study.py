"""The study: pieces whose results stay, and paired differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.study import RESULTS, Piece, calibration_error, read_results, table, work_off

PIECES = [Piece("/images", seed, strategy, "modern") for seed in (0, 1) for strategy in ("feature_extraction", "other")]


def made(piece: Piece) -> dict[str, Any]:
    """The other strategy predicts one image of four more."""
    right = [1, 0, 1, 0] if piece.strategy == "feature_extraction" else [1, 1, 1, 0]
    shifted = {"darker": right[:2], "blurred": [0, 0]}
    numbers = {"log_losses": [0.5] * 4, "confidences": [0.5] * 4, "seconds": 10 + piece.seed, "passes": 100}
    return {"problem": None, "right": right, "shifted": shifted, **numbers}


def test_known_pieces_are_not_measured_again_even_after_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    asked: list[Piece] = []

    def measured(piece: Piece) -> dict[str, Any]:
        asked.append(piece)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return made(piece)

    with pytest.raises(KeyboardInterrupt):
        work_off(PIECES, tmp_path / RESULTS, measured, 60)
    with (tmp_path / RESULTS).open("a") as file:
        file.write('{"piece": {"folder"')
    assert work_off(PIECES, tmp_path / RESULTS, measured, 60) == 0
    assert asked == [*PIECES[:3], *PIECES[2:]]
    assert [piece for piece, _ in read_results(tmp_path / RESULTS)] == PIECES


def test_time_that_is_over_leaves_pieces_for_the_next_run(tmp_path: Path) -> None:
    assert work_off(PIECES, tmp_path / RESULTS, made, 0) == len(PIECES)


def test_differences_are_paired_over_images_and_averaged_over_seeds() -> None:
    _, _, first, other = table([(piece, made(piece)) for piece in PIECES])
    assert [cell.strip() for cell in first.split("|")][3:7] == ["feature_extraction", "2", "0.500", ""]
    cells = [cell.strip() for cell in other.split("|")]
    assert cells[3:8] == ["other", "2", "0.750", "+0.250 ± 0.490", "0.500"]
    assert cells[-3:-1] == ["10", "100"]


def test_calibration_error_is_the_gap_of_confidence_and_accuracy() -> None:
    one = {"confidences": [0.9] * 20 + [0.6] * 20, "right": [1, 0] * 10 + [1, 1, 1, 0, 0] * 4}
    assert calibration_error(one) == pytest.approx((0.4 + 0.0) / 2, abs=0.07)
