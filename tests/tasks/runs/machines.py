"""Machines that take turns: clones of one project that share git's remote and DVC's, and their nights.

A night is a real run in a real process, with small stages: `ingest` keeps the images that it has read, `prepare` keeps
the splits that it has drawn by `tasks.images.splits`. The process is forked from one that has imported DVC. It can be
killed at any of the system calls between its last stage and its end.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import dvc.cli
import yaml

from tasks.errors import RootstockError, TransientError
from tasks.runs import supervisor
from tasks.runs.claims import claimed
from tasks.runs.dvc_state.changes import is_up_to_date
from tasks.runs.guarded_process import Ending
from tasks.runs.run_context import DeployedRun
from tasks.runs.supervisor import run_dvc
from tasks.runs.transfers import fetch_inputs
from tasks.runs.worktrees import run_folder
from tests.conftest import PARAMS, PROJECT
from tests.tasks.fork_server import ForkServer
from tests.tasks.runs.repository import commit, git, init_dvc

STAGES = ("ingest", "prepare", "train")
BRANCH = "runs/nightly"
_DVC_YAML = """
stages:
  ingest:
    cmd: python stage.py ingest
    deps: [stage.py]
    always_changed: true
    outs: [out/raw: {persist: true}]
  prepare:
    cmd: python stage.py prepare
    deps: [stage.py, out/raw]
    params: [prepare.split_seed]
    outs: [out/prepared: {persist: true}]
  train:
    cmd: python stage.py train
    deps: [stage.py, out/prepared]
    outs: [out/model]
"""
_STAGE = """
import json, os, sys
from pathlib import Path

raw, prepared = Path('out/raw'), Path('out/prepared/splits.json')

def ingest():
    raw.mkdir(parents=True, exist_ok=True)
    for image in Path(os.environ['IMAGES']).iterdir():
        if not (raw / image.name).exists():
            with open(os.environ['READ'], 'a') as read:
                read.write(image.name + ' ')
            (raw / image.name).write_text(image.read_text())

def prepare():
    from tasks.images.splits import ImageToSplit, Rules, assign
    memory = json.loads(prepared.read_text()) if prepared.exists() else {}
    images = [ImageToSplit(path.name, near_duplicates=path.read_text()) for path in sorted(raw.iterdir())]
    prepared.parent.mkdir(parents=True, exist_ok=True)
    prepared.write_text(json.dumps(assign(images, memory, Rules(0.3, 0.3, 0)).memory, indent=0, sort_keys=True))

def train():
    Path('out/model').write_text('trained on ' + prepared.read_text())
    Path('reports').mkdir(exist_ok=True)
    Path('reports/metrics.json').write_text(json.dumps({'images': len(json.loads(prepared.read_text()))}))

globals()[sys.argv[1]]()
"""
_IMPORTED = (
    *("dvc.cachemgr", "dvc.cli.parser", "dvc.data_cloud", "dvc.fs", "dvc.repo", "dvc.scm", "dvc_data.index", "dvc_s3"),
    *("dvc.commands.checkout", "dvc.commands.data_sync", "dvc.commands.repro", "dvc.stage.serialize", "dvc_render"),
    *("dulwich.ignore", "flufl.lock", "pyparsing", "ruamel.yaml", "scmrepo.git", "zc.lockfile"),
)


class Machine:
    """A clone of the project on a machine of its own.

    Attributes:
        clone: its folder.
        said: what its last night said.
    """

    def __init__(self, clone: Path, images: Path) -> None:
        self.clone, self._images = clone, images
        self.said = ""

    def plan(self, title: str, stages: Sequence[str] = STAGES, **more: Any) -> dict[str, Any]:
        return {"clone": str(self.clone), "title": title, "stages": stages, **more}

    def night(self, title: str, stages: Sequence[str] = STAGES, **more: Any) -> int:
        """Run a night; gives its exit code: 2 if it was refused, 75 if a remote didn't answer, -9 if it was killed.

        Args:
            title: of the run.
            stages: that it runs, if they have to run.
            more: see `_night`.
        """
        request = json.dumps(self.plan(title, stages, **more))
        read = str(self.clone.with_suffix(".read"))
        caches = str(self.clone.with_suffix(".dvc"))  # of DVC: what it knows about the remote
        variables = {
            "DVC_SITE_CACHE_DIR": caches,
            "IMAGES": str(self._images),
            "READ": read,
            "PYTHONPATH": str(PROJECT),
        }
        result = _server().run(request, cwd=self.clone, environment={**os.environ, **variables})
        self.said = result.stdout + result.stderr
        claim = self.clone / ".rootstock/runs/nightly.claim"
        with claimed(claim, "test", on_wait=str):  # all processes of a night that was killed are gone
            pass
        return result.returncode

    def read(self) -> list[str]:
        """The images that it has read since the last call."""
        record = self.clone.with_suffix(".read")
        images = record.read_text().split() if record.exists() else []
        record.unlink(missing_ok=True)
        return sorted(images)

    def git(self, *arguments: str) -> str:
        return git(self.clone, *arguments)


class Site:
    """A git remote and a DVC remote, the machines that share them, and the images that all of them see.

    Attributes:
        history: git's remote.
        store: DVC's remote.
        images: the source: a file's name is the image's key, its text the name of its near duplicates.
    """

    def __init__(self, folder: Path, shared: bool = True) -> None:
        self._folder = folder
        self.history, self.store, self.images = folder / "history.git", folder / "store", folder / "images"
        self.images.mkdir(parents=True)
        project = folder / "project"
        project.mkdir()
        git(project, "init", "-q", "-b", "main")
        init_dvc(project)
        if shared:
            self.share(project)
        impatient = re.sub(r"(outage_limit_s: )\d+", r"\g<1>1", PARAMS.read_text())
        for name, text in {
            "params.yaml": impatient,
            "dvc.yaml": _DVC_YAML,
            "stage.py": _STAGE,
            ".gitignore": "out\n.rootstock\n",
        }.items():
            (project / name).write_text(text)
        commit(project, "The project")
        git(folder, "clone", "-q", "--bare", str(project), str(self.history))

    def share(self, clone: Path, settings: str = "config") -> None:
        """Make the store DVC's default remote, in a file of DVC's settings."""
        text = f"[core]\n    remote = store\n['remote \"store\"']\n    url = {self.store}\n    jobs = 1\n"
        (clone / ".dvc" / settings).write_text(text)

    def save(self) -> None:
        """Keep the present state of all of it."""
        shutil.copytree(self._folder, self._folder.with_suffix(".saved"), symlinks=True)

    def restore(self) -> None:
        """Bring back the state that was kept."""
        shutil.rmtree(self._folder)
        shutil.copytree(self._folder.with_suffix(".saved"), self._folder, symlinks=True)

    def machine(self, name: str) -> Machine:
        """A new machine."""
        clone = self._folder / name
        git(self._folder, "clone", "-q", str(self.history), str(clone))
        return Machine(clone, self.images)

    def add_image(self, key: str, like: str = "") -> None:
        (self.images / key).write_text(like or key)

    def titles(self) -> list[str]:
        """Of the runs in the shared history, the first one first; also checks that it is one line."""
        log = ("log", "--reverse", "--format=%s", "--grep=^Run nightly")
        titles = git(self.history, *log, "--first-parent", BRANCH).splitlines()
        assert sorted(git(self.history, *log, "--all").splitlines()) == sorted(titles)
        return [title.removeprefix("Run nightly: ") for title in titles]

    def objects(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.store.rglob("*")) if path.is_file()}

    def splits(self, revision: str = BRANCH) -> dict[str, str]:
        """The splits as a commit of the shared history names them, from the store."""
        lock = yaml.safe_load(git(self.history, "show", f"{revision}:dvc.lock"))
        (listing,) = json.loads(self._object(lock["stages"]["prepare"]["outs"][0]["md5"]))
        splits: dict[str, str] = json.loads(self._object(listing["md5"]))
        return splits

    def _object(self, digest: str) -> str:
        return (self.store / "files/md5" / digest[:2] / digest[2:]).read_text()


@cache
def _server() -> ForkServer:
    server = ForkServer(__name__, *_IMPORTED).__enter__()
    atexit.register(server.__exit__)
    return server


def main() -> int:
    """The night that the first argument describes."""
    os.setsid()
    supervisor.supervise = _fork_dvc  # type: ignore[assignment]
    try:
        _night(**json.loads(sys.argv[1]))
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
            sys.addaudithook(_Points(Path(clone).parent, kill_at, Path(points)))


class _Points:
    """Counts the system calls of this process and its forks that change what others see; kills all of them at one.

    A command of git is one call: git itself is made to be killed at any point.
    """

    def __init__(self, site: Path, kill_at: int, trace: Path) -> None:
        self._site, self._kill_at = site, kill_at
        self._trace = os.open(trace, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC)  # forks share it

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if point := self._name(event, arguments):
            os.write(self._trace, f"{point}\n".encode())
            if os.pread(self._trace, 1_000_000, 0).count(b"\n") == self._kill_at:
                os.killpg(0, signal.SIGKILL)

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
        code = 1
        try:
            code = act() or 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _fork_dvc(
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
            return dvc.cli.main(list(command[3:]))

        code = _in_child(work)
        output.seek(0)
        for line in output.read().splitlines():
            on_line(line)
    return Ending("exit", code)
