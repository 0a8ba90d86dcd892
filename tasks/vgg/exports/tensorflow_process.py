"""The programs of this folder as child processes with TensorFlow, which they load while the stage does other things."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tasks.errors import ExportError

CURE = (
    "Nothing was exported. Run `dvc repro --force --single-item export` again; if it fails again, the installed "
    "versions of tensorflow, onnx or pillow don't fit together: install the locked ones with `make setup`."
)
_TIME_LIMIT_S = 1800
_LOOK_EVERY_S = 0.02
_PROJECT = Path(__file__).parents[3]


class TensorFlowProcess:
    """A program of this folder as a child process; it ends with the block at the latest.

    Args:
        program: its file's name.
        task: what can't be done if the program fails, in words.
        arguments: of the program.
    """

    def __init__(self, program: str, task: str, *arguments: str) -> None:
        self._task = task
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit
        self._files = tempfile.TemporaryDirectory(prefix="rootstock-export-")
        self.files = Path(self._files.name)
        """A folder for the request's files."""
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name(program)), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={
                **os.environ,
                "CUDA_VISIBLE_DEVICES": "-1",  # exports and checks are the same on every machine
                "TF_USE_LEGACY_KERAS": "1",  # else TensorFlow imports Keras, which no program here uses
                "PYTHONPATH": os.pathsep.join([str(_PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child.poll() is None:
            self._child.kill()
        self._child.communicate()
        self._errors.close()
        self._files.cleanup()

    def ask(self, request: Mapping[str, Any]) -> None:
        """Send the request; the child works while the caller does other things.

        Raises:
            ExportError: the child has ended; repeats what it said.
        """
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise self.failed() from None

    def wait_for(self, name: str) -> Path:
        """Wait until the child has written a file or folder to `files`. Returns its path.

        Raises:
            ExportError: the child has ended without it, or took half an hour; repeats what it said.
        """
        path, give_up = self.files / name, time.monotonic() + _TIME_LIMIT_S
        while True:
            has_ended = self._child.poll() is not None
            if path.exists():
                return path
            if has_ended or time.monotonic() > give_up:
                raise self.failed()
            time.sleep(_LOOK_EVERY_S)

    def answers(self) -> list[Any]:
        """Wait for the end of the child: what it wrote, one JSON value a line.

        Raises:
            ExportError: the child failed, or took half an hour; repeats what it said.
        """
        try:
            output, _ = self._child.communicate(timeout=_TIME_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise self.failed() from None
        if self._child.returncode != 0:
            raise self.failed()
        return [json.loads(line) for line in output.splitlines()]

    def failed(self) -> ExportError:
        self._errors.seek(0)
        last = self._errors.read().decode("utf-8", "replace").strip().splitlines()[-8:]
        return ExportError(f"{self._task}. {CURE} It said:\n  " + "\n  ".join(last))


class BuildProcess(TensorFlowProcess):
    """`build_models.py`."""

    def __init__(self) -> None:
        super().__init__("build_models.py", "The SavedModel and the LiteRT file can't be built")
