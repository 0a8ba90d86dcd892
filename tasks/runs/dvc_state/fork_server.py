"""Program of `tasks.runs.warm_dvc`: it imports DVC and the stages' programs, and forks a guard for each command of DVC.

    python -m tasks.runs.dvc_state.fork_server CONTROL

The guard forks DVC, and DVC forks a spare process before it begins. If DVC runs the program of a stage, such as
`python -m tasks.train linear`, the spare process runs it, unless its source has changed since it was imported.
Nothing here computes or starts threads, so a fork has nothing but imported modules.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from tasks.runs import process_guard
from tasks.runs.warm_dvc import receive, send

_PROGRAM = re.compile(r"python -m ([\w.]+)((?: [\w.@:/=-]+)*)")
_COMMANDS = re.compile(rf"^\s*cmd: {_PROGRAM.pattern}", re.MULTILINE)
_LATE = ("dvc.commands.checkout", "dvc.commands.repro", "dvc.stage.run", "tasks.runs.dvc_state.imports")
"""Modules that DVC imports when it needs them, or that import such modules."""

Versions = dict[str, tuple[int, int, int]]


def main() -> NoReturn:
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    gc.disable()  # modules stay; looking through them takes a third of the time
    programs = Programs(Path.cwd())
    for name in _LATE:
        importlib.import_module(name)
    from dvc.cli.parser import get_main_parser

    get_main_parser()
    gc.freeze()  # else each fork copies all there is as soon as it collects garbage
    gc.enable()
    code = run_guarded(*serve(control), programs)
    end(code)


def serve(control: socket.socket) -> tuple[list[Any], socket.socket, int]:
    """Fork a child for each request; returns in the child only: the request, the link and the output."""
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        request = receive(control) if descriptors else None
        if not isinstance(request, list):
            with contextlib.suppress(ChildProcessError):
                while os.wait():  # the run's process then knows the time that they took
                    pass
            os._exit(0)
        child = os.fork()
        if child == 0:
            control.close()
            return request, socket.socket(fileno=descriptors[0]), descriptors[1]
        send(control, child)
        for descriptor in descriptors:
            os.close(descriptor)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # the guards of earlier commands
                pass


def run_guarded(request: Sequence[Any], link: socket.socket, output: int, programs: Programs) -> int:
    """Be the guard of DVC, or DVC, or the program of the stage. Returns the exit code of the two latter."""
    folder, environment, limit_s, grace_s, *arguments = request
    os.setsid()
    for target in (1, 2):
        os.dup2(output, target)
    os.close(output)
    _move(folder, environment)
    guard = process_guard.Guard(link, limit_s, grace_s)
    child = os.fork()
    if child:
        guard.watch(child)
        os._exit(0)
    guard.leave()
    return run_dvc(arguments, programs)


def run_dvc(arguments: Sequence[str], programs: Programs) -> int:
    """Be DVC, or the program of the stage. Returns the exit code."""
    import dvc.stage.run
    from dvc.cli import main as run_command

    here, there = socket.socketpair()
    spare = os.fork()
    if spare == 0:
        here.close()
        return programs.run(receive(there))
    there.close()
    run_by_shell = dvc.stage.run._run

    def run(executable: str | None, command: str, **options: Any) -> None:
        if not programs.fit(command, str(options["cwd"])):
            run_by_shell(executable, command, **options)
            return
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as DVC does
        try:
            send(here, [command, str(options["cwd"]), options["env"]])
            _, status = os.waitpid(spare, 0)
        finally:
            signal.signal(signal.SIGINT, before)
        if code := os.waitstatus_to_exitcode(status):
            raise dvc.stage.run.StageCmdFailedError(command, code)

    dvc.stage.run._run = run
    sys.argv = ["dvc", *arguments]
    code: int = run_command(list(arguments))
    here.close()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(spare, 0)
    return code


class Programs:
    """The programs of stages in a folder, imported.

    Args:
        folder: with dvc.yaml, the first place from which Python imports.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        text = (folder / "dvc.yaml").read_text(encoding="utf-8")
        names = {match[1] for match in _COMMANDS.finditer(text)}
        self._places = {name.partition(".")[0] for name in names}
        self._versions = self._read_versions()
        self._modules = dict(self._import(names))

    def fit(self, command: str, folder: str) -> bool:
        """Whether a command in a folder runs one of the programs, and its source is as it was imported."""
        match = _PROGRAM.fullmatch(command)
        is_known = match is not None and match[1] in self._modules and Path(folder) == self._folder
        return is_known and self._read_versions() == self._versions

    def run(self, order: Any) -> int:
        """Run a program as `python -m` does. Returns its exit code.

        Args:
            order: the command, its folder and its environment; None if there is nothing to run.
        """
        if order is None:
            os._exit(0)
        command, folder, environment = order
        match = _PROGRAM.fullmatch(command)
        assert match
        module = self._modules[match[1]]
        _move(folder, environment)
        sys.argv = [str(module.__file__), *match[2].split()]
        sys.modules["__main__"] = module  # processes that the program starts import it by its name
        code: int = module.main()
        return code

    def _import(self, names: Iterable[str]) -> Iterable[tuple[str, ModuleType]]:
        for name in sorted(names):
            with contextlib.suppress(Exception):  # it will say what is wrong when it is run
                module = importlib.import_module(name)
                if callable(getattr(module, "main", None)):
                    yield name, module

    def _read_versions(self) -> Versions:
        """The version of each source file from which the programs are imported."""
        files = [file for place in self._places for file in (self._folder / f"{place}.py", self._folder / place)]
        sources = [path for file in files for path in ([file] if file.is_file() else file.rglob("*.py"))]
        found = {str(path): path.stat() for path in sources}
        return {path: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def end(code: int) -> NoReturn:
    """End a fork as Python does, but take no module apart: that writes to all memory that the fork has shared."""
    threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing does it
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _move(folder: str, environment: Mapping[str, str]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)


if __name__ == "__main__":
    main()
