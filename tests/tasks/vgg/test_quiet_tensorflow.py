"""How TensorFlow is loaded: without Keras where nothing needs it, and so that it finds the GPU or tells."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.vgg import quiet_tensorflow


@pytest.mark.slow
def test_features_import_tensorflow_without_keras_which_can_be_imported_later() -> None:
    """A process for itself, because TensorFlow is imported once."""
    program = (
        "import sys; from tasks.vgg.quiet_tensorflow import load_tensorflow; load_tensorflow(keras=False); "
        "assert not {'keras', 'tf_keras'} & set(sys.modules); import keras; print(keras.ops.ones((2,)).numpy())"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "[1. 1.]\n"


def test_library_that_tensorflow_does_not_find_is_loaded_for_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cublas/lib/libcublas.so.12", "cusolver/lib/libcusolver.so.11"):
        (tmp_path / "nvidia" / name).parent.mkdir(parents=True)
        (tmp_path / "nvidia" / name).write_bytes(b"broken")
    (tmp_path / "nvidia/__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    loaded: list[str] = []
    whole = ctypes.CDLL

    def load(path: str) -> Any:
        loaded.append(path)
        return whole(path)  # raises OSError

    monkeypatch.setattr(ctypes, "CDLL", load)
    quiet_tensorflow.load_cusolver()
    assert loaded == [], "there is no GPU"
    monkeypatch.setattr(quiet_tensorflow, "has_gpu", lambda: True)
    quiet_tensorflow.load_cusolver()
    assert loaded == [str(tmp_path / "nvidia/cusolver/lib/libcusolver.so.11")]


@pytest.mark.slow
@pytest.mark.parametrize("driver", [True, False])
def test_gpu_that_tensorflow_does_not_find_is_told(driver: bool, tmp_path: Path) -> None:
    (tmp_path / "version").touch()
    program = (
        "import sys; from pathlib import Path; from tasks.vgg import hardware; hardware.DRIVER = Path(sys.argv[1]); "
        "from tasks.vgg import quiet_tensorflow; quiet_tensorflow.load_cusolver = lambda: print('loaded before'); "
        "quiet_tensorflow.load_tensorflow(keras=False)"
    )
    path = str(tmp_path / ("version" if driver else "none"))
    ended = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    expected = f"{quiet_tensorflow.UNUSED_GPU} Find out why: make doctor\n" if driver else ""
    assert ended.stderr == expected
    assert ended.stdout == "loaded before\n"
