"""TensorFlow with the GPU that there is, and without the messages of its C++ code, which mean nothing to a user."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from tasks.vgg.hardware import has_gpu

UNUSED_GPU = "There is an NVIDIA GPU, but TensorFlow can't use it, so the CPU computes."
_LEGACY = "TF_USE_LEGACY_KERAS"
"""Unless this is set, TensorFlow imports Keras at once; with it, an older package of Keras when that is used."""


def load_tensorflow(keras: bool = True) -> None:
    """Import TensorFlow without what it writes to stderr (oneDNN, CPU features), unless the import fails.

    TF_CPP_MIN_LOG_LEVEL doesn't silence these lines. If there is a GPU that TensorFlow doesn't find, a line says so.

    Args:
        keras: False: TensorFlow doesn't import Keras along, which takes a third of the time; `import keras` works.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    load_cusolver()
    with quiet_stderr(), contextlib.nullcontext() if keras else _without_keras():
        import tensorflow as tf

        tf.config.list_physical_devices()  # lists them, with messages, without initializing them
    if has_gpu() and not tf.config.list_physical_devices("GPU"):
        print(f"{UNUSED_GPU} Find out why: make doctor", file=sys.stderr, flush=True)


def load_cusolver() -> None:
    """Load the library that TensorFlow 2.21 can't find by itself, without which it uses no GPU.

    It looks for CUDA's libraries in NVIDIA's Python packages, but not in the package of this one. A library that the
    process has already loaded is found by its name.
    """
    packages = find_spec("nvidia") if has_gpu() else None
    for place in packages.submodule_search_locations or () if packages else ():
        for file in Path(place).glob("cusolver/lib/libcusolver.so.*"):
            with contextlib.suppress(OSError):  # TensorFlow says what it lacks
                ctypes.CDLL(str(file))


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
