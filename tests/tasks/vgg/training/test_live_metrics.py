"""Live metrics: the files of dvclive, byte by byte."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.vgg.training.live_metrics import LiveMetrics
from tests.conftest import contents


def test_live_metrics_are_the_files_that_dvc_plots_reads(tmp_path: Path) -> None:
    live = LiveMetrics(tmp_path)
    live.log({"loss": 0.5, "accuracy": 1.0})
    live.log({"loss": float("nan"), "accuracy": 0.25})
    last = {"loss": "nan", "accuracy": 0.25, "step": 1}
    assert {str(name): content.decode() for name, content in contents(tmp_path).items()} == {
        "metrics.json": json.dumps(last, indent=4) + "\n",
        "plots/metrics/loss.tsv": "step\tloss\n0\t0.5\n1\tnan\n",
        "plots/metrics/accuracy.tsv": "step\taccuracy\n0\t1.0\n1\t0.25\n",
    }


def test_live_metrics_of_an_earlier_run_are_removed(tmp_path: Path) -> None:
    LiveMetrics(tmp_path).log({"loss": 0.5})
    LiveMetrics(tmp_path).log({"accuracy": 0.5})
    assert sorted(contents(tmp_path)) == ["metrics.json", "plots/metrics/accuracy.tsv"]
