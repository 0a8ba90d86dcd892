"""A stage as a child process: its lines, progress and end; no process is left, whichever one dies."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tasks.errors import StageError
from tasks.runs import supervisor
from tasks.runs.guarded_process import Ending
from tasks.runs.stage_failure import Remedy, StageFailed
from tasks.runs.supervisor import bring_up_to_date, child_environment, run_dvc, supervise
from tasks.workspace import Workspace
from tests.conftest import PROJECT
from tests.tasks.runs.repository import init_dvc
from tests.waiting import is_running, wait_until

# A family: a child in the group and a child in a session of its own, with a child that its parent leaves an orphan.
# All but the first are deaf to SIGTERM.
FAMILY = """
import os, signal, subprocess, sys, time
leaf = "import os, signal, time; signal.signal(15, 1); open(f'alive-{os.getpid()}', 'w'); time.sleep(600)"
orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {leaf!r}], start_new_session=True)"
subprocess.Popen([sys.executable, "-c", leaf])
subprocess.Popen([sys.executable, "-c", leaf], start_new_session=True)
subprocess.run([sys.executable, "-c", orphan])
open(f"alive-{os.getpid()}", "w")
print("family is here", flush=True)
"""
FAMILY_SIZE = 4

Result = TypeVar("Result")


def run(folder: Path, code: str, **options: Any) -> tuple[Ending, list[str], list[dict[str, Any]]]:
    lines: list[str] = []
    states: list[dict[str, Any]] = []
    command = [sys.executable, "-c", textwrap.dedent(code)]
    environment = {**child_environment(os.environ), "PYTHONPATH": str(PROJECT)}
    ending = supervise(command, folder, environment, lines.append, states.append, **{"limit_s": 60.0, **options})
    return ending, lines, states


def is_whole(folder: Path) -> bool:
    return len(list(folder.glob("alive-*"))) == FAMILY_SIZE


def family(folder: Path) -> list[int]:
    wait_until(lambda: is_whole(folder), "the family to start")
    return [int(file.name.removeprefix("alive-")) for file in folder.glob("alive-*")]


def reach_limit(
    folder: Path, run_for: Callable[[Path, float], Result], has_begun: Callable[[Path], bool]
) -> tuple[Path, float, Result]:
    """Run into a time limit that lets the command begin, on a machine however busy; gives the folder and the limit."""
    for limit_s in (3.0, 15.0, 75.0):
        place = folder / f"{limit_s:g}"
        place.mkdir()
        result = run_for(place, limit_s)
        if has_begun(place):
            return place, limit_s, result
    raise AssertionError("the command had not begun when the longest limit came")


def make_repository(folder: Path, **programs: str) -> Path:
    """A DVC repository with one stage for each program (Python code)."""
    init_dvc(folder, in_git=False)
    text = "stages:\n"
    for stage, code in programs.items():
        (folder / f"{stage}.py").write_text(textwrap.dedent(code))
        text += f"  {stage}:\n    cmd: python {stage}.py\n    deps: [{stage}.py]\n"
    (folder / "dvc.yaml").write_text(text)
    return folder


def repro(stage: str, folder: Path, on_line: Callable[[str], None] = print, limit_s: float = 60.0) -> None:
    command, workspace = ["repro", "--single-item", stage], Workspace.at(folder)
    run_dvc(stage, command, workspace, limit_s=limit_s, on_line=on_line, on_progress=print, grace_s=1.0)


def fail(folder: Path, code: str, limit_s: float = 60.0) -> StageFailed:
    make_repository(folder, trouble=code)
    with pytest.raises(StageFailed) as caught:
        run_dvc(
            "trouble",
            ["repro", "--single-item", "trouble"],
            Workspace.at(folder),
            limit_s=limit_s,
            on_line=print,
            on_progress=print,
            grace_s=1.0,
        )
    return caught.value


def test_supervise_gives_each_line_of_both_streams_in_order(tmp_path: Path) -> None:
    code = r"""
        import sys
        for number in range(3):
            print("out", number)
            print("err", number, file=sys.stderr)
        print("\x1b[1mbar 1\rbar 2\x1b[0m\n\n", end="")
        sys.stdout.buffer.write(b"caf\xc3\xa9 \xff")
    """
    ending, lines, _ = run(tmp_path, code)
    assert lines == ["out 0", "err 0", "out 1", "err 1", "out 2", "err 2", "bar 1", "bar 2", "café \ufffd"]
    assert ending == Ending("exit", 0)


def test_supervise_loses_nothing_of_a_large_output(tmp_path: Path) -> None:
    _, lines, _ = run(tmp_path, "for number in range(100_000): print(number)")
    assert lines == [str(number) for number in range(100_000)]


def test_supervise_reads_what_was_in_the_pipe_when_the_command_ended(tmp_path: Path) -> None:
    lines: list[str] = []

    def wait_for_the_end(line: str) -> None:
        lines.append(line)
        if line.startswith("guard "):
            (tmp_path / "heard").touch()
            wait_until(lambda: not is_running(int(line.split()[1])), "the guard to end")

    code = """
import os, time
print("guard", os.getppid(), flush=True)
while not os.path.exists("heard"):
    time.sleep(0.02)
print("last words")
"""
    supervise([sys.executable, "-c", code], tmp_path, os.environ, wait_for_the_end, print, limit_s=60.0)
    assert lines[1:] == ["last words"]


def test_supervise_shows_the_progress_of_the_child(tmp_path: Path) -> None:
    code = """
        from tasks.progress import Progress
        with Progress("features", 2, "images") as progress:
            progress.advance(2, {"loss": 0.5})
    """
    _, _, states = run(tmp_path, code)
    assert (states[-1]["done"], states[-1]["total"], states[-1]["details"]) == (2, 2, {"loss": 0.5})


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise SystemExit(3)", Ending("exit", 3)),
        ("import os; os.kill(os.getpid(), 9)", Ending("exit", -9)),
    ],
)
def test_supervise_tells_the_exit_code(tmp_path: Path, code: str, expected: Ending) -> None:
    assert run(tmp_path, code)[0] == expected


def test_supervise_works_in_a_process_with_more_than_a_thousand_open_files(tmp_path: Path) -> None:
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert run(tmp_path, "print('said')")[:2] == (Ending("exit", 0), ["said"])
    finally:
        for descriptor in opened:
            os.close(descriptor)


def test_supervise_reports_a_command_that_does_not_exist(tmp_path: Path) -> None:
    lines: list[str] = []
    ending = supervise(["nosuchprogram"], tmp_path, os.environ, lines.append, print, limit_s=60.0)
    assert ending == Ending("exit", 127)
    assert "nosuchprogram" in lines[0]


def test_time_limit_kills_all_descendants(tmp_path: Path) -> None:
    def run_for(folder: Path, limit_s: float) -> Ending:
        return run(folder, FAMILY + "\ntime.sleep(600)", limit_s=limit_s, grace_s=0.5)[0]

    folder, _, ending = reach_limit(tmp_path, run_for, is_whole)
    assert ending.reason == "limit"
    assert [number for number in family(folder) if is_running(number)] == []


def test_normal_end_leaves_no_descendants(tmp_path: Path) -> None:
    wait = f"\nimport glob\nwhile len(glob.glob('alive-*')) < {FAMILY_SIZE}: time.sleep(0.02)"
    ending, _, _ = run(tmp_path, FAMILY + wait, grace_s=0.5)
    assert ending == Ending("exit", 0)
    assert [number for number in family(tmp_path) if is_running(number)] == []


def test_exception_kills_all_descendants(tmp_path: Path) -> None:
    def stop(_line: str) -> None:
        family(tmp_path)
        raise KeyboardInterrupt

    command = [sys.executable, "-c", FAMILY + "\ntime.sleep(600)"]
    with pytest.raises(KeyboardInterrupt):
        supervise(command, tmp_path, os.environ, stop, print, limit_s=60.0, grace_s=0.5)
    assert [number for number in family(tmp_path) if is_running(number)] == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_death_of_the_supervisor_kills_all_descendants_and_leaves_no_file_elsewhere(
    tmp_path: Path, number: signal.Signals
) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    code = f"""
import os, sys; from pathlib import Path
from tasks.runs.supervisor import supervise
command = [sys.executable, "-c", {FAMILY + chr(10) + "time.sleep(600)"!r}]
supervise(command, Path.cwd(), os.environ, print, print, limit_s=600, grace_s=0.5)
"""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "TMPDIR": str(elsewhere)}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment) as supervisor:
        members = family(tmp_path)
        assert all(is_running(member) for member in members)
        supervisor.send_signal(number)
    wait_until(lambda: not any(is_running(member) for member in members), "the family to end")
    assert list(elsewhere.iterdir()) == []


def test_death_of_the_guard_kills_the_group_and_is_reported(tmp_path: Path) -> None:
    code = "import os, time; open(f'alive-{os.getpid()}', 'w'); os.kill(os.getppid(), 9); time.sleep(600)"
    ending, _, _ = run(tmp_path, code)
    assert ending == Ending("lost", None)
    [file] = tmp_path.glob("alive-*")
    wait_until(lambda: not is_running(int(file.name.removeprefix("alive-"))), "the command to end")


def test_run_stage_runs_nothing_when_nothing_changed(tmp_path: Path) -> None:
    make_repository(tmp_path, fine="print('it works')")
    lines: list[str] = []
    for _ in range(2):
        run_dvc(
            "fine",
            ["repro", "--single-item", "fine"],
            Workspace.at(tmp_path),
            limit_s=60.0,
            on_line=lines.append,
            on_progress=print,
        )
    assert lines.count("it works") == 1
    assert lines.count("Stage 'fine' didn't change, skipping") == 1


def test_stage_that_did_not_change_needs_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_repository(tmp_path, fine="print('it works')")
    lines: list[str] = []

    def bring_up() -> None:
        bring_up_to_date("fine", Workspace.at(tmp_path), limit_s=60.0, on_line=lines.append)

    bring_up()
    monkeypatch.setattr(supervisor, "GuardedProcess", lambda *_: pytest.fail("a process was started"))
    bring_up()
    monkeypatch.undo()
    (tmp_path / "fine.py").write_text("print('it works again')")
    bring_up()
    said = [line for line in lines if "works" in line or "skipping" in line]
    assert said == ["it works", "Stage 'fine' didn't change, skipping", "it works again"]


def test_stage_that_does_not_exist_is_told_by_dvc_itself(tmp_path: Path) -> None:
    make_repository(tmp_path, fine="pass")
    with pytest.raises(StageFailed, match="Stage 'unknown' not found"):
        bring_up_to_date("unknown", Workspace.at(tmp_path), limit_s=60.0, on_line=print)


def test_user_error_carries_the_programs_own_message(tmp_path: Path) -> None:
    error = fail(
        tmp_path,
        """
        import sys
        print("SettingsError: params.yaml:\\n  train.seed: wrong", file=sys.stderr)
        sys.exit(2)
        """,
    )
    assert isinstance(error, StageError)
    assert (error.remedy, error.exit_code) == (Remedy.FIX, 2)
    assert str(error).endswith("SettingsError: params.yaml:\n  train.seed: wrong")
    assert "dvc --wait-for-lock repro --single-item trouble" in str(error)


def test_crash_is_not_the_users_error_and_names_the_exception(tmp_path: Path) -> None:
    error = fail(tmp_path, "1/0")
    assert (error.remedy, error.exit_code) == (Remedy.RETRY, 1)
    assert error.said == "ZeroDivisionError: division by zero"
    assert "exit code 1" in error.reason


def test_program_that_found_an_outage_is_told_from_one_that_crashed(tmp_path: Path) -> None:
    code = """
        import sys
        print("TransientError: store:8333 can't be reached.", file=sys.stderr)
        sys.exit(75)
    """
    error = fail(tmp_path, code)
    assert (error.remedy, error.exit_code) == (Remedy.WAIT, 75)
    assert error.said == "TransientError: store:8333 can't be reached."


def test_program_that_prints_a_verdict_of_dvc_is_not_believed(tmp_path: Path) -> None:
    line = "ERROR: failed to reproduce 'trouble': failed to run: x, exited with 2"
    assert fail(tmp_path, f'import sys; print("{line}"); sys.exit(1)').remedy is Remedy.RETRY


def test_sigkill_from_elsewhere_is_explained_as_out_of_memory(tmp_path: Path) -> None:
    error = fail(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert "SIGKILL" in error.reason
    assert "memory ran out" in error.reason
    assert (error.remedy, error.exit_code) == (Remedy.RETRY, 1)


ENDLESS = """
import os, time
open("begun", "w")
while not os.path.exists("go"):
    time.sleep(0.1)
"""


@pytest.mark.slow
def test_stage_is_stopped_at_its_time_limit_and_runs_again(tmp_path: Path) -> None:
    folder, limit_s, error = reach_limit(
        tmp_path, lambda folder, limit_s: fail(folder, ENDLESS, limit_s), lambda folder: (folder / "begun").exists()
    )
    assert f"time limit of {limit_s:g} s (run.stage_time_limit_s" in error.reason
    assert (error.remedy, error.exit_code) == (Remedy.RETRY, 1)
    (folder / "go").touch()
    run_dvc(
        "trouble",
        ["repro", "--single-item", "trouble"],
        Workspace.at(folder),
        limit_s=60.0,
        on_line=print,
        on_progress=print,
    )
    assert "trouble.py" in (folder / "dvc.lock").read_text()


def test_failure_of_dvc_itself_is_reported_in_its_words(tmp_path: Path) -> None:
    make_repository(tmp_path, fine="pass")
    with pytest.raises(StageFailed, match="Stage 'unknown' not found"):
        run_dvc(
            "unknown",
            ["repro", "--single-item", "unknown"],
            Workspace.at(tmp_path),
            limit_s=60.0,
            on_line=print,
            on_progress=print,
        )


def test_stage_runs_the_interpreter_of_this_process(tmp_path: Path) -> None:
    make_repository(tmp_path, which="import sys; print(sys.prefix)")
    lines: list[str] = []
    run_dvc(
        "which",
        ["repro", "--single-item", "which"],
        Workspace.at(tmp_path),
        limit_s=60.0,
        on_line=lines.append,
        on_progress=print,
    )
    assert sys.prefix in lines


def test_stage_failed_can_be_pickled() -> None:
    error = StageFailed("train", "it crashed", "ValueError: x", "dvc repro", Remedy.WAIT)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.remedy, copy.exit_code) == (str(error), Remedy.WAIT, 75)
