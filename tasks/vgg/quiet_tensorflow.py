"""TensorFlow without the messages of its C++ code, which mean nothing to a user."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

_LEGACY = "TF_USE_LEGACY_KERAS"
"""Unless this is set, TensorFlow imports Keras at once; with it, an older package of Keras when that is used."""


def load_tensorflow(keras: bool = True) -> None:
    """Import TensorFlow without what it writes to stderr (oneDNN, CPU features), unless the import fails.

    TF_CPP_MIN_LOG_LEVEL doesn't silence these lines.

    Args:
        keras: False: TensorFlow doesn't import Keras along, which takes a third of the time; `import keras` works.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with quiet_stderr(), contextlib.nullcontext() if keras else _without_keras():
        import tensorflow as tf

        tf.config.list_physical_devices()  # lists them, with messages, without initializing them


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
    before = os.environ.get(_LEGACY)
    os.environ[_LEGACY] = "1"
    try:
        yield
    finally:
        del os.environ[_LEGACY]
        if before is not None:
            os.environ[_LEGACY] = before


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what C++ code writes to stderr; show it only if the block fails."""
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(before, held.read())
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)
