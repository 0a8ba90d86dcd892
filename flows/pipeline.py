"""The pipeline: images in, a validated and exported model out. Each step runs only if what it reads has changed.

For example: python -m flows.pipeline --source my/images --strategy all --set "train.recipe=tutorial"
"""

from __future__ import annotations

if __name__ == "__main__":  # before Prefect is imported: a wrong setting is told at once, not after seconds
    from flows.command import main

    raise SystemExit(main())

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.choices import METRICS, choose
from flows.cockpit import show_plan, show_report, showing_costs, watching_accuracy
from flows.form import settings_form, to_assignments
from flows.logs import shorten_errors
from flows.placement import carry_out, check_placement
from flows.workplace import workplace
from tasks.files import read_json
from tasks.runs.worktrees import Place
from tasks.settings import Settings
from tasks.stages import evaluate, export, features, ingest, is_finished, prepare, run, train


@flow
@settings_form
def pipeline(**changes: Any) -> None:
    """Bring the model and its report up to date.

    Args:
        changes: settings that shall differ from params.yaml, such as {"train": {"recipe": "tutorial"}}.
    """
    shorten_errors()
    with workplace() as place, showing_costs(place), watching_accuracy(place):
        chosen = choose(place, to_assignments(changes))
        check_placement(chosen.run, place)
        if not (show_plan(place, chosen) and is_finished(place)):
            _bring_up_to_date(place, chosen)
        create_markdown_artifact(key="metrics", markdown=metrics_table(read_json(place.folder / METRICS)))


def _bring_up_to_date(place: Place, chosen: Settings) -> None:
    run(ingest, chosen.run, place)
    if not is_finished(place):
        carry_out(prepare, chosen.run, place)
        carry_out(features, chosen.run, place)
        carry_out(train, chosen.run, place, chosen.strategies)
        run(evaluate, chosen.run, place)
        run(export, chosen.run, place)
        show_report(place)


def metrics_table(metrics: dict[str, Any]) -> str:
    """reports/metrics.json as a Markdown table, one row a strategy, the champion in bold."""
    heads = "| strategy | recipe | test accuracy | 95 % interval | validation accuracy | training |"
    rows = [heads, "|---|---|---:|---:|---:|---:|"]
    for name, figures in metrics["strategies"].items():
        test, validation = figures["test"], figures["validation"]
        low, high = test["accuracy_ci95"]
        seconds = figures["train_seconds"]  # null where the training was done elsewhere
        took = "" if seconds is None else f"{seconds:.0f} s"
        shown = f"**{name}**" if name == metrics["champion"] else name
        rows.append(
            f"| {shown} | {figures['recipe']} | {test['accuracy']:.4f} (n = {test['n']}) | {low:.4f} to {high:.4f} "
            f"| {validation['accuracy']:.4f} | {took} |"
        )
    return "\n".join(rows)
