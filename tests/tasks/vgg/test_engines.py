"""Engines: which one is chosen, how images are batched, and that all of them compute VGG16."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from tasks.errors import SettingsError
from tasks.vgg import engines
from tasks.vgg.backbone import BOUNDARIES, boundary_shape, preprocess
from tasks.vgg.engines import Engine, Extract, build_extractor, extract_here, in_batches, measure_rate
from tasks.vgg.exports.onnx_graph import backbone_model
from tasks.vgg.quantized import measure_ranges, quantize
from tasks.vgg.weights import load_weights
from tests.tasks.vgg.keras_backbone import build_keras_backbone
from tests.tasks.vgg.small_weights import random_weights

NCNN = Engine("ncnn", "float32")


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7, 8])
def test_batches_keep_the_order_and_the_last_partial_one(count: int) -> None:
    single = ((f"key{number}", np.full((2, 2, 3), number, np.uint8)) for number in range(count))
    batches = list(in_batches(single, 4))
    assert [len(keys) for keys, _ in batches] == [4] * (count // 4) + ([count % 4] if count % 4 else [])
    found = [(key, int(pixels[0, 0, 0])) for keys, batch in batches for key, pixels in zip(keys, batch, strict=True)]
    assert found == [(f"key{number}", number) for number in range(count)]


def test_features_come_back_under_the_key_of_their_image() -> None:
    batch = images(3)
    named = [(f"key{number}", batch[number]) for number in (2, 0, 1)]
    found = list(extract_here(NCNN, random_weights(), ("block1_pool",), named, 2))
    assert [key for key, _ in found] == ["key2", "key0", "key1"]
    (expected,) = build_extractor(NCNN, random_weights(), ("block1_pool",), 3)(batch)
    assert all(np.array_equal(features, expected[int(key[-1])]) for key, (features,) in found)


@pytest.mark.parametrize(
    ("engine", "gpu", "most"),
    [(NCNN, False, 2), (Engine("tensorflow", "bfloat16"), False, 1), (Engine("tensorflow", "bfloat16"), True, 2)],
)
def test_so_many_batches_are_computed_at_once_that_all_cores_have_work(
    engine: Engine, gpu: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[int] = []
    counts: set[int] = set()
    together = threading.Barrier(most)

    def extract(batch: np.ndarray) -> tuple[np.ndarray, ...]:
        running.append(1)
        together.wait(timeout=30)
        time.sleep(0.05)
        counts.add(len(running))
        together.wait(timeout=30)
        running.pop()
        return (batch,)

    monkeypatch.setattr(engines, "build_extractor", lambda *_: extract)
    monkeypatch.setattr(engines, "has_gpu", lambda: gpu)
    assert len(list(extract_here(engine, {}, (), [("key", image) for image in images(4)], 1))) == 4
    assert counts == {most}


def images(count: int) -> np.ndarray:
    """Noise at several scales, so that edges of every size are there."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (count, 28, 28, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return (0.7 * coarse + 0.3 * rng.integers(0, 256, coarse.shape)).astype(np.uint8)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    difference = found.astype(np.float64) - expected.astype(np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(expected.astype(np.float64)))


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_ncnn_gives_every_boundary_in_keras_layout(boundary: str) -> None:
    extract = build_extractor(NCNN, random_weights(), (boundary,), 2)
    (features,) = extract(images(2))
    assert (features.shape, features.dtype) == ((2, *boundary_shape(boundary)), np.float16)
    assert np.isfinite(features).all()


def test_ncnn_gives_the_same_for_an_image_alone_and_in_a_batch() -> None:
    extract = build_extractor(NCNN, random_weights(), ("block3_pool",), 3)
    batch = images(3)
    assert np.array_equal(extract(batch)[0][2], extract(batch[2:])[0][0])


@pytest.mark.slow
@pytest.mark.parametrize("engine", [NCNN, Engine("tensorflow", "float32")], ids=str)
def test_several_boundaries_in_one_pass_are_those_of_single_passes(engine: Engine) -> None:
    batch, wanted = images(2), ("block1_pool", "block2_pool", "block5_pool")
    together = build_extractor(engine, random_weights(), wanted, 2)(batch)
    for boundary, found in zip(wanted, together, strict=True):
        (alone,) = build_extractor(engine, random_weights(), (boundary,), 2)(batch)
        assert relative_error(found, alone) < 1e-3


@pytest.mark.slow
def test_float32_is_not_rounded_to_10_bits_on_gpus() -> None:
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(True)
    build_extractor(Engine("tensorflow", "float32"), random_weights(), ("block1_pool",), 1)
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


@pytest.mark.slow
def test_several_networks_in_a_process_say_nothing_about_tracing(caplog: pytest.LogCaptureFixture) -> None:
    """On a GPU the stage `features` builds four of them; TensorFlow counted their first calls as repeated tracing."""
    for _ in range(6):
        build_extractor(Engine("tensorflow", "float32"), random_weights(), ("block1_pool",), 1)(images(1))
    assert caplog.text == ""


@pytest.mark.slow
@pytest.mark.parametrize("fitting", [3, 1, 0])
def test_batch_that_does_not_fit_into_the_memory_is_halved(
    fitting: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import tensorflow as tf

    engine, batch, compute = Engine("tensorflow", "float32"), images(8), engines.tensorflow_blocks

    def compute_if_it_fits(values: Any, *others: Any) -> Any:
        if values.shape[0] > fitting:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return compute(values, *others)

    (expected,) = build_extractor(engine, random_weights(), ("block1_pool",), 8)(batch)
    monkeypatch.setattr(engines, "tensorflow_blocks", compute_if_it_fits)
    extract = build_extractor(engine, random_weights(), ("block1_pool",), 8)
    if not fitting:
        with pytest.raises(SettingsError, match=r"features\.engine=ncnn"):
            extract(batch)
        return
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(extract, some) for some in (batch, batch[:5])]
    for (one,), whole in zip([future.result() for future in found], (expected, expected[:5]), strict=True):
        np.testing.assert_allclose(one, whole, atol=1e-2)
    said = capsys.readouterr().err
    sizes = [8, 4] if fitting == 3 else [8, 4, 2]
    assert said == "".join(
        f"{one} images don't fit into the memory: {one // 2} are computed at once.\n" for one in sizes
    )


@pytest.fixture(scope="module")
def ranges() -> tuple[float, ...]:
    """Calibrated on one image."""
    return measure_ranges(random_weights(), images(1))


@pytest.mark.slow
@pytest.mark.parametrize("boundary", ["block1_pool", "block5_pool"])
def test_int8_gives_every_boundary_in_keras_layout_the_same_each_time(ranges: tuple[float, ...], boundary: str) -> None:
    batch, engine = images(2), Engine("onnxruntime", "int8", ranges)
    (features,) = build_extractor(engine, random_weights(), (boundary,), 2)(batch)
    assert (features.shape, features.dtype) == ((2, *boundary_shape(boundary)), np.float16)
    (again,) = build_extractor(engine, random_weights(), (boundary,), 1)(batch[1:])
    assert np.array_equal(again[0], features[1])


def test_int8_products_of_two_cannot_pass_16_bits(ranges: tuple[float, ...]) -> None:
    """CPUs without VNNI add them so, with saturation: onnxruntime.ai, "Quantize ONNX models", on U8S8."""
    model = quantize(backbone_model(random_weights(), ("block2_pool",)), ranges)
    kernels = [numpy_helper.to_array(one) for one in model.graph.initializer if one.data_type == TensorProto.INT8]
    largest = max(int(np.abs(kernel.astype(np.int16)).max()) for kernel in kernels)
    assert largest > 32
    assert 2 * 255 * largest <= np.iinfo(np.int16).max


@pytest.fixture(scope="module")
def published() -> tuple[np.ndarray, Extract]:
    """Four images, and ncnn with the published weights."""
    return images(4), build_extractor(NCNN, load_weights(), ("block5_pool",), 4)


@pytest.mark.slow
@pytest.mark.weights
def test_ncnn_agrees_with_vgg16_of_keras(published: tuple[np.ndarray, Extract]) -> None:
    import keras

    batch, extract = published
    weights = load_weights()
    theirs = keras.applications.VGG16(weights=None, include_top=False, input_shape=(224, 224, 3))
    theirs.set_weights(list(weights.values()))  # in their order, not by our names
    expected = theirs(keras.applications.vgg16.preprocess_input(batch.astype(np.float32)), training=False).numpy()
    found = extract(batch)[0].astype(np.float32)
    cosine = (found * expected).sum() / (np.linalg.norm(found) * np.linalg.norm(expected))
    assert relative_error(found, expected) <= 1e-3
    assert cosine >= 1 - 1e-6


@pytest.mark.slow
@pytest.mark.weights
def test_int8_agrees_with_float_on_images_it_was_not_calibrated_on(published: tuple[np.ndarray, Extract]) -> None:
    batch, extract = published
    weights = load_weights()
    engine = Engine("onnxruntime", "int8", measure_ranges(weights, batch[:2]))
    wanted = extract(batch[2:])[0].astype(np.float32)
    found = build_extractor(engine, weights, ("block5_pool",), 4)(batch[2:])[0].astype(np.float32)
    for one, other in zip(found, wanted, strict=True):
        assert (one * other).sum() / (np.linalg.norm(one) * np.linalg.norm(other)) >= 0.99


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 3e-2)])
def test_tensorflow_agrees_with_ncnn_also_on_a_partial_batch(
    published: tuple[np.ndarray, Extract], precision: Any, tolerance: float
) -> None:
    batch, extract = published
    other = build_extractor(Engine("tensorflow", precision), load_weights(), ("block5_pool",), 4)
    (expected,), (found,) = extract(batch[:3]), other(batch[:3])
    assert (found.shape, found.dtype) == (expected.shape, np.float16)
    assert relative_error(found, expected) <= tolerance


def test_engines_are_told_apart_by_their_preprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above would pass if both sides were fed wrongly: the input must come from `preprocess`."""
    batch = images(1)
    (right,) = build_extractor(NCNN, random_weights(), ("block1_pool",), 1)(batch)
    monkeypatch.setattr(engines, "preprocess", lambda rgb: preprocess(rgb[..., ::-1]))
    (wrong,) = build_extractor(NCNN, random_weights(), ("block1_pool",), 1)(batch)
    assert relative_error(wrong, right) > 0.01


def test_names_of_engines_are_readable() -> None:
    assert str(NCNN) == "ncnn in float32"


@pytest.mark.parametrize(
    ("engine", "gpu", "measured"),
    [
        (NCNN, False, 2),  # an image a core
        (Engine("tensorflow", "bfloat16"), False, 8),
        (Engine("tensorflow", "bfloat16"), True, 32),
    ],
)
def test_rate_on_a_cpu_is_measured_with_few_images(
    engine: Engine, gpu: bool, measured: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []

    def build(_engine: Engine, _weights: Any, _boundaries: Any, batch_size: int) -> Extract:
        def extract(batch: np.ndarray) -> tuple[np.ndarray, ...]:
            assert len(batch) == batch_size
            computed.append(batch_size)
            return (batch,)

        return extract

    monkeypatch.setattr(engines, "build_extractor", build)
    monkeypatch.setattr(engines, "has_gpu", lambda: gpu)
    monkeypatch.setattr(engines, "usable_cores", lambda: 2)
    assert measure_rate(engine, {}, 32) > 0
    assert computed == [measured, measured]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_operations_of_tensorflow_give_what_layers_of_keras_give(precision: Any) -> None:
    import tensorflow as tf

    boundaries, batch = ("block3_pool", "block5_pool"), images(2)
    found = build_extractor(Engine("tensorflow", precision), random_weights(), boundaries, len(batch))(batch)
    layers = tf.function(build_keras_backbone(random_weights(), boundaries, precision))
    for one, other in zip(found, layers(preprocess(batch.astype(np.float32))), strict=True):
        np.testing.assert_array_equal(one, tf.cast(other, tf.float16).numpy())
