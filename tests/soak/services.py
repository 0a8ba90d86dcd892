"""Services that are started again when they end, as systemd would (`Restart=always`)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

RESTART_S = 2.0


@dataclass
class Service:
    """One program that should always run.

    Attributes:
        started: when, Unix times.
    """

    name: str
    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str]
    log: Path
    started: list[float] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None
    _ended: float = field(default=float("-inf"))

    def tend(self) -> None:
        """Start it, if it doesn't run and didn't end just now."""
        if self._process is not None and self._process.poll() is not None:
            self._process, self._ended = None, time.monotonic()
        if self._process is None and time.monotonic() >= self._ended + RESTART_S:
            with self.log.open("ab") as file:
                self._process = subprocess.Popen(
                    self.command,
                    cwd=self.folder,
                    env=dict(self.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
            self.started.append(time.time())

    @property
    def process_id(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def stop(self) -> None:
        """End it for good."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._ended = float("inf")
