"""The pipeline as a command. It reports wrong settings at once, and prints where the report and the model are.

For example: python -m flows.pipeline --source my/images --strategy all --set "train.recipe=tutorial"
The flow itself is in flows/pipeline_flow.py. It is imported only if the settings are right and something is to do,
because importing Prefect takes seconds.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from flows.login import with_login
from flows.logs import hide_links
from flows.quick_imports import quick_imports
from flows.server import Server, check_access, prefect_environment, temporary_server
from flows.typed_settings import TypedSettings
from tasks.errors import IntegrityError, RootstockError
from tasks.live_line import LiveLine
from tasks.params import load_settings
from tasks.runs.accuracy_regression import describe_accuracy, read_metrics
from tasks.runs.claims import claim_person_folder
from tasks.runs.costs import costs_table, read_history
from tasks.runs.run_context import RunContext
from tasks.runs.supervisor import warm_dvc
from tasks.runs.warm_dvc import WarmDvc
from tasks.workspace import EXPORT, METRICS, REPORT_PAGE, Workspace

if TYPE_CHECKING:
    from tasks.head_start import HeadStart
    from tasks.plan import Plan

_READABLE_LOGS = {
    # The lines of the stages, without the words `Task run` before each.
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s  %(task_run_name)s: %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s  %(flow_name)s: %(message)s",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pipeline in the current folder. Returns the exit code; docs/reference/errors.md lists them."""
    signal.signal(signal.SIGTERM, _stop)
    chosen = _parse(arguments)
    workspace = Workspace.at(Path.cwd())
    try:
        typed = TypedSettings(chosen.source, chosen.strategy, chosen.settings, chosen.reset == "1")
        typed.check()  # what can't be understood is told before this command waits for another one
        # What the stages import is imported while this process plans.
        with claim_person_folder(workspace, typed.command()), warm_dvc(workspace) as warm:
            plan, nothing_to_do = _plan(typed, workspace)
            if nothing_to_do:
                print("Nothing to do: the source, the settings and the code are as they were in the last run.")
            else:
                before = len(read_history(workspace))
                _run(typed, workspace, plan, warm)
                print(f"\n{costs_table(read_history(workspace)[before:])}")
            _tell(workspace)
    except RootstockError as error:
        print(f"\n{_public_name(error)}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nStopped. Finished work is kept; the same command continues from there.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description="Images in, a tested model out.")
    parser.add_argument(
        "--source", default="", help="a folder, archive, table, s3://..., tfds:name, digits, digits:all"
    )
    parser.add_argument("--strategy", default="", help="a name, several with commas, or all")
    parser.add_argument("--set", default="", dest="settings", help='such as "train.recipe=tutorial train.seed=1"')
    parser.add_argument("--reset", choices=("0", "1"), default="0", help="1: restore the committed params.yaml first")
    return parser.parse_args(arguments)


def _plan(typed: TypedSettings, workspace: Workspace) -> tuple[Plan | None, bool]:
    """Write the settings and plan the run. Returns the plan, and whether nothing is to do.

    The flow checks the settings again; here no Prefect is needed.
    """
    from tasks.plan import Listed, is_nothing_to_do, run_if_possible  # not for --help and wrong settings

    found: list[Listed] = []
    if said := typed.apply(RunContext(workspace), found.append):
        print(said, flush=True)
    plan = run_if_possible(found[0], workspace)
    return plan, plan is not None and is_nothing_to_do(plan, workspace)


def _run(typed: TypedSettings, workspace: Workspace, plan: Plan | None, warm: WarmDvc | None) -> None:
    """Run the flow. The stages begin while Prefect is imported and its server starts."""
    os.environ.update({**_READABLE_LOGS, **prefect_environment(workspace, os.environ)})
    with contextlib.ExitStack() as stack:
        server = _choose_server(workspace)
        head_start = None if plan is None else _begin_work(plan, workspace, warm, stack)
        print("Prefect is starting ...", flush=True)
        with quick_imports(), LiveLine("Prefect is starting"):
            from flows.pipeline_flow import pipeline
            from flows.this_run import prepared

            if server is not None:
                _settle_on(server, stack)
        prepared.set(RunContext(workspace, head_start=head_start, warm=warm))
        pipeline(**typed.decided(load_settings(workspace.folder)))


def _choose_server(workspace: Workspace) -> Server | None:
    """Start a Prefect server for this run; None if the user has one."""
    if os.environ.get("PREFECT_API_URL"):
        os.environ.update(with_login(workspace, os.environ))
        check_access(os.environ)
        return None
    # The server has to outlive the flow: Prefect sends its last logs and events in exit handlers. Those are registered
    # after this one, so they are called before it.
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    server = stack.enter_context(temporary_server(workspace))
    os.environ.update(server.client)
    return server


def _settle_on(server: Server, stack: contextlib.ExitStack) -> None:
    """Set Prefect up for a temporary server, and wait until the server answers."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    # Nobody watches this server for runs that are lost, and a flow waits at its end until its heart has stopped.
    stack.enter_context(temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}))
    hide_links()
    server.wait_until_ready()


def _begin_work(plan: Plan, workspace: Workspace, warm: WarmDvc | None, stack: contextlib.ExitStack) -> HeadStart:
    """Begin with the stages, if the disk has room for all of them. They end with the stack.

    Raises:
        StorageError: the plan needs more disk space than is free.
    """
    from tasks.head_start import HeadStart, stages_in_order
    from tasks.runs.disk_budget import check_disk
    from tasks.runs.tidying import keep_untidied_here

    settings = load_settings(workspace.folder)
    check_disk(plan.steps, workspace, settings.run.kept_runs)
    stack.enter_context(keep_untidied_here(workspace, print))
    limit_s = settings.run.stage_time_limit_s
    return stack.enter_context(HeadStart(stages_in_order(settings), workspace, limit_s, plan, warm))


def _tell(workspace: Workspace) -> None:
    """Print the champion and where the results are.

    Raises:
        IntegrityError: reports/metrics.json, which is in git, is missing or torn.
    """
    metrics = read_metrics(workspace)
    if metrics is None:
        raise IntegrityError(
            f"{METRICS} is missing or damaged, though no stage had to run. Write it again: "
            "dvc repro --force --single-item evaluate. Or take it from git, if it is committed there: git checkout "
            f"{METRICS}"
        )
    champion = metrics["champion"]
    accuracy = describe_accuracy(metrics["strategies"][champion]["test"])
    print(
        f"\nChampion: {champion}, test accuracy {accuracy}\n"
        f"Report:   {REPORT_PAGE}\nMetrics:  {METRICS}\nModel:    {EXPORT}"
    )


def _public_name(error: RootstockError) -> str:
    """The name of the error's class in tasks/errors.py, which explains it."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == RootstockError.__module__)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    """Exit through `finally` blocks and exit handlers, which stop the children."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
