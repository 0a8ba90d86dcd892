"""Every command and code block that README and docs show: it runs here, or the test that runs it is named.

The commands of a page run in its order, in a copy of a stand-in project with images, a small model, DVC's remote and
git's. What needs minutes, a server or another machine is in `ELSEWHERE`. Every `make` command is asked what it would
do, and the settings of every `SET=` are checked.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks.params import change_settings, parse_changes
from tasks.settings import STRATEGIES
from tasks.vgg.exports.model_folder import write_digests
from tests.conftest import PARAMS, PROJECT, changing, fill_source, new_workspace, save_image
from tests.flows.project import Project, copy_project
from tests.tasks.exporting import CLASSES, save_export
from tests.tasks.steps import run_prepare, settings_for

pytestmark = pytest.mark.slow
PAGES = [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if page.name != "CHANGELOG.md"]
BEGIN = (
    r"make|python|\.venv/bin/\w+|dvc|git|mv|rm|mkdir|cp|echo|export|\.|apt-get|docker|curl|openssl|pip|uv|prefect|magick|unzip|"
    r"\.ci/run|[A-Z_]+=\S+ \S.*"
)
"""How commands begin."""
PLACEHOLDERS = {
    "s3://bucket/prefix": "../remote",
    "s3://bucket/new": "new",
    "COMMIT": "HEAD",
    "origin/main": "HEAD",
    "mv images/bees/1075.jpg": "mv images/bees/001.png",
    "python ": f"{sys.executable} ",
    ".venv/bin/python ": f"{sys.executable} ",
}
ELSEWHERE = {
    r"make run|.* make run": "tests/flows/test_make_run.py::test_make_run_ends_well_and_names_what_is_there",
    r"make setup|\. \.venv/bin/activate|PIP_NO_INDEX=1 .* make setup|export PIP_INDEX_URL": (
        "tests/test_makefile.py::test_flavour_chooses_the_lock_that_is_installed"
    ),
    r"git clone REPOSITORY": "tests/test_makefile.py::test_flavour_chooses_the_lock_that_is_installed",
    r"make ui": "tests/flows/test_attacks.py::test_page_of_another_site_starts_no_run",
    r"make worker": "tests/flows/test_deployed.py::test_run_survives_a_server_that_is_killed_and_started_again",
    r"make alerts": "tests/flows/test_alerts.py::test_alerts_are_made_once_however_often_they_are_asked_for",
    r"make doctor": "tests/flows/test_doctor.py::test_healthy_clone_ends_with_zero",
    r"make soak": "tests/soak/test_judging.py::test_report_tells_verdict_and_figures",
    r"make (test|quick|portable)|\.ci/run": "tests/test_makefile.py::test_tests_to_run_can_be_named",
    r"make (reference|docs)": "tests/test_docs.py::test_pages_that_are_made_from_the_code_are_fresh",
    r"make bench|python -m benchmarks": ("tests/test_docs.py::test_programs_that_are_named_exist_and_take_the_options"),
    r"make serve|curl --(data|form)|python -m tasks\.serve": (
        "tests/tasks/serving/test_serve.py::test_serve_answers_as_predict_does"
    ),
    r"curl -d": "tests/tasks/vgg/exports/test_serving.py::test_request_that_the_docs_show_fits_the_only_input",
    r"prefect (deploy|work-pool)": "tests/flows/test_deployed.py::test_half_finished_edits_reach_no_deployed_run",
    r"python -m tasks\.registry (show|diff)": "tests/tasks/test_registry.py::test_diff_shows_two_versions_side_by_side",
    r"python -m tasks\.registry (promote|roll-back)": (
        "tests/tasks/test_registry.py::test_promote_asks_the_gate_and_roll_back_does_not"
    ),
    r"dvc artifacts get": (
        "tests/tasks/test_shared_versions.py::"
        "test_runs_come_back_in_a_fresh_clone_and_production_on_a_machine_without_one"
    ),
    r"(python|\.venv/bin/python) -m tasks\.watch": (
        "tests/tasks/test_watch.py::test_program_says_whether_there_is_an_alarm"
    ),
    r"python -m tasks\.search": "tests/tasks/test_search.py::test_what_is_written_is_what_training_then_takes",
    r"python -m tasks\.find_rate": (
        "tests/tasks/test_find_rate.py::test_finder_writes_a_plot_and_leaves_everything_else_as_it_was"
    ),
    r"python -m tasks\.predict .*--public-key|dvc repro --force --single-item export|export ROOTSTOCK_SIGNING_KEY": (
        "tests/tasks/vgg/exports/test_model_folder.py::test_predict_asks_for_a_signature_if_a_key_is_given"
    ),
    r"pip install model-signing|python -m model_signing": (
        "tests/tasks/vgg/exports/test_model_folder.py::test_signature_is_one_that_model_signing_accepts"
    ),
    r"dvc exp run": "tests/flows/test_pipeline.py::test_command_repro_and_deployment_give_one_lock",
    r"docker compose .*(stop|start|exec|up)|cp server/env": (
        "tests/test_server.py::test_worker_that_logs_in_can_work_postgresql_keeps_it_and_a_backup_restores_it"
    ),
    r"uv pip install 'ray": "tests/tasks/vgg/test_ray_extraction.py::test_extract_on_ray_equals_one_machine",
}
"""A command's beginning -> the test that runs it, or what it starts."""
UNTESTED = {
    r"docker (build|run)": "there is no Docker here; docs/server.md and docs/serving.md say so",
    r"magick": "ImageMagick is no part of this project",
    r"curl -O|unzip": "a download of 47 MB; the commands after it run on files of the same names",
    r"pip download": "it needs an index",
    r"apt-get": ".ci/run calls it where programs are missing",
    r"export (HTTPS_PROXY|PREFECT_API|ROOTSTOCK_ALERT)": "sets variables for what comes later",
}

TUTORIAL = (
    "val/ants/10308379_1b6c72e180.jpg",
    "val/ants/892676922_4ab37dce07.jpg",
    "val/bees/10870992_eebeeb3a12.jpg",
    "val/bees/1032546534_06907fe3b3.jpg",
    "train/ants/0013035.jpg",
    "train/bees/16838648_415acd9e3f.jpg",
)
"""Images that docs/tutorial.md names, or whose folders it needs."""


def commands(page: Path) -> list[str]:
    """The indented lines of a page that are commands, without their comments; a backslash joins the next line."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = re.findall(rf"^ {{4,}}((?:{BEGIN})(?: .*(?:\\\n.*)*)?)$", text, re.MULTILINE)
    return [re.sub(r" +# .*", "", line.replace("\\\n", " ")).strip() for line in lines]


def elsewhere(command: str, table: dict[str, str]) -> str | None:
    return next((test for begin, test in table.items() if re.match(begin, command)), None)


def runs_here(command: str) -> bool:
    return not elsewhere(command, ELSEWHERE) and not elsewhere(command, UNTESTED)


ALL = [(page, command) for page in PAGES for command in commands(page)]
HERE = [page for page in PAGES if any(runs_here(command) for command in commands(page))]


@pytest.fixture(scope="module")
def ready(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """What the pages start from: images, a model, a first run with its results, remotes of git and DVC."""
    folder = tmp_path_factory.mktemp("docs")
    project = copy_project(template, folder / "project")
    here = project.folder
    fill_source(here / "images", classes=("ant", "bee"))
    for old, new in (("ant", "ants"), ("bee", "bees")):
        (here / "images" / old).rename(here / "images" / new)
    for name in ("new/1.jpg", "new/2.jpg", "one.jpg", "two.png", "image.jpg"):
        save_image(here / name, "ant", len(name))
    for name in TUTORIAL:
        save_image(here / "hymenoptera_data" / name, "ant", len(name))
    save_export(here / "models/export")
    (here / "models/export/labels.txt").write_text("\n".join(CLASSES))
    write_digests(here / "models/export")
    work = new_workspace(folder)
    run_prepare(settings_for(changing(work), here / "images"), work)
    shutil.copytree(work / "data", here / "data")
    for file in (PROJECT / "Makefile", *PROJECT.glob("requirements*.txt")):
        shutil.copy(file, here)
        os.utime(here / file.name, (0, 0))  # older than the environment
    shutil.copytree(PROJECT / "tasks/vgg/strategies", here / "tasks/vgg/strategies", dirs_exist_ok=True)
    (here / ".venv").symlink_to(sys.prefix)
    left = (
        ".venv",
        "images",
        "new",
        "*.jpg",
        "*.png",
        "models",
        "data",
        "scores",
        "hymenoptera_data",
        "*.pem",
        "*.pub",
        "*.jsonl",
    )
    (here / ".git/info/exclude").write_text("\n".join((*left, "requirements*.txt", "Makefile")))
    project.dvc("repro")
    project.git("init", "-q", "--bare", "../origin.git")
    project.git("remote", "add", "origin", "../origin.git")
    project.dvc("remote", "add", "--default", "first", "../remote")
    project.git("add", ".")
    project.git("commit", "-q", "-m", "The first run")
    project.git("branch", "runs/nightly")
    project.git("push", "-q", "--set-upstream", "origin", "main")
    return project


def shell(project: Project, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a person does who has activated the environment."""
    tools = project.folder.parent / "tools"
    tools.mkdir(exist_ok=True)
    make = shutil.which("make")
    old = " ".join(f"--old-file=.venv/{name}" for name in ("ready", "ready-docs", "ready-dev"))
    (tools / "make").write_text(f'#!/bin/sh\nexec {make} {old} "$@"\n')
    (tools / "make").chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["sh", "-ec", script],
        cwd=project.folder,
        env={**project.environment, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


def filled(command: str) -> str:
    """A command with something for each placeholder."""
    for name, value in PLACEHOLDERS.items():
        command = re.sub(rf"(?<![\w./]){re.escape(name)}", value, command)
    return command


@pytest.mark.parametrize("page", HERE, ids=lambda page: page.name)
def test_commands_of_a_page_run_in_its_order(ready: Project, page: Path, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    shutil.copytree(ready.folder, project.folder, symlinks=True)
    for name in ("origin.git", "remote"):
        if (ready.folder.parent / name).exists():
            shutil.copytree(ready.folder.parent / name, tmp_path / name)
    with (project.folder / "params.yaml").open("a") as file:
        file.write("# an edit that can be committed\n")
    script = "\n".join(filled(command) for command in commands(page) if runs_here(command))
    ended = shell(project, f"set -x\n{script}")
    assert ended.returncode == 0, ended.stdout


def test_every_make_command_is_one_that_make_knows(ready: Project) -> None:
    parts = {part.strip() for _, line in ALL for part in line.split("&&")}
    typed = sorted(part for part in parts if re.match(r"(?:\w+=\S+ )*make ", part))
    assert len(typed) > 30
    script = [f"{command} -n >/dev/null || echo FAILED: {shlex.quote(command)}" for command in typed]
    said = shell(ready, "\n".join(script))
    assert "FAILED" not in said.stdout, said.stdout


def test_every_setting_and_strategy_that_is_typed_is_accepted(tmp_path: Path) -> None:
    texts = [page.read_text() for page in PAGES]
    for typed in {match for text in texts for match in re.findall(r'SET="([^"\n]*)"', text)} - {"block.key=value ..."}:
        shutil.copy(PARAMS, tmp_path)
        change_settings(tmp_path, parse_changes(shlex.split(typed)))
    for names in {match for text in texts for match in re.findall(r"make [^`\n]*STRATEGY=([\w,]+)", text)}:
        assert set(names.split(",")) <= {*STRATEGIES, "all"}, names


def test_python_that_is_shown_runs(ready: Project) -> None:
    texts = [page.read_text() for page in PAGES]
    blocks = [block for text in texts for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]
    indented = [
        block for text in texts for block in re.findall(r"^ {4}from .*\n(?:(?: {4}.*)?\n)*", text, re.MULTILINE)
    ]
    assert blocks
    assert indented
    for block in [*blocks, *(re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in indented)]:
        command = [sys.executable, "-c", block]
        ended = subprocess.run(
            command, cwd=ready.folder, env=ready.environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr


def test_yaml_that_is_shown_can_be_read_and_its_commands_are_known() -> None:
    for page in PAGES:
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            steps = yaml.safe_load(block)
            for command in (step["run"] for step in steps if "run" in step):
                assert re.match(BEGIN, command), command


def test_tests_that_run_a_command_elsewhere_exist_and_none_is_named_in_vain() -> None:
    for begin, test in ELSEWHERE.items():
        file, _, function = test.partition("::")
        assert re.search(rf"^def {function}", (PROJECT / file).read_text(), re.MULTILINE), test
        assert any(re.match(begin, command) for _, command in ALL), begin
    for begin in UNTESTED:
        assert any(re.match(begin, command) for _, command in ALL), begin


def test_indented_lines_are_commands_or_said_to_be_none() -> None:
    others = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for line in re.findall(r"(?<=\n\n)( {4,}\S.*)", text):
            if not re.match(rf" +(?:{BEGIN})(?: |$)", line) and not line.lstrip().startswith(NO_COMMANDS):
                others.append(f"{page.name}: {line.strip()}")
    assert others == []


NO_COMMANDS = ('{"path"', "from ", "prepared =", "Champion:", "run:", "PREFECT_SERVER", "Left out,", "ALARM:")
"""How indented blocks begin that are output, settings or Python."""
