"""The project of a soak: a clone on a small disk, its two remotes, and the real graph with quick late stages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tasks.params import change_settings, load_settings, parse_changes
from tests.conftest import PARAMS, PROJECT
from tests.flows.project import NIGHTLY
from tests.servers.seaweed import ACCESS_KEY, REGION, SECRET_KEY

LATE = ("features", "train", "evaluate", "export")
STRATEGY = "feature_extraction"
BRANCH = "runs/nightly"
SOURCE_BUCKET = "images"
STORE_BUCKET = "store"
SMALL = ("ingest.pack_size_mb=1", "prepare.shard_size=16", f"source.uri=s3://{SOURCE_BUCKET}/all")
KEPT_RUNS = 8
"""Runs of the branch that keep their data, so that a soak of hours shows whether the disk stays flat."""
_IGNORED = (".rootstock", "__pycache__", ".venv", "data", "models", "reports/*", "!reports/metrics.json")


class SoakProject:
    """A clone in `disk/clone`, pushing to a bare repository and to a bucket.

    Attributes:
        folder: of the clone.
        environment: of everything that runs in it; `ROOTSTOCK_SOAK` marks the soak's processes.
    """

    def __init__(self, disk: Path, elsewhere: Path, endpoint: str) -> None:
        self.folder, self.origin, self.endpoint = disk / "clone", elsewhere / "origin.git", endpoint
        temporary = disk / "tmp"
        temporary.mkdir()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT")},
            "ROOTSTOCK_SOAK": str(disk),
            "TMPDIR": str(temporary),
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": endpoint,
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "OMP_NUM_THREADS": "1",
            **{f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }

    @property
    def notes_of_dvc(self) -> Path:
        """Where DVC notes things about folders for which nobody chose a better place."""
        return self.origin.with_name("notes-of-dvc")

    def make(self) -> None:
        """Write, commit and push the project."""
        of_user = Path(self.environment["DVC_GLOBAL_CONFIG_DIR"])
        of_user.mkdir(parents=True)
        (of_user / "config").write_text(f"[core]\n    site_cache_dir = {self.notes_of_dvc}\n")
        del self.environment["DVC_SITE_CACHE_DIR"]  # it would have the last word
        self.folder.mkdir()
        for name in ("flows", "tasks"):
            shutil.copytree(PROJECT / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for file in (PARAMS, PROJECT / ".dvcignore"):
            shutil.copy(file, self.folder)
        shutil.copy(Path(__file__).with_name("late_stages.py"), self.folder)
        (self.folder / "dvc.yaml").write_text(yaml.safe_dump(late_graph(), sort_keys=False))
        (self.folder / "prefect.yaml").write_text(every_minute((PROJECT / "prefect.yaml").read_text()))
        (self.folder / ".gitignore").write_text("".join(f"{name}\n" for name in _IGNORED))
        kept = (f"run.kept_runs={KEPT_RUNS}",) if hasattr(load_settings(self.folder).run, "kept_runs") else ()
        change_settings(self.folder, parse_changes([*SMALL, *kept]))
        self.git("init", "-q", "-b", "main")
        self.run("-m", "dvc", "init", "-q")
        self.run("-m", "dvc", "remote", "add", "-q", "-d", STORE_BUCKET, f"s3://{STORE_BUCKET}/dvc")
        self.run("-m", "dvc", "remote", "modify", "-q", STORE_BUCKET, "endpointurl", self.endpoint)
        self.git("add", ".")
        self.git("commit", "-q", "-m", "The project")
        self.git("init", "-q", "--bare", str(self.origin))
        self.git("remote", "add", "origin", str(self.origin))
        self.git("push", "-q", "-u", "origin", "main")

    @property
    def of_a_person(self) -> dict[str, str]:
        """The environment of what a person starts: no fault aims at it."""
        return {name: value for name, value in self.environment.items() if name != "ROOTSTOCK_SOAK"}

    def git(self, *arguments: str) -> str:
        command = ["git", *arguments]
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=self.of_a_person, check=True, capture_output=True, text=True, timeout=300
            )
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{' '.join(command)} failed: {error.stderr}") from None
        return done.stdout.removesuffix("\n")

    def run(self, *arguments: str) -> str:
        """Run Python in the clone. Returns what it printed."""
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self.of_a_person, check=False, capture_output=True, text=True, timeout=600
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} failed: {done.stdout}{done.stderr}")
        return done.stdout


def late_graph() -> dict[str, Any]:
    """The project's dvc.yaml, in which the stages after `prepare` run `late_stages.py`."""
    graph: dict[str, Any] = yaml.safe_load((PROJECT / "dvc.yaml").read_text())
    for name in LATE:
        stage = graph["stages"][name]
        words = [name, *(["${item.strategy}"] if "matrix" in stage else [])]
        stage["cmd"] = f"python late_stages.py {' '.join(words)}"
        stage["deps"] = ["late_stages.py", *(one for one in stage["deps"] if not one.startswith("tasks/"))]
    del graph["plots"]
    return graph


def every_minute(deployments: str) -> str:
    """The deployments with a night each minute."""
    assert deployments.count(NIGHTLY) == 1
    return deployments.replace(NIGHTLY, 'cron: "* * * * *"')
