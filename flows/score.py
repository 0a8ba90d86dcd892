"""The flow that scores a source: `tasks.score` as a child process, with its progress and its counts in Prefect's UI.

The code is that of the deployed commit, the model the one in production; the source and the folder of the rows are
named as in the worker's clone, whose settings hold, too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.logs import shorten_errors
from flows.start import CLONE_VARIABLE
from tasks.errors import TRANSIENT_ERROR, RunError, TransientError
from tasks.files import read_json
from tasks.markdown_tables import markdown_table
from tasks.params import load_settings
from tasks.production import PRODUCTION
from tasks.progress_artifacts import ProgressArtifacts
from tasks.runs.run_context import RunContext
from tasks.runs.supervisor import child_environment, supervise
from tasks.score import SUMMARY
from tasks.stages import log, outlast
from tasks.workspace import Workspace

KEY = "scores"


@flow
def score(
    source: str,
    out: str,
    model: str = PRODUCTION,
    form: Literal["parquet", "jsonl", "csv"] = "parquet",
    keep_features: bool = False,
) -> None:
    """Score all images of a source: one row for each image.

    Args:
        source: a folder, archive, table, s3://bucket/prefix or tfds:name; labels aren't needed.
        out: folder for the rows; rows that are there and still hold aren't computed again.
        model: folder of an exported model, or `production`.
        form: of the files.
        keep_features: keep 2 KB an image, for drift; only with parquet.
    """
    shorten_errors()
    clone = Workspace.at(Path(os.environ.get(CLONE_VARIABLE, ".")))
    arguments = [
        "--model",
        model,
        "--format",
        form,
        "--out",
        out,
        *(["--keep-features"] if keep_features else []),
        source,
    ]
    score_source(clone, arguments)
    summary = read_json(clone.folder / out / SUMMARY)
    create_markdown_artifact(describe_scores(summary, out), key=KEY, description="What the last scoring found.")


@task(name="score", cache_policy=NO_CACHE, persist_result=False)
def score_source(clone: Workspace, arguments: list[str]) -> None:
    """Run the program; when the source doesn't answer, wait and go on, as long as `run.outage_limit_s` allows."""
    settings, progress = load_settings(clone.folder).run, ProgressArtifacts("score")
    act = partial(run_score, clone, arguments, settings.stage_time_limit_s, log, progress.show)
    outlast(act, RunContext(clone), settings)
    progress.finish()
    get_run_logger().info("All rows are written.")


def run_score(
    clone: Workspace,
    arguments: list[str],
    limit_s: float,
    on_line: Callable[[str], None],
    on_progress: Callable[[dict[str, Any]], None],
) -> None:
    """Run `tasks.score` of this code in a clone.

    Raises:
        TransientError: the source doesn't answer.
        RunError: it failed otherwise, or took too long; the message is what it said last.
    """
    said: list[str] = []

    def note(line: str) -> None:
        said[:] = [*said[-4:], line]
        on_line(line)

    environment = {**child_environment(os.environ), "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-P", "-m", "tasks.score", *arguments]  # -P: the code isn't the clone's
    ending = supervise(command, clone.folder, environment, note, on_progress, limit_s=limit_s)
    if ending.reason == "exit" and ending.code == 0:
        return
    if ending.code == TRANSIENT_ERROR:
        raise TransientError("\n".join(said))
    how = f"it was stopped at its time limit of {limit_s:g} s" if ending.reason == "limit" else f"code {ending.code}"
    raise RunError(f"Scoring ended too early ({how}). Finished parts are kept. It said last:\n" + "\n".join(said))


def describe_scores(summary: dict[str, Any], out: str) -> str:
    """The counts of `scores.json` as Markdown."""
    counts = [[name, f"{summary[name]:,}"] for name in ("rows", "unsure", "foreign")]
    labels = [[f"label {name}", f"{count:,}"] for name, count in sorted(summary["labels"].items())]
    errors = [[f"error {name}", f"{count:,}"] for name, count in sorted(summary["errors"].items())]
    return f"Rows in `{out}`, model `{summary['model'][:12]}`\n\n" + markdown_table(
        ["", "images"], [*counts, *labels, *errors]
    )
