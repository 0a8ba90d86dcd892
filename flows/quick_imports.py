"""Imports large libraries without looking for garbage meanwhile."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Look for no garbage during the block, and never among the objects that exist at its end.

    What a library makes while it is imported stays until the process ends. Python would look through all of it again
    and again, which takes a fifth of the time to import Prefect; and once more at the end, which takes as long.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
