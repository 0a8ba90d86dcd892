"""The program of nights in tests, and DVC's own. The fork server of tests/tasks/runs/repository.py keeps it warm.

python -m tests.tasks.runs.nights night JSON
python -m tests.tasks.runs.nights ARGUMENTS OF DVC

A night is a real run in a process of its own. It can be killed at any of the system calls between its last stage and
its end.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import dvc.cli
from dvc.cli.parser import get_main_parser

from tasks.errors import RootstockError, TransientError
from tasks.runs import supervisor
from tasks.runs.dvc_state.changes import is_up_to_date
from tasks.runs.guarded_process import Ending
from tasks.runs.run_context import DeployedRun
from tasks.runs.supervisor import run_dvc
from tasks.runs.transfers import fetch_inputs
from tasks.runs.worktrees import run_folder
from tests.tasks.runs.repository import git

_IMPORTED = (
    *("configobj", "dulwich.ignore", "dulwich.index", "dulwich.trailers", "dulwich.worktree", "dvc.cachemgr"),
    *("dvc.commands.checkout", "dvc.commands.data_sync", "dvc.commands.repro", "dvc.data_cloud", "dvc.dirs"),
    *("dvc.fs", "dvc.lock", "dvc.repo.artifacts", "dvc.repo.brancher", "dvc.repo.datasets", "dvc.repo.experiments"),
    *("dvc.repo.graph", "dvc.repo.index", "dvc.repo.metrics", "dvc.repo.open_repo", "dvc.repo.params"),
    *("dvc.repo.plots", "dvc.repo.stage", "dvc.repo.trie", "dvc.repo.worktree", "dvc.rwlock", "dvc.scm"),
    *("dvc.stage.serialize", "dvc.utils.strictyaml", "dvc_data.hashfile._progress", "dvc_data.hashfile.db.index"),
    *("dvc_data.hashfile.db.local", "dvc_data.hashfile.status", "dvc_data.index.checkout", "dvc_data.index.collect"),
    *("dvc_data.index.fetch", "dvc_data.index.push", "dvc_render", "dvc_s3", "flufl.lock"),
    *("fsspec.implementations.memory", "networkx", "platformdirs", "pygit2", "pyparsing", "rich.console"),
    *("ruamel.yaml.mergevalue", "scmrepo.fs", "scmrepo.git.backend.pygit2.filter", "zc.lockfile"),
)
"""What commands of DVC import only when they need it."""


def warm_up() -> None:
    """Do once what every command of DVC does first."""
    for name in _IMPORTED:
        importlib.import_module(name)
    get_main_parser()


def main() -> None:
    code = _run_night(json.loads(sys.argv[2])) if sys.argv[1] == "night" else dvc.cli.main(sys.argv[1:])
    _end(code)


def _run_night(plan: dict[str, Any]) -> int:
    os.setsid()
    supervisor.supervise = fork_dvc  # type: ignore[assignment]
    try:
        _night(**plan)
    except RootstockError as error:
        print(f"{type(error).__name__}: {error}")
        return 75 if isinstance(error, TransientError) else 2
    return 0


def _night(
    clone: str,
    title: str,
    stages: Sequence[str],
    kill_at: int = 0,
    kill_after: str = "",
    points: str = "",
    copy_at: str = "",
    meanwhile: Mapping[str, Any] | None = None,
    unchanged: bool = False,
    answers_later: str = "version",
) -> None:
    """A run of the deployment `nightly`.

    Args:
        clone: the clone.
        title: of the run.
        stages: that it runs.
        kill_at: the number of the system call, counted from the end of the last stage, before which it is killed.
        kill_after: the stage after which it is killed.
        points: the file that lists those system calls.
        copy_at: a pattern of system calls. Before each that matches, all files of the site are copied: what a kill
            there would leave. The copies' names end in the number of the call.
        meanwhile: another night, which begins and ends between this one's last stage and its end.
        answers_later: the command of git that ends an outage.
        unchanged: the source is known to be unchanged, so that no stage runs if none has to, as in the flow.
    """
    run = DeployedRun(Path(clone), "nightly", git(Path(clone), "rev-parse", "HEAD"), title, print)
    with run_folder(run) as context:
        folder = context.workspace.folder
        with contextlib.chdir(folder):
            for stage in () if unchanged and is_up_to_date(context.workspace) else stages:
                if fetch_inputs(stage, context.workspace, limit_s=600, on_line=print):
                    run_dvc(stage, ["repro", "--single-item", stage], context.workspace, limit_s=600, on_line=print)
                if stage == kill_after:
                    os.killpg(0, signal.SIGKILL)
        context.outages._sleep = lambda _: git(run.clone, *answers_later.split())  # type: ignore[assignment]
        if meanwhile:
            _in_child(lambda: _night(**meanwhile))
        if points:
            sys.addaudithook(_Points(Path(clone).parent, kill_at, copy_at, Path(points)))


class _Points:
    """Counts the system calls of this process and its forks that change what others see, and acts before some of them.

    A command of git is one call: git itself is made to be killed at any point.
    """

    def __init__(self, site: Path, kill_at: int, copy_at: str, trace: Path) -> None:
        self._site, self._kill_at, self._copy_at = site, kill_at, re.compile(copy_at or "$^")
        self._trace = os.open(trace, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC)  # forks share it
        self._copies = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._copies or not (point := self._name(event, arguments)):
            return
        os.write(self._trace, f"{point}\n".encode())
        number = os.pread(self._trace, 1_000_000, 0).count(b"\n")
        if number == self._kill_at:
            os.killpg(0, signal.SIGKILL)
        if self._copy_at.match(point):
            self._copies = True
            shutil.copytree(self._site, self._site.with_suffix(f".{number}"), symlinks=True)
            self._copies = False

    def _name(self, event: str, arguments: tuple[Any, ...]) -> str:
        if event == "subprocess.Popen":
            return " ".join(word for word in arguments[1] if "=" not in word and word != "-c").splitlines()[0]
        if event == "open":
            path, _, flags = arguments
            return f"write {path}" if flags & (os.O_WRONLY | os.O_RDWR) and self._is_site(str(path)) else ""
        if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "shutil.rmtree"):
            path = str(arguments[0])
            return f"{event} {path}" if self._is_site(path) or "/" not in path else ""
        return ""

    def _is_site(self, path: str) -> bool:
        return path.startswith(f"{self._site}/") and not path.startswith(os.environ["DVC_SITE_CACHE_DIR"])


def _in_child(act: Callable[[], Any]) -> int:
    """Do something in a forked process; gives its exit code."""
    child = os.fork()
    if child == 0:
        gc.freeze()  # a collected ONNX session of an earlier test would wait for its threads, which aren't here
        code = 1
        try:
            code = act() or 0
        finally:
            _end(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _end(code: int) -> NoReturn:
    """End a forked process. Python's own end would tidy up all that has been imported, which takes longer than git."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def fork_dvc(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], on_line: Any, *_: Any, **_limits: Any
) -> Ending:
    """As `supervise`, but DVC is forked from this process, and not guarded."""
    with tempfile.TemporaryFile("w+") as output:

        def work() -> int:
            for descriptor in (1, 2):
                os.dup2(output.fileno(), descriptor)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            warnings.simplefilter("ignore")  # DVC's own; they may be errors in the tests' process
            return dvc.cli.main(list(command[3:]))

        code = _in_child(work)
        output.seek(0)
        for line in output.read().splitlines():
            on_line(line)
    return Ending("exit", code)
