"""The program that a worker starts: its exit code tells an outage from a mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows import start
from tests.conftest import PROJECT
from tests.tasks.runs.repository import git, make_repository


@pytest.mark.parametrize(("address", "code"), [("http://127.0.0.1:9/r.git", 75), ("/nowhere", 2)])
def test_exit_code_tells_whether_waiting_helps(
    address: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_repository(tmp_path / "clone")
    git(root, "remote", "add", "origin", address)
    monkeypatch.chdir(root)
    monkeypatch.setenv(start.COMMIT_VARIABLE, "1" * 40)
    with pytest.raises(SystemExit) as ended:
        start.main()
    assert ended.value.code == code
    assert address.rpartition("/")[0] in capsys.readouterr().err


def test_program_of_each_run_imports_no_library_that_takes_time() -> None:
    code = (
        "import sys, flows.start; print(*{'numpy', 'pyarrow', 'pydantic', 'yaml', 'prefect', 'dvc'} & {*sys.modules})"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ended.stdout == "\n"


def test_engine_starts_in_the_folder_of_the_code_and_looks_for_garbage_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, commands = tmp_path / "code", []
    (code / "prefect").mkdir(parents=True)
    (code / "prefect/__init__.py").touch()
    (code / "prefect/engine.py").write_text("import gc, sys; print(sys.path[0], gc.get_threshold()[0], len(sys.argv))")
    monkeypatch.setattr(start, "unpack", lambda *_: code)
    monkeypatch.setattr(start.os, "execv", lambda _, command: commands.append(command))
    monkeypatch.setenv(start.COMMIT_VARIABLE, "1" * 40)
    monkeypatch.setenv(start.CLONE_VARIABLE, "")
    monkeypatch.chdir(tmp_path)
    start.main()
    ended = subprocess.run(commands[0], cwd=code, capture_output=True, text=True, check=True)
    assert ended.stdout == f"{code} 100000 1\n"
