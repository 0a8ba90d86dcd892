"""The strategies side by side, as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.markdown_tables import duration, markdown_table
from tasks.reports.text import percent


def strategy_table(metrics: Mapping[str, Any]) -> str:
    """One row for each strategy, the champion in bold.

    Args:
        metrics: the content of `reports/metrics.json`, or of `reports/evaluation.json`, which has no training seconds.
    """
    strategies = metrics["strategies"]
    heads = ["strategy", "recipe", "test accuracy", "95 % confidence interval", "validation accuracy"]
    rows = []
    for name, one in strategies.items():
        test = one["test"]
        low, high = map(percent, test["accuracy_ci95"])
        shown = f"**{name}**" if name == metrics["champion"] else name
        accuracy = f"{percent(test['accuracy'])} (n\u00a0=\u00a0{test['n']})"
        rows.append([shown, one["recipe"], accuracy, f"{low} to {high}", percent(one["validation"]["accuracy"])])
    if any("train_seconds" in one for one in strategies.values()):
        heads.append("training")
        rows = [[*row, duration(one["train_seconds"])] for row, one in zip(rows, strategies.values(), strict=True)]
    return markdown_table(heads, rows, right=heads[2:])
