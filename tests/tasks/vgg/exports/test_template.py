"""The template of the SavedModel and the LiteRT file: filled with numbers, it is what their own build would be."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from tasks.errors import ExportError
from tasks.vgg.exports import build_models
from tasks.vgg.exports.description import add_description
from tasks.vgg.exports.kept import Kept
from tasks.vgg.exports.parity import FreshProcess
from tasks.vgg.exports.places import known_tensors, parts_of
from tasks.vgg.exports.safe_graphs import check_litert, check_saved_model
from tasks.vgg.exports.template import Outline, Template, without_numbers, write_filled
from tasks.vgg.exports.tensorflow_process import TensorFlowProcess
from tasks.vgg.head import Dense, Head, Pooling
from tests.conftest import PROJECT, contents
from tests.tasks.vgg.exports.test_parity import checks
from tests.tasks.vgg.small_weights import random_weights, tiny_weights

VARIABLES = ("saved_model/variables/variables.data-00000-of-00001", "saved_model/variables/variables.index")
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
    return Outline(head, tiny_weights(), ("ant", "Ä<b>", "cat"), (255, 255, 255), 2000, both_sides, litert)


def tensors(seed: int, pooling: Pooling = "average_maximum") -> dict[str, np.ndarray]:
    """Of a head, and of a backbone whose layers were all trained further."""
    rng = np.random.default_rng(seed)
    tuned = {name: value + rng.normal(0, 0.01, value.shape).astype("f4") for name, value in tiny_weights().items()}
    return {**tuned, **random_head(pooling, seed).tensors()}


@pytest.mark.slow
@pytest.mark.parametrize("pooling", INPUTS)
def test_filled_template_is_the_model_of_the_numbers(tmp_path: Path, pooling: Pooling) -> None:
    """The LiteRT file has the bytes of an own conversion; names in a SavedModel differ within one process."""
    import tensorflow as tf

    from tasks.vgg.exports import serving

    head, given = random_head(pooling, 1), tensors(1, pooling)
    wanted = outline(random_head(pooling, 2), both_sides=pooling == "flatten")
    (tmp_path / "process").mkdir()
    build_models.build({**wanted.facts(), "folder": str(tmp_path / "process")})
    for model in ("saved_model", "model.tflite"):
        files = without_numbers(tmp_path / "process" / model, known_parts(model, wanted))
        for one in (tensors(2, pooling), given):
            write_filled(files, model, one, tmp_path)
    assert check_saved_model((tmp_path / "saved_model/saved_model.pb").read_bytes()) is None
    served = serving.build_served(head, wanted.classes, backbone(given), (255,) * 3, 2000, pooling == "flatten")
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


def known_parts(model: str, wanted: Outline) -> dict[str, dict[str, bytes]]:
    return parts_of(model, known_tensors(wanted.facts()["shapes"]))


def backbone(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value for name, value in given.items() if name.startswith("block")}


OWN_BUILD = """
import json, sys
from safetensors.numpy import load_file
from tasks.vgg.exports import build_models
tensors = load_file(sys.argv[1])
build_models.known_tensors = lambda shapes: {name: tensors[name] for name in shapes}
build_models.build(json.loads(sys.argv[2]))
"""


@pytest.mark.slow
def test_filled_template_has_the_bytes_of_an_own_build(tmp_path: Path) -> None:
    """Whether the template is new or was kept by the export of a model with other numbers; each build is a process."""
    wanted, made = outline(random_head("bilinear", 1)), []
    kept = Kept(tmp_path / "kept")
    for number, seed in enumerate((1, 2, 1)):
        folder = tmp_path / str(number)
        with Template(wanted, kept) as template:
            assert template.is_kept == (number > 0)
            models = template.fill(tensors(seed, "bilinear"), folder)
            assert [path.name for path in models] == ["saved_model", "model.tflite"]
        kept.write()
        made.append(contents(folder))
    own = tmp_path / "own"
    own.mkdir()
    save_file(tensors(1, "bilinear"), tmp_path / "tensors")
    request = json.dumps({**wanted.facts(), "folder": str(own)})
    subprocess.run([sys.executable, "-c", OWN_BUILD, str(tmp_path / "tensors"), request], check=True, cwd=PROJECT)
    assert set(made[0]) == {"model.tflite", "saved_model/saved_model.pb", *VARIABLES}
    assert made[0] == made[2] == contents(own)
    assert all(made[1][name] != content for name, content in made[0].items())


@pytest.mark.slow
def test_fresh_process_finds_numbers_that_differ_from_their_checksum(tmp_path: Path) -> None:
    wanted = outline(random_head("average_maximum", 1), litert=False)
    with Template(wanted, Kept(tmp_path / "kept")) as template:
        [model] = template.fill(tensors(1), tmp_path)
    content = bytearray((tmp_path / VARIABLES[0]).read_bytes())
    content[content.index(tensors(1)["block5_conv3/kernel"].tobytes())] ^= 1
    (tmp_path / VARIABLES[0]).write_bytes(content)
    with FreshProcess("library") as fresh:
        fresh.begin(model, checks())
        with pytest.raises(ExportError, match="Checksum does not match"):
            fresh.compare(checks())


def test_model_has_its_name_only_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(_served: object, folder: Path) -> None:
        folder.mkdir()
        assert not (tmp_path / "saved_model").exists()

    def convert(_served: object) -> bytes:
        assert (tmp_path / "saved_model").is_dir()
        return b"whole"

    serving = SimpleNamespace(build_served=lambda *_: None, save_served=save, convert_litert=convert)
    monkeypatch.setitem(sys.modules, "tasks.vgg.exports.serving", serving)
    build_models.build({**outline(random_head("average_maximum", 1)).facts(), "folder": str(tmp_path)})
    assert (tmp_path / "model.tflite").read_bytes() == b"whole"


def test_model_that_is_never_written_is_told_with_what_the_process_said() -> None:
    with TensorFlowProcess("check_serving.py", "It can't be built", "nothing") as process:
        with pytest.raises(ExportError, match=r"(?s)It can't be built.*KeyError: 'nothing'"):
            process.wait_for("saved_model")
        (process.files / "saved_model").mkdir()
        assert process.wait_for("saved_model") == process.files / "saved_model", "it was written before the end"


@pytest.mark.parametrize("times", [0, 2])
def test_template_without_each_tensor_once_is_refused(tmp_path: Path, times: int) -> None:
    graph = tmp_path / "saved_model/saved_model.pb"
    graph.parent.mkdir()
    known = known_parts("saved_model", outline(random_head("average_maximum", 1)))
    kernel, bias = known["saved_model/saved_model.pb"].values()
    graph.write_bytes(b"some" + kernel * times + bias)
    with pytest.raises(ExportError, match=r"saved_model\.pb doesn't contain the tensor head_1/kernel exactly once"):
        without_numbers(graph.parent, known)
    graph.write_bytes(b"some" + kernel + bias)
    assert without_numbers(graph.parent, known)["saved_model/saved_model.pb"] == b"some"


def test_outline_depends_on_all_but_the_numbers() -> None:
    one = outline(random_head("average_maximum", 1))
    tuned = backbone(tensors(2))
    assert one.facts() == replace(outline(random_head("average_maximum", 2)), weights=tuned).facts()
    others = [
        outline(random_head("bilinear", 1)),
        replace(one, weights=random_weights()),
        replace(one, classes=("ant", "cat", "Ä<b>")),
        replace(one, background_rgb=(0, 0, 0)),
        replace(one, max_pixels=2001),
        replace(one, test_time_augmentation=True),
        replace(one, litert=False),
    ]
    assert all(other.facts() != one.facts() for other in others)
