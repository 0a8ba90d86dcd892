"""Machines that take turns: clones of one project that share git's remote and DVC's, and their nights.

A night is a real run in a real process (tests/tasks/runs/nights.py), with small stages: `ingest` keeps the images that
it has read, `prepare` keeps the splits that it has drawn by `tasks.images.splits`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tasks.runs.claims import claimed
from tests.conftest import PARAMS, PROJECT
from tests.tasks.runs.repository import commit, git, init_dvc, warm_server

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
from collections import Counter
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
    texts = {path.name: path.read_text() for path in sorted(raw.iterdir())}
    related = {text for text, images in Counter(texts.values()).items() if images > 1}
    images = [ImageToSplit(name, near_duplicates=text if text in related else None) for name, text in texts.items()]
    prepared.parent.mkdir(parents=True, exist_ok=True)
    prepared.write_text(json.dumps(assign(images, memory, Rules(0.3, 0.3, 0)).memory, indent=0, sort_keys=True))

def train():
    Path('out/model').write_text('trained on ' + prepared.read_text())
    Path('reports').mkdir(exist_ok=True)
    Path('reports/metrics.json').write_text(json.dumps({'images': len(json.loads(prepared.read_text()))}))

globals()[sys.argv[1]]()
"""


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
            more: see `tests.tasks.runs.nights`.
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
        result = warm_server().run("night", request, cwd=self.clone, environment={**os.environ, **variables})
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


class Store:
    """DVC's remote: a folder.

    Attributes:
        url: as DVC's settings name it.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def paths(self) -> set[str]:
        """The files there, relative to the url."""
        return {str(path.relative_to(self.url)) for path in Path(self.url).rglob("*") if path.is_file()}

    def read(self, path: str) -> bytes:
        return (Path(self.url) / path).read_bytes()


class Site:
    """A git remote and a DVC remote, the machines that share them, and the images that all of them see.

    Attributes:
        history: git's remote.
        store: the folder of DVC's remote, if it is one.
        images: the source: a file's name is the image's key, its text the name of its near duplicates.
    """

    def __init__(self, folder: Path, shared: bool = True, remote: Store | None = None) -> None:
        self._folder = folder
        self.history, self.store, self.images = folder / "history.git", folder / "store", folder / "images"
        self._remote = remote or Store(str(self.store))
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
        text = f"[core]\n    remote = store\n['remote \"store\"']\n    url = {self._remote.url}\n    jobs = 1\n"
        (clone / ".dvc" / settings).write_text(text)

    def save(self, state: str) -> None:
        """Keep the present state of all of it under a name."""
        shutil.copytree(self._folder, self._folder.with_suffix(f".{state}"), symlinks=True)

    def restore(self, state: str) -> None:
        """Bring back a state that was kept."""
        shutil.rmtree(self._folder)
        shutil.copytree(self._folder.with_suffix(f".{state}"), self._folder, symlinks=True)

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
        """What DVC's remote holds."""
        return {path: self._remote.read(path) for path in sorted(self._remote.paths())}

    def splits(self, revision: str = BRANCH) -> dict[str, str]:
        """The splits as a commit of the shared history names them, from DVC's remote."""
        (digest,) = (digest for path, digest in self._files(revision) if path == "out/prepared/splits.json")
        splits: dict[str, str] = json.loads(self._remote.read(_object(digest)))
        return splits

    def lacking(self, revision: str) -> set[str]:
        """The objects that a commit of the shared history needs and DVC's remote doesn't hold."""
        return {_object(digest) for _, digest in self._files(revision)} - self._remote.paths()

    def _files(self, revision: str) -> Iterator[tuple[str, str]]:
        """Path and MD5 of each output of a commit and of each file in it."""
        lock = yaml.safe_load(git(self.history, "show", f"{revision}:dvc.lock"))
        for out in (out for stage in lock["stages"].values() for out in stage["outs"]):
            yield out["path"], out["md5"]
            if out["md5"].endswith(".dir"):
                for file in json.loads(self._remote.read(_object(out["md5"]))):
                    yield f"{out['path']}/{file['relpath']}", file["md5"]


def _object(digest: str) -> str:
    return f"files/md5/{digest[:2]}/{digest[2:]}"
