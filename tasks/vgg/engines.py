"""What runs the frozen network over pictures: ncnn on CPUs, TensorFlow on GPUs and on CPUs with matrix units.

Measured on two AVX2 cores: ncnn 13.8 pictures/s, TensorFlow 4.6 in float32 and in bfloat16; ncnn is float32 and
agrees with TensorFlow to 2e-4 (of which 16-bit storage is the larger part), bfloat16 to 9e-3. See
`benchmarks/network.py`.
"""

from __future__ import annotations

import os
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tasks.errors import WeightsError
from tasks.pictures.workers import usable_cores
from tasks.settings import Features
from tasks.vgg.backbone import build_keras_backbone, preprocess
from tasks.vgg.weights import BLOCKS, Weights

Pixels = npt.NDArray[np.uint8]
Halves = npt.NDArray[np.float16]
Extract = Callable[[Pixels], Halves]
"""Pictures (n, 224, 224, 3) uint8 RGB, n up to the batch size -> features (n, h, w, c) float16."""

Name = Literal["ncnn", "tensorflow"]
Precision = Literal["float32", "bfloat16"]

_BATCHES_UNDER_WAY = 2
_FASTER_BY = 1.2
"""What the probe must find for TensorFlow to be chosen: close calls must not depend on chance."""


@dataclass(frozen=True)
class Engine:
    """A choice that features depend on; part of their fingerprint."""

    name: Name
    precision: Precision

    def __str__(self) -> str:
        return f"{self.name} in {self.precision}"


def choose_engine(wanted: Features, weights: Weights) -> Engine:
    """Settle what `auto` stands for on this machine.

    Without a GPU or matrix units (AMX) there is nothing to measure: ncnn in float32 is as fast as bfloat16 and exact.
    With them a short probe, one batch through each, decides.
    """
    if wanted.engine == "ncnn" or (wanted.engine == "auto" and wanted.precision == "float32" and not _has_gpu()):
        return Engine("ncnn", "float32")
    if wanted.precision != "auto":
        return Engine("tensorflow", wanted.precision)
    if wanted.engine == "tensorflow":
        return Engine("tensorflow", "bfloat16" if _has_gpu() or _cpu_has("avx512_bf16", "amx_bf16") else "float32")
    if not _has_gpu() and not _cpu_has("amx_bf16"):
        return Engine("ncnn", "float32")
    candidates = (Engine("ncnn", "float32"), Engine("tensorflow", "bfloat16"))
    plain, fast = (_probe(candidate, weights, wanted.batch_size) for candidate in candidates)
    return candidates[1] if fast > _FASTER_BY * plain else candidates[0]


def build_extractor(
    engine: Engine, weights: Weights, boundary: str, batch_size: int, cores: int | None = None
) -> Extract:
    """The network up to `boundary` as a function on batches; `cores` (ncnn only) is all that may be used by default."""
    if engine.name == "ncnn":
        return _ncnn_extractor(weights, boundary, cores or usable_cores())
    return _tensorflow_extractor(weights, boundary, batch_size, engine.precision)


def in_batches(pictures: Iterable[tuple[str, Pixels]], batch_size: int) -> Iterator[tuple[list[str], Pixels]]:
    """Gather single pictures into (keys, pictures (n, 224, 224, 3)); only the last batch may be smaller."""
    keys: list[str] = []
    batch: list[Pixels] = []
    for key, pixels in pictures:
        keys.append(key)
        batch.append(pixels)
        if len(batch) == batch_size:
            yield keys, np.stack(batch)
            keys, batch = [], []
    if batch:
        yield keys, np.stack(batch)


def extract_here(
    engine: Engine, weights: Weights, boundary: str, pictures: Iterable[tuple[str, Pixels]], batch_size: int
) -> Iterator[tuple[str, Halves]]:
    """Run pictures through the network on this machine; gives (key, features of that picture), in order.

    The network is built at once. Two batches are under way, so that no core waits for the last picture of a batch, nor
    for the next ones to be read.
    """
    extract = build_extractor(engine, weights, boundary, batch_size)

    def run() -> Iterator[tuple[str, Halves]]:
        waiting: deque[tuple[list[str], Future[Halves]]] = deque()
        with ThreadPoolExecutor(_BATCHES_UNDER_WAY, thread_name_prefix="batch") as pool:
            for keys, batch in in_batches(pictures, batch_size):
                waiting.append((keys, pool.submit(extract, batch)))
                if len(waiting) > _BATCHES_UNDER_WAY:
                    keys, future = waiting.popleft()
                    yield from zip(keys, future.result(), strict=True)
            while waiting:
                keys, future = waiting.popleft()
                yield from zip(keys, future.result(), strict=True)

    return run()


def _ncnn_extractor(weights: Weights, boundary: str, cores: int) -> Extract:
    import ncnn

    network = ncnn.Net()
    network.opt.num_threads = 1  # one picture a core is faster than all cores on one picture
    network.opt.use_fp16_packed = network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = False
    network.opt.use_bf16_storage = False
    layers, blob = _ncnn_network(weights, boundary)
    if network.load_param_mem(layers) != 0 or not _load_ncnn_weights(network, blob):
        raise WeightsError("ncnn could not load the network. Use features.engine=tensorflow.")
    pool = ThreadPoolExecutor(cores, thread_name_prefix="ncnn")

    def extract_one(pixels: Pixels) -> Halves:
        planes = np.ascontiguousarray(preprocess(pixels.astype(np.float32)).transpose(2, 0, 1))
        run = network.create_extractor()
        run.input("pictures", ncnn.Mat(planes))
        status, output = run.extract(boundary)
        if status != 0:
            raise WeightsError(f"ncnn stopped with status {status} at {boundary}.")
        return np.array(output).transpose(1, 2, 0).astype(np.float16)

    def extract(batch: Pixels) -> Halves:
        return np.stack(list(pool.map(extract_one, batch)))

    return extract


def _ncnn_network(weights: Weights, boundary: str) -> tuple[str, bytes]:
    """The network in ncnn's own text and binary formats (ncnn wiki: param and model file structure)."""
    lines = ["Input pictures 0 1 pictures"]
    blob = bytearray()
    previous = "pictures"
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


def _tensorflow_extractor(weights: Weights, boundary: str, batch_size: int, precision: Precision) -> Extract:
    import tensorflow as tf

    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)
    backbone = build_keras_backbone(weights, boundary, precision)

    def run(pictures: Any) -> Any:
        return tf.cast(backbone(preprocess(tf.cast(pictures, tf.float32)), training=False), tf.float16)

    graph = tf.function(run, input_signature=[tf.TensorSpec((batch_size, 224, 224, 3), tf.uint8)])

    def extract(batch: Pixels) -> Halves:
        padding = batch_size - len(batch)  # one shape only: another one would be traced and planned anew
        padded = np.pad(batch, ((0, padding), (0, 0), (0, 0), (0, 0))) if padding else batch
        features: Halves = graph(padded).numpy()[: len(batch)]
        return features

    return extract


def _probe(engine: Engine, weights: Weights, batch_size: int) -> float:
    """Pictures/s of the second batch; the first pays for planning."""
    batch = np.zeros((batch_size, 224, 224, 3), dtype=np.uint8)
    extract = build_extractor(engine, weights, "block5_pool", batch_size)
    extract(batch)
    start = time.monotonic()
    extract(batch)
    return batch_size / (time.monotonic() - start)


def _has_gpu() -> bool:
    return os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and Path("/proc/driver/nvidia/version").exists()


def _cpu_has(*flags: str) -> bool:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    known = {flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()}
    return any(flag in known for flag in flags)
