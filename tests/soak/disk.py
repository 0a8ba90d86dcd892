"""A disk of a few hundred MB that can be filled: a tmpfs, which only root may mount."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

SIZE_MB = 1500
_LEFT = 100_000


class SmallDisk:
    """`with SmallDisk(folder) as disk:`; without root it is a plain folder, and `can_be_filled` is False."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.can_be_filled = os.geteuid() == 0
        self._ballast = folder / "ballast"

    def __enter__(self) -> SmallDisk:
        self.folder.mkdir()
        if self.can_be_filled:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(self.folder)]
            self.can_be_filled = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        return self

    def __exit__(self, *_: object) -> None:
        if self.can_be_filled:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def fill(self) -> None:
        with self._ballast.open("ab") as file, contextlib.suppress(OSError):  # somebody else took the last bytes: full
            while (free := shutil.disk_usage(self.folder).free) > _LEFT:
                os.posix_fallocate(file.fileno(), file.tell(), free - _LEFT)
                file.seek(0, os.SEEK_END)

    def empty(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def used_mb(self) -> float:
        """Without the ballast."""
        if not self.can_be_filled:
            command = ["du", "-sm", str(self.folder)]
            return float(subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()[0])
        ballast = self._ballast.stat().st_size if self._ballast.exists() else 0
        return (shutil.disk_usage(self.folder).used - ballast) / 1e6
