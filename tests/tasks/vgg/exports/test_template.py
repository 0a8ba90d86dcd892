"""The template of the SavedModel and the LiteRT file: filled with a head, it is what this head's own build would be."""

from __future__ import annotations

import json
import sys
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tasks.errors import ExportError
from tasks.vgg.exports import build_models, template
from tasks.vgg.exports.description import add_description
from tasks.vgg.exports.safe_graphs import check_litert, check_saved_model
from tasks.vgg.exports.template import Outline, Template, begin, finish, write_filled
from tasks.vgg.exports.tensorflow_process import TensorFlowProcess
from tasks.vgg.head import Dense, Head, Pooling
from tests.conftest import contents
from tests.tasks.vgg.small_weights import tiny_weights

INPUTS = {"average_maximum": 16, "flatten": 7 * 7 * 8, "bilinear": 8 * 8}


def random_head(pooling: Pooling, seed: int) -> Head:
    """With a hidden layer, and for one pooling without."""
    rng = np.random.default_rng(seed)
    widths = [INPUTS[pooling], 3] if pooling == "average_maximum" else [INPUTS[pooling], 5, 3]
    layers = [
        Dense(
            rng.normal(0, 0.05, (rows, units)).astype(np.float32),
            rng.normal(0, 1, units).astype(np.float32),
            "softmax" if units == 3 else "relu",
        )
        for rows, units in pairwise(widths)
    ]
    return Head(pooling, tuple(layers))


def outline(head: Head, litert: bool = True, both_sides: bool = False) -> Outline:
    return Outline(head, ("ant", "Ä<b>", "cat"), (255, 255, 255), 2000, both_sides, litert)


def here(folder: Path) -> Any:
    """A stand-in for the process that builds: it works in this one, which has TensorFlow."""
    folder.mkdir()
    return SimpleNamespace(files=folder, ask=build_models.build, wait_for=lambda name: folder / name)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", INPUTS)
def test_filled_template_is_the_model_of_the_head(tmp_path: Path, pooling: Pooling) -> None:
    """The LiteRT file has the bytes of an own conversion; names in a SavedModel differ within one process."""
    import tensorflow as tf

    from tasks.vgg.exports import serving

    head, other = random_head(pooling, 1), random_head(pooling, 2)
    wanted = outline(other, both_sides=pooling == "flatten")
    process = here(tmp_path / "process")
    begin(process, wanted, tiny_weights())
    for model in ("saved_model", "model.tflite"):
        files = finish(process, model, wanted)
        for one in (other, head):
            write_filled(files, model, one, tmp_path)
    assert check_saved_model((tmp_path / "saved_model/saved_model.pb").read_bytes()) is None
    served = serving.build_served(head, wanted.classes, tiny_weights(), (255,) * 3, 2000, wanted.test_time_augmentation)
    assert (tmp_path / "model.tflite").read_bytes() == serving.convert_litert(served)
    about = {"classes": list(wanted.classes), "answers": {"thresholds": [None, 0.5]}}
    add_description(tmp_path / "saved_model", about)
    add_description(tmp_path / "model.tflite", about)
    assert check_litert((tmp_path / "model.tflite").read_bytes()) is None
    with pytest.warns(UserWarning, match="tf.lite.Interpreter is deprecated"):
        tf.lite.Interpreter(str(tmp_path / "model.tflite")).allocate_tensors()
    with zipfile.ZipFile(tmp_path / "model.tflite") as archive:
        assert json.loads(archive.read("rootstock.json")) == about
        assert archive.read("labels.txt").decode().splitlines() == list(wanted.classes)
    extra = tf.io.read_file(str(tmp_path / "saved_model/assets.extra/rootstock.json"))
    assert json.loads(extra.numpy()) == about
    pixels = tf.constant(np.random.default_rng(0).uniform(0, 255, (2, 224, 224, 3)), tf.float32)
    answered = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["pixels"](pixels=pixels)
    expected = served.pixels(pixels)["probabilities"].numpy()
    np.testing.assert_allclose(answered["probabilities"].numpy(), expected, atol=1e-6)


@pytest.mark.slow
def test_filled_template_has_the_bytes_of_an_own_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each build has its own process; the second one builds with the head's own numbers."""
    head = random_head("bilinear", 1)
    with Template(outline(head), tiny_weights(), None) as filled:
        models = [path.name for path in filled.fill(head, tmp_path / "filled")]
    monkeypatch.setattr(template, "_known_head", lambda _: head)
    with Template(outline(head), tiny_weights(), None) as built:
        assert [path.name for path in built.fill(head, tmp_path / "built")] == models == ["saved_model", "model.tflite"]
    made = contents(tmp_path / "filled")
    assert {"model.tflite", "saved_model/saved_model.pb"} < set(made)
    assert made == contents(tmp_path / "built")


def test_model_has_its_name_only_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(_served: object, folder: Path) -> None:
        folder.mkdir()
        assert not (tmp_path / "saved_model").exists()

    def convert(_served: object) -> bytes:
        assert (tmp_path / "saved_model").is_dir()
        return b"whole"

    serving = SimpleNamespace(build_served=lambda *_: None, save_served=save, convert_litert=convert)
    monkeypatch.setitem(sys.modules, "tasks.vgg.exports.serving", serving)
    head = random_head("average_maximum", 1)
    process = SimpleNamespace(files=tmp_path, ask=build_models.build)
    begin(process, outline(head), tiny_weights())  # type: ignore[arg-type]
    assert (tmp_path / "model.tflite").read_bytes() == b"whole"


def test_model_that_is_never_written_is_told_with_what_the_process_said() -> None:
    with TensorFlowProcess("check_serving.py", "It can't be built", "nothing") as process:
        with pytest.raises(ExportError, match=r"(?s)It can't be built.*KeyError: 'nothing'"):
            process.wait_for("saved_model")
        (process.files / "saved_model").mkdir()
        assert process.wait_for("saved_model") == process.files / "saved_model", "it was written before the end"


def test_template_without_each_tensor_once_is_refused(tmp_path: Path) -> None:
    head = random_head("average_maximum", 1)
    wanted = outline(head, litert=False)
    process = SimpleNamespace(files=tmp_path, wait_for=lambda name: tmp_path / name)
    graph = tmp_path / "saved_model/saved_model.pb"
    graph.parent.mkdir()
    known = template._known_head(head).tensors()
    for content in (b"", known["head_1/kernel"].tobytes() * 2 + known["head_1/bias"].tobytes()):
        graph.write_bytes(content)
        with pytest.raises(ExportError, match=r"contains the tensor head_1/kernel of the head [02] times"):
            finish(process, "saved_model", wanted)  # type: ignore[arg-type]


def test_outline_depends_on_all_but_the_numbers() -> None:
    one = outline(random_head("average_maximum", 1))
    assert one.facts() == outline(random_head("average_maximum", 2)).facts()
    others = [
        outline(random_head("bilinear", 1)),
        replace(one, classes=("ant", "cat", "Ä<b>")),
        replace(one, background_rgb=(0, 0, 0)),
        replace(one, max_pixels=2001),
        replace(one, test_time_augmentation=True),
        replace(one, litert=False),
    ]
    assert all(other.facts() != one.facts() for other in others)
