"""Claims: what only one process may do at a time, such as work in a folder.

A claim is a lock on a file. The kernel releases it however the process ends. A frozen process keeps its claim, so that
it can't harm the next one. The file stays: it holds the title of the last holder, for those who wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from tasks.workspace import Workspace


@contextlib.contextmanager
def claimed(
    path: Path, title: str, *, shared: bool = False, on_wait: Callable[[str], None] | None = None
) -> Iterator[bool]:
    """Hold a claim during the block, if no other process holds it.

    Args:
        path: the file of the claim; it is made if it is missing.
        title: says for other processes what the holder does.
        shared: other shared claims may be held at the same time.
        on_wait: called once with the holder's title if the claim isn't free; then this function waits for it. Without
            it, this function doesn't wait.

    Yields:
        Whether the claim is held; always True with `on_wait`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is None:
                yield False
                return
            file.seek(0)
            on_wait(file.read())
            fcntl.flock(file, kind)
        file.truncate(0)
        file.write(title)
        file.flush()
        yield True


@contextlib.contextmanager
def claim_person_folder(workspace: Workspace, command: str) -> Iterator[None]:
    """Let nobody else change params.yaml and the outputs in a person's folder during the block.

    If another command does so, say which one, and wait for its end.

    Args:
        workspace: the folder.
        command: as the person typed it, for others who then have to wait.
    """
    title = f"{command}, since {datetime.now().astimezone():%Y-%m-%d %H:%M:%S} (process {os.getpid()})"
    with claimed(workspace.run_claim, title, on_wait=tell):
        yield


def tell(holder: str) -> None:
    """Say whom this process waits for."""
    who = holder or "Another command"
    print(f"{who}, works in this folder. This command begins when it has ended; Ctrl-C stops this one.", flush=True)
