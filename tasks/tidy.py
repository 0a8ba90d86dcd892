"""Program `tidy`: deletes from the clone what nothing needs any more, above all old versions in DVC's cache.

Usage: python -m tasks.tidy [--dry 1]. With `--dry 1` it only says what it would delete.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tasks.params import load_settings
from tasks.program import run_program
from tasks.runs.tidying import describe_freed, tidy, tidying
from tasks.settings import Settings
from tasks.workspace import Workspace


def run(settings: Settings, workspace: Workspace, *, dry: bool = False) -> str:
    """Tidy the clone of a workspace, after the runs that are active now. Returns what happened, in words.

    Raises:
        RunError: it isn't known what is needed; nothing is deleted then.
    """
    if dry:
        done = tidy(workspace, settings.run.kept_runs, dry=True)
        return f"Would free {describe_freed(done)}.\nKept: {done.kept}."
    with tidying(workspace, lambda holder: print(f"Waits for the end of {holder}.", flush=True)):
        done = tidy(workspace, settings.run.kept_runs)
    return f"Freed {describe_freed(done)}.\nKept: {done.kept}."


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tasks.tidy", description="Delete what nothing needs any more.")
    parser.add_argument("--dry", choices=("0", "1"), default="0", help="1: only say what would be deleted")
    is_dry = parser.parse_args(arguments).dry == "1"

    def body() -> None:
        workspace = Workspace.at(Path.cwd())
        print(run(load_settings(workspace.folder), workspace, dry=is_dry), flush=True)

    return run_program(body)


if __name__ == "__main__":
    raise SystemExit(main())
