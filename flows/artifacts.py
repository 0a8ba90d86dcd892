"""The artifacts of a run in Prefect's UI: the plan before the work, the report and the costs after it.

If an artifact can't be made, the log says so, and the run continues, unless the plan shows that it can't succeed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.alerts import ACCURACY_DROPPED
from tasks import plan, report
from tasks.errors import DataError, RootstockError, SourceError
from tasks.files import read_json
from tasks.progress_artifacts import SERVER_TROUBLE
from tasks.reports.strategy_table import strategy_table
from tasks.runs.accuracy_regression import describe_regression, read_metrics
from tasks.runs.costs import costs_table, read_history
from tasks.runs.disk_budget import check_disk
from tasks.runs.run_context import RunContext
from tasks.settings import Settings

_TRIES = 1
"""Prefect would otherwise wait for minutes for a server that is down, before the results are committed."""
_later: list[dict[str, str]] = []
"""The artifacts that this run could not show yet."""


def show_plan(context: RunContext, settings: Settings) -> plan.Plan | None:
    """Show the artifact `plan`: which stages will run and why, how many images are new, how long it will take.

    Then check that the disk has room for it.

    Returns:
        The plan; None if it could not be made.

    Raises:
        SourceError: the listing shows that the source is not usable.
        DataError: the listing shows that a class has too few images.
        StorageError: the plan needs more disk space than is free.
    """
    made: list[plan.Plan] = []

    def make() -> str:
        begun = context.head_start
        made.append(plan.run(settings, context.workspace) if begun is None else begun.plan)
        return made[0].text

    _show("plan", "The plan of this run, made before it began.", make, fatal=(SourceError, DataError))
    for one in made:
        check_disk(one.steps, context.workspace, settings.run.kept_runs)
    return made[0] if made else None


def show_report(context: RunContext) -> None:
    """Show the artifact `report`: metrics, the confusion matrix, the worst mistakes as images."""
    _show("report", "How good the champion is.", lambda: report.run(context.workspace))


def show_metrics(context: RunContext) -> None:
    """Show the artifact `metrics`: the accuracy of each strategy."""
    _show("metrics", "How good each strategy is.", lambda: strategy_table(read_json(context.workspace.metrics)))


def show_gate(text: str) -> None:
    """Show the artifact `gate`: the verdict about the model of this run, and what came of it."""
    _show("gate", "Whether the model may go into production.", lambda: text)


def show_registry(table: str) -> None:
    """Show the artifact `registry`: all versions of the model."""
    _show("registry", "The versions of the model.", lambda: table)


@contextlib.contextmanager
def show_costs(context: RunContext) -> Iterator[None]:
    """Show the artifact `costs` of the stages that ran in the block, even if the block ends with an error."""
    begun = context.head_start
    before = len(read_history(context.workspace)) if begun is None else begun.costs_before
    try:
        yield
    finally:
        new = read_history(context.workspace)[before:]
        _show("costs", "What this run cost.", lambda: costs_table(new))


@contextlib.contextmanager
def watch_accuracy(context: RunContext) -> Iterator[None]:
    """Emit the event of `flows.alerts` if the champion after the block is clearly worse than the one before it."""
    begun = context.head_start
    before = read_metrics(context.workspace) if begun is None else begun.metrics_before
    yield
    drop = describe_regression(before, read_metrics(context.workspace))
    if drop:
        get_run_logger().warning("%s", drop)
        resource = {"prefect.resource.id": "rootstock.champion", "prefect.resource.name": "champion"}
        emit_event(ACCURACY_DROPPED, resource, payload={"text": drop})


def show_the_rest() -> None:
    """Show the artifacts for which Prefect's server didn't answer at their time."""
    while _later:
        artifact = _later.pop(0)
        with _told(artifact["key"]):
            create_markdown_artifact(**artifact)


def _show(key: str, description: str, make: Callable[[], str], fatal: tuple[type[RootstockError], ...] = ()) -> None:
    with _told(key, fatal):
        artifact = {"markdown": make(), "key": key, "description": description}
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: _TRIES}):
                create_markdown_artifact(**artifact)
        except SERVER_TROUBLE:
            _later.append(artifact)


@contextlib.contextmanager
def _told(key: str, fatal: tuple[type[RootstockError], ...] = ()) -> Iterator[None]:
    try:
        yield
    except fatal:
        raise
    except Exception as error:  # noqa: BLE001 - no other error may end the run
        get_run_logger().warning("The artifact %s could not be made: %s: %s", key, type(error).__name__, error)
