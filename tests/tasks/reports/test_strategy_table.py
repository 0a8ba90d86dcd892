"""One row for each strategy, from the metrics or from the evaluation."""

from __future__ import annotations

from tasks.reports.strategy_table import strategy_table
from tests.tasks.reports.evaluations import make_evaluation


def test_champion_is_bold_and_the_training_is_told_where_it_is_known() -> None:
    metrics = make_evaluation(["a", "b"], strategies=2)
    table = strategy_table(metrics)
    assert "| **strategy_0** |" in table
    assert "| strategy_1     |" in table
    assert "training" not in table
    for seconds, one in zip((12.4, None), metrics["strategies"].values(), strict=True):
        one["train_seconds"] = seconds
    rows = strategy_table(metrics).replace("\u00a0", " ").splitlines()
    assert [row.split("|")[-2].strip() for row in rows] == ["training", "-------:", "12 s", "unknown"]
