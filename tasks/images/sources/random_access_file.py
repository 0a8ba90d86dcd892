"""A file that several threads can read at any position."""

from __future__ import annotations

import os
import weakref
from pathlib import Path


class RandomAccessFile:
    """An open file without a shared position. It stays readable when its name is removed or reused."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the file."""
        chunks = []
        while size > 0 and (chunk := os.pread(self._descriptor, size, offset)):
            chunks.append(chunk)
            offset, size = offset + len(chunk), size - len(chunk)
        return b"".join(chunks)
