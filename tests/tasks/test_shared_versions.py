"""Two clones and an S3 server: a run's commit brings everything back, and production is fetched without a clone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tasks.params import load_settings
from tasks.predict import predict_files
from tasks.registry import promoter
from tasks.runs import supervisor
from tasks.runs.promotions import Promoter
from tasks.runs.run_context import DeployedRun
from tasks.runs.version_folders import version_folder
from tasks.runs.worktrees import run_folder
from tests.conftest import PARAMS
from tests.servers.seaweed import ACCESS_KEY, REGION, SECRET_KEY, Seaweed
from tests.tasks.runs.nights import fork_dvc
from tests.tasks.runs.repository import commit, dvc, git, init_dvc
from tests.tasks.versions import draw, example, examples, write_version

DVC_YAML = """
stages:
  all:
    cmd: cp -r "$(cat version.txt)"/. .
    deps: [version.txt]
    outs: [data/prepared, reports/evaluation.json, reports/predictions.safetensors, models/export]
artifacts:
  champion: {path: models/export, type: model}
"""


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of DVC's remote on a real S3 server; the environment has the credentials."""
    with Seaweed(tmp_path / "seaweed") as server:
        values = (ACCESS_KEY, SECRET_KEY, REGION, server.endpoint)
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL")
        for name, value in zip(names, values, strict=True):
            monkeypatch.setenv(name, value)
        client = server.client()
        yield f"s3://{server.new_bucket(client)}/dvc"
        client.close()


def make_history(folder: Path, url: str) -> Path:
    """git's remote, with a project whose stage copies what a run would make."""
    project = folder / "project"
    project.mkdir()
    git(project, "init", "-q", "-b", "main")
    init_dvc(project)
    dvc(project, "remote", "add", "-q", "--default", "store", url)
    (project / "dvc.yaml").write_text(DVC_YAML)
    (project / ".gitignore").write_text("/data\n/models\n/reports/*\n!/reports/metrics.json\n.rootstock\n")
    shutil.copy(PARAMS, project)
    commit(project, "The project")
    git(folder, "clone", "-q", "--bare", str(project), str(folder / "history.git"))
    return folder / "history.git"


def night(clone: Path, made: Path) -> str:
    """A deployed run in a clone, that ends with these files; gives its commit."""
    (clone / "version.txt").write_text(str(made))
    run = DeployedRun(clone, "nightly", commit(clone, "Other images"), made.name, print)
    with run_folder(run) as context:
        dvc(context.workspace.folder, "repro", "-q")
    return git(clone, "rev-parse", "runs/nightly")


def clone_of(history: Path, name: str) -> Path:
    git(history.parent, "clone", "-q", str(history), name)
    return history.parent / name


def promoter_of(clone: Path) -> Promoter:
    return promoter(clone, git(clone, "rev-parse", "origin/main"), "Ada", load_settings(clone), print)


def answers(model: Path, image: Path) -> dict[str, Any]:
    (row,) = predict_files(model, [image])
    assert "error" not in row
    return row


@pytest.mark.slow
def test_runs_come_back_in_a_fresh_clone_and_production_on_a_machine_without_one(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "supervise", fork_dvc)
    image = tmp_path / "image.png"
    Image.fromarray(draw(5000)).save(image)
    new = [example(2000 + number, "test") for number in range(6)]
    write_version(tmp_path / "v1", examples(48))
    write_version(tmp_path / "v2", [*examples(48), *new], sharpness=0.06)
    expected = [answers(tmp_path / name / "models/export", image) for name in ("v1", "v2")]
    assert expected[0] != expected[1]
    history = make_history(tmp_path, bucket)
    one = clone_of(history, "one")
    first = night(one, tmp_path / "v1")
    assert promoter_of(one).register(first, "night 1").version == "v1.0.0"
    promoter_of(one).promote("v1.0.0", "the first")

    second = night(one, tmp_path / "v2")
    other = clone_of(history, "other")  # a machine that has neither of the two
    git(other, "checkout", "-q", second)
    dvc(other, "pull", "-q")
    for path in ("data/prepared/examples.parquet", "reports/evaluation.json", "reports/metrics.json"):
        assert (other / path).read_bytes() == (tmp_path / "v2" / path).read_bytes()
    assert answers(other / "models/export", image) == expected[1]

    version = promoter_of(other).register(second, "night 2")
    assert version.about["gate"]["passed"], version.about
    assert version.about["gate"]["against"] == "v1.0.0"
    assert "on the same 18 images" in str(version.about["gate"])  # 6 are new: production's model has answered them
    promoter_of(other).promote("v1.1.0", "more images")

    def fetch(name: str) -> dict[str, Any]:
        elsewhere = tmp_path / name
        elsewhere.mkdir()
        dvc(elsewhere, "artifacts", "get", str(history), "champion", "--stage", "production", "-o", "model")
        return answers(elsewhere / "model", image)

    assert fetch("laptop") == expected[1]
    promoter_of(one).roll_back("calls ants bees")
    assert fetch("phone") == expected[0]
    with version_folder(other, first, ("models/export", "reports/report.html"), print) as workspace:
        assert answers(workspace.export, image) == expected[0]
    assert not list((other / ".rootstock/runs").glob("*/*"))
