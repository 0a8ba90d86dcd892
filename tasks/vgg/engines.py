"""The engines that run images through the frozen network: ncnn on CPUs, TensorFlow on GPUs and CPUs with matrix units.

Training images can also use int8, by ONNX Runtime (`quantized.py`). `engine_choice.py` chooses.

Measured on two AVX2 cores: ncnn 13.8 images/s, TensorFlow 4.6 in float32 and in bfloat16; ncnn is float32 and
agrees with TensorFlow to 2e-4 (of which 16-bit storage is the larger part), bfloat16 to 9e-3. See
`benchmarks/network.py`.
"""

from __future__ import annotations

import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tasks.errors import SettingsError, WeightsError
from tasks.parallel import in_order, usable_cores
from tasks.vgg.backbone import preprocess, tensorflow_blocks
from tasks.vgg.hardware import has_gpu
from tasks.vgg.head import Floats
from tasks.vgg.quiet_tensorflow import load_tensorflow
from tasks.vgg.weights import BLOCKS, Weights

Pixels = npt.NDArray[np.uint8]
Halves = npt.NDArray[np.float16]
Extract = Callable[[Pixels], tuple[npt.NDArray[Any], ...]]
"""Images (n, 224, 224, 3) uint8 RGB, n up to the batch size -> for each boundary features (n, h, w, c)."""

Name = Literal["ncnn", "tensorflow", "onnxruntime"]
Precision = Literal["float32", "bfloat16", "int8"]

_BUSY_BATCH = 8


@dataclass(frozen=True)
class Engine:
    """An engine and its precision; part of the fingerprint of the features.

    Attributes:
        name: what runs the network.
        precision: of the activations.
        ranges: int8 only: the largest output of each convolution; see `quantized.measure_ranges`.
    """

    name: Name
    precision: Precision
    ranges: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} in {self.precision}"


def build_extractor(
    engine: Engine,
    weights: Weights,
    boundaries: Sequence[str],
    batch_size: int,
    cores: int | None = None,
    dtype: type[np.floating[Any]] = np.float16,
) -> Extract:
    """The network as a function of batches that returns the outputs at `boundaries` (from the input to the output).

    Args:
        engine: runs the network.
        weights: of the network.
        boundaries: whose outputs are returned.
        batch_size: most images in a batch.
        cores: all usable ones if None; TensorFlow ignores it.
        dtype: of the outputs. 16 bits are enough to store what the published weights give; a backbone that was trained
            further may exceed their largest number, 65,504.
    """
    if engine.name == "ncnn":
        return _one_a_core(_ncnn_network(weights, boundaries), cores or usable_cores(), dtype)
    if engine.name == "onnxruntime":
        from tasks.vgg.quantized import QuantizedNetwork

        return _one_a_core(QuantizedNetwork(weights, engine.ranges, boundaries), cores or usable_cores(), dtype)
    return _TensorFlowNetwork(weights, boundaries, batch_size, engine.precision, dtype)


def in_batches(images: Iterable[tuple[str, Pixels]], batch_size: int) -> Iterator[tuple[list[str], Pixels]]:
    """Gather single images into (keys, images (n, 224, 224, 3)); only the last batch may be smaller."""
    keys: list[str] = []
    batch: list[Pixels] = []
    for key, pixels in images:
        keys.append(key)
        batch.append(pixels)
        if len(batch) == batch_size:
            yield keys, np.stack(batch)
            keys, batch = [], []
    if batch:
        yield keys, np.stack(batch)


def extract_here(
    engine: Engine,
    weights: Weights,
    boundaries: Sequence[str],
    images: Iterable[tuple[str, Pixels]],
    batch_size: int,
    following: Engine | None = None,
) -> Iterator[tuple[str, tuple[Halves, ...]]]:
    """Run images through the network on this machine; yields (key, features at each boundary), in order.

    The network is built at once. So many batches are in progress that no core waits for the last image of a batch or
    for the next images to be read. Meanwhile, TensorFlow is imported if the engine that comes afterwards needs it.
    """
    extract = build_extractor(engine, weights, boundaries, batch_size)
    under_way = _batches_under_way(engine)

    def run() -> Iterator[tuple[str, tuple[Halves, ...]]]:
        with ThreadPoolExecutor(under_way, thread_name_prefix="batch") as pool:
            begun = ((keys, pool.submit(extract, batch)) for keys, batch in in_batches(images, batch_size))
            for number, (keys, future) in enumerate(in_order(begun, under_way + 1)):
                if number == 0 and following and following.name == "tensorflow":
                    load_tensorflow(keras=False)
                yield from by_image(keys, future.result())

    return run()


def _batches_under_way(engine: Engine) -> int:
    """TensorFlow keeps all cores busy with one batch; a second one only needs its memory. A GPU must not wait."""
    return 1 if engine.name == "tensorflow" and not has_gpu() else 2


def by_image(keys: Sequence[str], outputs: tuple[Halves, ...]) -> Iterator[tuple[str, tuple[Halves, ...]]]:
    """A batch's outputs, one array a boundary -> (key, one array a boundary) for each image."""
    return zip(keys, zip(*outputs, strict=True), strict=True)


def _one_a_core(extract_one: Callable[[Pixels], list[Floats]], cores: int, dtype: type[np.floating[Any]]) -> Extract:
    """Compute images in parallel, each on one core: faster than all cores on one image."""
    pool = ThreadPoolExecutor(cores, thread_name_prefix="image")

    def extract_typed(pixels: Pixels) -> list[npt.NDArray[Any]]:
        return [output.astype(dtype) for output in extract_one(pixels)]

    def extract(batch: Pixels) -> tuple[npt.NDArray[Any], ...]:
        return tuple(np.stack(outputs) for outputs in zip(*pool.map(extract_typed, batch), strict=True))

    return extract


def _ncnn_network(weights: Weights, boundaries: Sequence[str]) -> Callable[[Pixels], list[Floats]]:
    import ncnn

    network = ncnn.Net()
    network.opt.num_threads = 1
    network.opt.use_fp16_packed = network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = False
    network.opt.use_bf16_storage = False
    layers, blob = _ncnn_files(weights, boundaries[-1])
    if network.load_param_mem(layers) != 0 or not _load_ncnn_weights(network, blob):
        raise WeightsError("ncnn could not load the network. Use features.engine=tensorflow.")

    def extract_one(pixels: Pixels) -> list[Floats]:
        planes = np.ascontiguousarray(preprocess(pixels.astype(np.float32)).transpose(2, 0, 1))
        run = network.create_extractor()
        run.input("images", ncnn.Mat(planes))
        outputs = []
        for boundary in boundaries:  # each continues from the boundary before
            status, output = run.extract(boundary)
            if status != 0:
                raise WeightsError(f"ncnn stopped with status {status} at {boundary}.")
            outputs.append(np.array(output).transpose(1, 2, 0))
        return outputs

    return extract_one


def _ncnn_files(weights: Weights, boundary: str) -> tuple[str, bytes]:
    """The network in ncnn's own text and binary formats (ncnn wiki: param and model file structure)."""
    lines = ["Input images 0 1 images"]
    blob = bytearray()
    previous = "images"
    for block, (_, convolutions) in enumerate(BLOCKS, 1):
        for number in range(1, convolutions + 1):
            name = f"block{block}_conv{number}"
            kernel = weights[f"{name}/kernel"]
            # 0 filters, 1 kernel, 4 padding, 5 bias, 6 number of weights, 9 relu
            lines.append(
                f"Convolution {name} 1 1 {previous} {name} 0={kernel.shape[3]} 1=3 4=1 5=1 6={kernel.size} 9=1"
            )
            blob += struct.pack("<I", 0) + kernel.transpose(3, 2, 0, 1).astype("<f4").tobytes()
            blob += weights[f"{name}/bias"].astype("<f4").tobytes()
            previous = name
        pool = f"block{block}_pool"
        lines.append(f"Pooling {pool} 1 1 {previous} {pool} 0=0 1=2 2=2")  # maximum, 2x2, stride 2
        previous = pool
        if pool == boundary:
            break
    return f"7767517\n{len(lines)} {len(lines)}\n" + "\n".join(lines) + "\n", bytes(blob)


def _load_ncnn_weights(network: Any, blob: bytes) -> bool:
    """Ncnn's Python binding loads weights from files only."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vgg16.bin"
        file.write_bytes(blob)
        return bool(network.load_model(str(file)) == 0)


class _TensorFlowNetwork:
    """VGG16 by TensorFlow, in batches of one size, because another size is planned again; a smaller one is filled up.

    If the memory runs out, the size is halved. Threads may call it at the same time.
    """

    def __init__(
        self, weights: Weights, boundaries: Sequence[str], size: int, precision: Precision, dtype: type[Any]
    ) -> None:
        load_tensorflow(keras=False)
        import tensorflow as tf

        for device in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(device, True)
        if precision == "float32":  # else GPUs multiply with 10 bits of 23, unlike the exported model
            tf.config.experimental.enable_tensor_float_32_execution(False)
        self._tensors = {name: tf.constant(value, precision) for name, value in weights.items()}
        self._boundaries, self._size, self._precision, self._dtype = boundaries, size, precision, dtype
        self._graphs: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __call__(self, batch: Pixels) -> tuple[npt.NDArray[Any], ...]:
        """The outputs at the boundaries.

        Raises:
            SettingsError: the memory is too small even for a single image.
        """
        import tensorflow as tf

        while True:
            size = self._size
            try:
                parts = [self._run(batch[start : start + size], size) for start in range(0, len(batch), size)]
                return tuple(np.concatenate(outputs) for outputs in zip(*parts, strict=True))
            except tf.errors.ResourceExhaustedError:
                self._halve(size)

    def _halve(self, size: int) -> None:
        if size == 1:
            raise SettingsError(
                "Not even one image fits into the GPU's memory. Free some (nvidia-smi shows who uses it), or let the "
                "CPU compute: features.engine=ncnn"
            ) from None
        with self._lock:
            if self._size == size:
                self._size = size // 2
                print(f"{size} images don't fit into the memory: {size // 2} are computed at once.", file=sys.stderr)

    def _run(self, images: Pixels, size: int) -> list[npt.NDArray[Any]]:
        import tensorflow as tf

        missing = size - len(images)
        padded = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else images
        return [output.numpy()[: len(images)] for output in self._graph(size)(tf.constant(padded))]

    def _graph(self, size: int) -> Any:
        """Traced once for a size: TensorFlow warns of functions that it traces again, also of several engines."""
        import tensorflow as tf

        with self._lock:
            if size not in self._graphs:
                signature = [tf.TensorSpec((size, 224, 224, 3), tf.uint8)]
                traced = tf.function(self._outputs, input_signature=signature, autograph=False)
                self._graphs[size] = traced.get_concrete_function()
            return self._graphs[size]

    def _outputs(self, images: Any) -> list[Any]:
        import tensorflow as tf

        values = tf.cast(preprocess(tf.cast(images, tf.float32)), self._precision)
        outputs = dict(tensorflow_blocks(values, self._tensors, self._boundaries[-1]))
        return [tf.cast(outputs[boundary], self._dtype) for boundary in self._boundaries]


def measure_rate(engine: Engine, weights: Weights, batch_size: int) -> float:
    """Images/s of the second batch; the first one includes the planning.

    On CPUs a smaller batch tells as much, in less time: TensorFlow keeps all cores busy with a few images, and the
    other engines compute each image on one core.
    """
    if not has_gpu():
        batch_size = min(batch_size, _BUSY_BATCH if engine.name == "tensorflow" else usable_cores())
    batch = np.zeros((batch_size, 224, 224, 3), dtype=np.uint8)
    extract = build_extractor(engine, weights, ("block5_pool",), batch_size)
    extract(batch)
    start = time.monotonic()
    extract(batch)
    return batch_size / (time.monotonic() - start)
