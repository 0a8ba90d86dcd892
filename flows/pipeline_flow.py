"""The pipeline: images in, a validated and exported model out. Each stage runs only if its inputs have changed.

People start it by `python -m flows.pipeline`, or as a deployment of prefect.yaml.
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.artifacts import show_costs, show_metrics, show_plan, show_report, show_the_rest, watch_accuracy
from flows.form import filled_in, settings_form
from flows.logs import shorten_errors
from flows.promotion import register_result
from flows.remote_stages import check_work_pools, dispatch
from flows.server_outages import wait_for_server
from flows.settings_changes import apply_changes
from flows.this_run import this_run
from tasks.plan import Plan
from tasks.runs.run_context import RunContext
from tasks.settings import Settings
from tasks.stages import evaluate, export, features, ingest, is_finished, prepare, run_here, train


@flow
@settings_form
def pipeline(**changes: Any) -> None:
    """Bring the model and its report up to date.

    Args:
        changes: the settings that should differ from params.yaml, such as {"train": {"recipe": "tutorial"}}.
    """
    shorten_errors()
    with this_run() as context, show_costs(context), watch_accuracy(context):
        settings = apply_changes(context, filled_in(changes))
        check_work_pools(settings.run, context)
        if not _has_nothing_to_do(context, show_plan(context, settings)):
            _bring_up_to_date(context, settings)
        show_metrics(context)
    register_result(context, settings, filled_in(changes))
    wait_for_server(context, settings.run)
    show_the_rest()


def _has_nothing_to_do(context: RunContext, plan: Plan | None) -> bool:
    """Whether a deployed run can end at once. In a person's folder, the program of `make run` has asked this before."""
    is_gathered = not context.workspace.attempts.exists()  # else outputs from another machine may still be missing
    return context.deployed is not None and is_gathered and plan is not None and plan.is_empty


def _bring_up_to_date(context: RunContext, settings: Settings) -> None:
    run_here(ingest, settings.run, context)
    if not is_finished(context):
        dispatch(prepare, settings.run, context)
        dispatch(features, settings.run, context)
        dispatch(train, settings.run, context, settings.strategies)
        run_here(evaluate, settings.run, context)
        run_here(export, settings.run, context)
        show_report(context)
