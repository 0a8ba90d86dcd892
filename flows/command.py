"""The command line of the pipeline: what is wrong is said at once; the report and the model are named at the end."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from flows.server import prefect_environment, temporary_server
from tasks.errors import RootstockError
from tasks.files import read_json
from tasks.program import MENDABLE
from tasks.settings import change_settings, load_settings, parse_strategies

_READABLE_LOGS = {
    # The lines of the stages, without the words `Task run` before each.
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s  %(task_run_name)s: %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s  %(flow_name)s: %(message)s",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pipeline in the current folder. Gives the exit code: 2 for what the user can mend."""
    signal.signal(signal.SIGTERM, _stop)
    chosen = _parse(arguments)
    workspace = Path.cwd()
    try:
        strategies, settings = _check(chosen, workspace)
        _run(chosen.source, strategies, settings, workspace)
        _tell(workspace)
    except RootstockError as error:
        print(f"\n{_public_name(error)}: {error}", file=sys.stderr)
        return MENDABLE
    except KeyboardInterrupt:
        print("\nStopped. What was finished is kept; the same command goes on from there.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description="Pictures in, a tested model out.")
    parser.add_argument("--source", default="", help="a folder of class folders, or `digits`")
    parser.add_argument("--strategy", default="", help="a name, several with commas, or all")
    parser.add_argument("--set", default="", dest="settings", help='such as "train.recipe=tutorial train.seed=1"')
    return parser.parse_args(arguments)


def _check(chosen: argparse.Namespace, workspace: Path) -> tuple[list[str], list[str]]:
    """Find what is wrong while it costs nothing. Gives the strategies and the assignments."""
    from tasks.pictures.sources import check_source

    load_settings(workspace)
    try:
        settings = shlex.split(chosen.settings)
    except ValueError as error:
        raise RootstockError(f"SET doesn't parse: {error}. Received: {chosen.settings!r}") from None
    strategies = parse_strategies(chosen.strategy) if chosen.strategy else []
    if chosen.source:
        check_source(chosen.source)
    changed = change_settings(workspace, _assignments(chosen.source, strategies, settings))
    if not chosen.source:
        check_source(changed.source.uri)
    return strategies, settings
