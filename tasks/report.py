"""Program `report`: prints a short report in Markdown with images in it. `python -m tasks.report > report.md`"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.errors import IntegrityError
from tasks.files import read_json
from tasks.images.shards import open_shards
from tasks.program import run_program
from tasks.reports.markdown_report import render_markdown
from tasks.runs.dvc_state.outputs import fetch_output
from tasks.workspace import DATA_PAGE, EVALUATION, EXPORT, MAP_PAGE, METRICS, REPORT_PAGE, Workspace

FILES = {
    "Report": REPORT_PAGE,
    "Map of the images": MAP_PAGE,
    "Data report": DATA_PAGE,
    "Metrics": METRICS,
    "Model": EXPORT,
}


def run(workspace: Workspace, links: Mapping[str, str] | None = None) -> str:
    """The report of the last evaluation, in Markdown.

    Args:
        workspace: folder with `reports/evaluation.json`, or with a dvc.lock that lists it, and `data/prepared` for the
            images.
        links: links at the end, name -> address.

    Raises:
        IntegrityError: no evaluation is in the workspace.
    """
    evaluation = _read_evaluation(workspace)
    keys = [mistake["key"] for mistake in evaluation["mistakes"]]
    shards = workspace.shards
    images = list(open_shards(shards).read(keys)) if keys and shards.is_dir() else []
    return render_markdown(evaluation, images, {**FILES, **(links or {})})


def _read_evaluation(workspace: Workspace) -> Any:
    file = workspace.evaluation
    if file.exists():
        return read_json(file)
    with workspace.temporary_folder() as temporary:  # a deployed run's folder lacks outputs of unchanged stages
        if fetch_output(workspace, EVALUATION, temporary):
            return read_json(temporary / file.name)
    raise IntegrityError(f"There is no {EVALUATION}. Make it: dvc repro evaluate")


def main() -> int:
    return run_program(lambda: print(run(Workspace.at(Path.cwd()))))


if __name__ == "__main__":
    raise SystemExit(main())
