"""The comparison of exported models with the trained one: its images, and that every difference is found."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from tasks.errors import ExportError, IntegrityError
from tasks.files import sha256_hex
from tasks.images.decoding import PERMISSIVE, decode
from tasks.images.manifest import Example
from tasks.images.packs import index_packs, write_packs
from tasks.vgg import inference
from tasks.vgg.engines import Engine
from tasks.vgg.exports import parity
from tasks.vgg.exports.checks import Checks, choose, predict_images, read_images, variants
from tasks.vgg.exports.kept import Kept
from tasks.vgg.exports.onnx_graph import build_onnx
from tasks.vgg.exports.parity import FreshProcess, compare
from tasks.vgg.head import Dense, Head
from tests.conftest import draw_image
from tests.tasks.images.encoding import encode
from tests.tasks.vgg.small_weights import tiny_weights

RUNTIMES: tuple[Literal["python"], Literal["library"]] = ("python", "library")
CLASSES = ("ant", "bee")


def checks(tolerance: float = 0.01, count: int = 2) -> Checks:
    probabilities = np.tile(np.array([[0.8, 0.2]], np.float32), (count, 1))
    names = tuple(f"{number}.png" for number in range(count))
    pixels = np.zeros((count, 224, 224, 3), np.uint8)
    features = np.zeros((count, 1024), np.float32)
    return Checks(names, (b"",) * count, pixels, count, probabilities, CLASSES, tolerance, features)


def classifier(head: Any, backbone: Any = ("trained",), both_sides: bool = False) -> Any:
    return SimpleNamespace(head=head, backbone=backbone, test_time_augmentation=both_sides, classes=CLASSES)


def example(label: str, number: int) -> Example:
    return Example(f"{number:02d}", f"{label}/{number}", label, "test", 9, 9, "PNG", "")


def test_choose_takes_each_class_in_turn_whatever_the_order() -> None:
    examples = [example("ant", number) for number in range(6)] + [example("bee", number) for number in range(7, 9)]
    assert [one.path for one in choose(examples, 5)] == ["ant/0", "bee/7", "ant/1", "bee/8", "ant/2"]
    assert choose(examples[::-1], 5) == choose(examples, 5)
    assert len(choose(examples, 99)) == 8


def test_packs_are_indexed_once_for_all_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [encode(draw_image("ant", number), "PNG") for number in range(4)]
    keys = [sha256_hex(content) for content in contents]
    assert len(list(write_packs(tmp_path, zip(keys, contents, strict=True), 1))) == 4
    examples = [Example(key, key, "ant", "test", 9, 9, "PNG", "") for key in keys]
    calls: list[Path] = []
    index = index_packs
    monkeypatch.setattr("tasks.vgg.exports.checks.index_packs", lambda folder: calls.append(folder) or index(folder))
    found = read_images(examples, tmp_path, (255, 255, 255), 2000)
    assert set(contents) == set(found.contents[: found.real])
    assert len(found.contents) == len(contents) + 5
    assert calls == [tmp_path]
    with pytest.raises(IntegrityError, match="ant/1 is in no pack"):
        read_images([*examples, example("ant", 1)], tmp_path, (255, 255, 255), 2000)


def test_trained_backbone_may_exceed_16_bits_and_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(draw_image("ant", 0), "PNG")
    key = sha256_hex(content)
    list(write_packs(tmp_path, [(key, content)], 1))
    large = {
        name: value * np.float32(1e4 if name.startswith("block5_conv3") else 1)
        for name, value in tiny_weights().items()
    }
    kernel = np.random.default_rng(0).normal(0, 3, (16, 2)).astype(np.float32)
    head = Head("average_maximum", (Dense(kernel, np.zeros(2, np.float32), "softmax"),))
    held_out = [Example(key, key, "ant", "test", 9, 9, "PNG", "")]
    kept = Kept(tmp_path / "kept")
    images = read_images(held_out, tmp_path, (255, 255, 255), 2000)
    trained = classifier(head)
    found = predict_images(images, trained, large, 0.01, kept)
    monkeypatch.setattr(inference, "load_weights", None)
    network = inference.latest.network(trained.backbone, Engine("ncnn", "float32"))
    outputs = network(images.pixels)[0]
    assert outputs.max() > np.finfo(np.float16).max
    np.testing.assert_allclose(head.probabilities(outputs), found.probabilities, atol=1e-6)  # as for the evaluation
    answered, features = parity.run_onnx(build_onnx(head, CLASSES, large), found.pixels)
    np.testing.assert_allclose(features, found.features, atol=1e-5)
    np.testing.assert_allclose(answered, found.probabilities, atol=1e-4)


def test_outputs_of_a_frozen_backbone_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(draw_image("ant", 0), "PNG")
    key = sha256_hex(content)
    list(write_packs(tmp_path, [(key, content)], 1))
    computed: list[int] = []
    build = inference.build_extractor

    def building(*given: Any, **named: Any) -> Any:
        computed.append(1)
        return build(*given, **named)

    monkeypatch.setattr(inference, "build_extractor", building)
    images = read_images([Example(key, key, "ant", "test", 9, 9, "PNG", "")], tmp_path, (255, 255, 255), 2000)

    def probabilities(seed: int, *, frozen: bool = True, both_sides: bool = False, factor: float = 1) -> Any:
        kernel = np.random.default_rng(seed).normal(0, 3, (16, 2)).astype(np.float32)
        head = Head("average_maximum", (Dense(kernel, np.zeros(2, np.float32), "softmax"),))
        trained = classifier(head, {} if frozen else {"block5": 0}, both_sides)
        weights = {name: value * np.float32(factor) for name, value in tiny_weights().items()}
        kept = Kept(tmp_path / "kept")
        found = predict_images(images, trained, weights, 0.01, kept)
        kept.write()
        return found.probabilities

    first, second = probabilities(1), probabilities(2)
    assert len(computed) == 1
    assert np.abs(first - second).max() > 0.01, "each head has its own probabilities"
    np.testing.assert_array_equal(probabilities(2, frozen=False), second)
    np.testing.assert_array_equal(probabilities(2, frozen=False), second)
    assert len(computed) == 3, "those of a backbone that was trained further are not kept"
    probabilities(1, both_sides=True)
    probabilities(1, factor=0.9)
    assert len(computed) == 5, "other views and other weights are other entries"
    np.testing.assert_array_equal(probabilities(1, both_sides=True), probabilities(1, both_sides=True, frozen=False))


def test_images_may_have_as_many_pixels_as_training_accepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.vgg.exports.checks.PERMISSIVE", replace(PERMISSIVE, max_pixels=1023))
    content = encode(draw_image("ant", 0), "PNG")  # 32x32
    key = sha256_hex(content)
    list(write_packs(tmp_path, [(key, content)], 1))
    held_out = [Example(key, key, "ant", "test", 9, 9, "PNG", "")]
    assert key in read_images(held_out, tmp_path, (255, 255, 255), 1024).names
    with pytest.raises(IntegrityError, match="more than 1022"):
        read_images(held_out, tmp_path, (255, 255, 255), 1022)


def test_variants_are_the_image_in_both_formats_and_turned() -> None:
    rows, columns = np.mgrid[0:120, 0:200]
    smooth = Image.fromarray(np.stack([rows, columns, rows], axis=2).astype(np.uint8))
    buffer = io.BytesIO()
    smooth.save(buffer, "PNG")
    upright = decode(buffer.getvalue())[0].astype(int)
    made = {name: decode(content)[0].astype(int) for name, content in variants(buffer.getvalue())}
    assert {name.split()[1].rstrip(",") for name in made} == {"JPEG", "PNG"}
    for name, pixels in made.items():
        same = np.abs(pixels - upright).mean() < 3
        assert same == ("EXIF" not in name), name


def test_compare_gives_the_largest_difference() -> None:
    answers = np.array([[0.8, 0.2], [0.795, 0.205]])
    assert compare("ONNX", answers, checks()).largest == pytest.approx(0.005, abs=1e-6)
    assert compare("ONNX", answers[1:], checks(), [1]).largest == pytest.approx(0.005, abs=1e-6)


@pytest.mark.parametrize("wrong", [[0.7, 0.3], [0.2, 0.8], [np.nan, 0.2]])
def test_compare_names_format_image_and_both_answers(wrong: list[float]) -> None:
    with pytest.raises(ExportError) as caught:
        compare("LiteRT", np.array([[0.8, 0.2], wrong]), checks())
    message = str(caught.value)
    assert all(part in message for part in ("LiteRT", "1.png", "ant (0.8000)", "0.01"))


def test_compare_refuses_another_number_of_classes() -> None:
    with pytest.raises(ExportError, match=r"shape \(2, 3\), expected \(2, 2\)"):
        compare("ONNX", np.zeros((2, 3)), checks())


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_fresh_process_says_why_a_model_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: Any
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    with FreshProcess(runtime) as fresh:
        fresh.begin(tmp_path / "nowhere/saved_model", checks())
        with pytest.raises(ExportError, match="can't be used by a fresh process") as caught:
            fresh.compare(checks())
        fresh._errors.seek(0)
        assert (b"tensorflow.python.framework" in fresh._errors.read()) == (runtime == "python")
    assert "nowhere" in str(caught.value)


def test_fresh_process_ends_with_its_caller() -> None:
    with FreshProcess("library") as fresh:
        child = fresh._child
        assert child.poll() is None
    assert child.poll() is not None
    assert not fresh.files.exists()


@pytest.mark.slow
def test_fresh_process_compares_labels_and_counts_refused_images(tmp_path: Path) -> None:
    import keras

    from tasks.vgg.exports.serving import Served, convert_litert, save_served

    given = keras.Input((224, 224, 3))
    average = keras.layers.GlobalAveragePooling2D()(given)
    dense = keras.layers.Dense(2, activation="softmax")
    network = keras.Model(given, dense(average))
    dense.set_weights([np.zeros((3, 2), np.float32), np.log([0.8, 0.2]).astype(np.float32)])
    tensors = [weight.value for weight in network.weights]
    served = Served(network, tensors, CLASSES, (255, 255, 255), 2000)
    save_served(served, tmp_path / "saved_model")
    (tmp_path / "model.tflite").write_bytes(convert_litert(served))
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "PNG")
    base = checks(count=3)
    asked = Checks(base.names, (buffer.getvalue(), b"GIF89a", buffer.getvalue()), *list(vars(base).values())[2:])
    for runtime in RUNTIMES:
        with FreshProcess(runtime) as fresh:
            for name in ("saved_model", "model.tflite"):
                fresh.begin(tmp_path / name, asked)
            differences, refused = fresh.compare(asked)
        assert refused == 1
        assert len(differences) == 2
        assert max(one.largest for one in differences) < 1e-6


@pytest.mark.parametrize(
    ("form", "right", "wrong"),
    [("SavedModel", [0.8, 0.2], [0.7, 0.3]), ("LiteRT", [0.8, 0.2], [0.2, 0.8])],
)
def test_fresh_process_finds_the_format_that_differs(
    monkeypatch: pytest.MonkeyPatch, form: str, right: list[float], wrong: list[float]
) -> None:
    served, converted = (wrong if form == name else right for name in ("SavedModel", "LiteRT"))
    one = {"label": "ant", "probability": max(right), "probabilities": right}
    other = {"label": "ant", "probability": max(served), "probabilities": served}
    with FreshProcess("library") as fresh:
        monkeypatch.setattr(fresh, "answers", lambda: [one, other, [right, converted]])
        with pytest.raises(ExportError, match=rf"{form} doesn't predict what the trained model does on 1\.png"):
            fresh.compare(checks())
        monkeypatch.setattr(fresh, "answers", lambda: [one])
        with pytest.raises(ExportError, match="can't be used by a fresh process"):
            fresh.compare(checks())
