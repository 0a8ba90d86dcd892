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

from flows.artifacts import show_plan, show_report, showing_costs, watching_accuracy
from flows.choices import choose
from flows.form import settings_form, to_assignments
from flows.logs import shorten_errors
from flows.remote_stages import carry_out, check_work_pools
from flows.run_context import run_context
from tasks.files import read_json
from tasks.reports.strategy_table import strategy_table
from tasks.runs.worktrees import RunContext
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
    with run_context() as context, showing_costs(context), watching_accuracy(context):
        chosen = choose(context, to_assignments(changes))
        check_work_pools(chosen.run, context)
        if not (show_plan(context, chosen) and is_finished(context)):
            _bring_up_to_date(context, chosen)
        create_markdown_artifact(key="metrics", markdown=strategy_table(read_json(context.workspace.metrics)))


def _bring_up_to_date(context: RunContext, chosen: Settings) -> None:
    run(ingest, chosen.run, context)
    if not is_finished(context):
        carry_out(prepare, chosen.run, context)
        carry_out(features, chosen.run, context)
        carry_out(train, chosen.run, context, chosen.strategies)
        run(evaluate, chosen.run, context)
        run(export, chosen.run, context)
        show_report(context)
