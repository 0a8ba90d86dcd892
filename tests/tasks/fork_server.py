"""A process that has imported the modules that many children need, and computed little; it forks one child per call.

python -m tests.tasks.fork_server PROGRAM [MODULE ...]

Children start with nothing but imported modules, and in no time: TensorFlow alone takes seconds to import. What must be
shown to leave nothing behind in a process is compared with a process that was started afresh.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import PROJECT


class ForkServer:
    """`with ForkServer("tasks.train", "keras") as server:` runs a program's `main` as often as asked.

    Args:
        program: module whose `main()` reads `sys.argv` and may give an exit code. If it has a `warm_up()`, that is
            called once before all forks.
        modules: that are imported beforehand, too.
    """

    def __init__(self, program: str, *modules: str) -> None:
        self._command = [sys.executable, "-m", __name__, program, *modules]

    def __enter__(self) -> ForkServer:
        self._process = subprocess.Popen(
            self._command, cwd=PROJECT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self

    def __exit__(self, *_: object) -> None:
        with self._process as process:  # closes its stdin, which ends it
            assert process.stdin
            process.stdin.close()

    def run(
        self, *arguments: str, cwd: Path = PROJECT, environment: Mapping[str, str] = os.environ
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` of the program with these arguments, in a child that was forked for it."""
        assert self._process.stdin
        assert self._process.stdout
        with tempfile.TemporaryDirectory(prefix="forked-") as folder:
            shown = [Path(folder) / name for name in ("stdout", "stderr")]
            request = [str(cwd), dict(environment), *map(str, shown), *arguments]
            print(json.dumps(request), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
            assert answer, "the fork server has died"
            out, err = (path.read_text(encoding="utf-8") for path in shown)
        return subprocess.CompletedProcess(list(arguments), int(answer), out, err)


def serve() -> list[str]:
    """Fork a child for each line of stdin and write its exit code to stdout; gives the arguments, in the child only."""
    gc.freeze()  # else each child copies all there is as soon as it collects garbage
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            folder, environment, out, err, *arguments = json.loads(line)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            for path, target in ((out, 1), (err, 2)):
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
                os.dup2(descriptor, target)
                os.close(descriptor)
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.close(nothing)
            return arguments
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    raise SystemExit


def main() -> int | None:
    program, *modules = [importlib.import_module(name) for name in sys.argv[1:]]
    del modules
    getattr(program, "warm_up", lambda: None)()
    sys.argv[1:] = serve()
    code: int | None = program.main()
    return code


if __name__ == "__main__":
    raise SystemExit(main())
