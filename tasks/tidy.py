"""Program `tidy`: deletes from the clone what nothing needs any more, above all old versions in DVC's cache.

Usage: python -m tasks.tidy [--dry 1] [--remote 1]. With `--dry 1` it only says what it would delete; with `--remote 1`
it also deletes on DVC's remote.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path

from tasks.params import load_settings
from tasks.program import run_program
from tasks.runs.tidying import describe_freed, tidy, tidy_remote, tidying
from tasks.settings import Settings
from tasks.workspace import Workspace

_WARNING = (
    "On DVC's remote everything goes that no branch and no tag here or on git's remotes needs. What other clones have "
    "not pushed isn't known here: no other clone may run now."
)


def run(settings: Settings, workspace: Workspace, *, dry: bool = False, remote: bool = False) -> str:
    """Tidy the clone of a workspace, after the runs that are active now. Returns what happened, in words.

    Raises:
        RunError: it isn't known what is needed; nothing is deleted then.
    """
    kept_runs, say = settings.run.kept_runs, print
    with contextlib.ExitStack() as stack:
        if not dry:
            stack.enter_context(tidying(workspace, lambda holder: say(f"Waits for the end of {holder}.", flush=True)))
        done = tidy(workspace, kept_runs, dry=dry)
        told = [f"{'Would free' if dry else 'Freed'} {describe_freed(done)}.", f"Kept: {done.kept}."]
        if remote:
            say(_WARNING, flush=True)
            count = tidy_remote(workspace, kept_runs, dry=dry)
            told.append(f"{'Would delete' if dry else 'Deleted'} {count:,} files on DVC's remote.")
    return "\n".join(told)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tasks.tidy", description="Delete what nothing needs any more.")
    parser.add_argument("--dry", choices=("0", "1"), default="0", help="1: only say what would be deleted")
    parser.add_argument("--remote", choices=("0", "1"), default="0", help="1: also delete on DVC's remote")
    chosen = parser.parse_args(arguments)

    def body() -> None:
        workspace = Workspace.at(Path.cwd())
        settings = load_settings(workspace.folder)
        print(run(settings, workspace, dry=chosen.dry == "1", remote=chosen.remote == "1"), flush=True)

    return run_program(body)


if __name__ == "__main__":
    raise SystemExit(main())
