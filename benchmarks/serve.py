"""How fast the exported model answers: each engine alone, and the server by HTTP with 1, 8 and 64 clients.

    python -m benchmarks.serve --model models/export --images FOLDER

All share the cores of this machine, the clients too. The engine alone gets decoded images; by HTTP the server decodes
them, so the share tells what HTTP, decoding and the clients cost together. Formats that the export lacks are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from tasks.images.decoding import decode
from tasks.markdown_tables import markdown_table
from tasks.parallel import usable_cores
from tasks.predict import find_images
from tasks.serving.batches import BATCH_SIZE
from tasks.vgg.exports.exported_model import ExportedModel

_CLIENTS = (1, 8, 64)
_START_S = 120
Row = tuple[str, float, float, float]
"""What was measured, images/s, median and 99th percentile of the seconds a call."""


def _timed(name: str, images_a_call: int, call: Callable[[], Any], seconds: float) -> Row:
    call()
    took: list[float] = []
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        start = time.monotonic()
        call()
        took.append(time.monotonic() - start)
    return name, images_a_call * len(took) / sum(took), *np.percentile(took, (50, 99)).tolist()


def engines(model: Path, pixels: Sequence[Any], seconds: float) -> Iterator[Row]:
    """Each format of the export, with one image and, where it can, a batch."""
    exported = ExportedModel(model)
    for size in (1, BATCH_SIZE):
        batch = list(islice(cycle(pixels), size))
        yield _timed(
            f"ONNX Runtime, float32, {size} at once", size, lambda batch=batch: exported.answer(batch), seconds
        )
    if (model / "model.int8.onnx").exists():
        yield from _int8(model / "model.int8.onnx", pixels, seconds)
    if (model / "model.tflite").exists():
        yield from _litert(model / "model.tflite", pixels)


def _int8(file: Path, pixels: Sequence[Any], seconds: float) -> Iterator[Row]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    batch = np.stack(list(islice(cycle(pixels), BATCH_SIZE))).astype(np.float32)
    given = session.get_inputs()[0].name
    yield _timed(
        f"ONNX Runtime, int8, {BATCH_SIZE} at once", BATCH_SIZE, lambda: session.run(None, {given: batch}), seconds
    )


def _litert(file: Path, pixels: Sequence[Any]) -> Iterator[Row]:
    from tasks.vgg.exports.check_serving import run_litert

    content, images = file.read_bytes(), np.stack(pixels[:4]).astype(np.float32)
    run_litert(content, images[:1], usable_cores())
    began = time.monotonic()
    run_litert(content, images, usable_cores())  # with the loading, which takes far less
    each = (time.monotonic() - began) / len(images)
    yield "LiteRT, float32, 1 at once", 1 / each, each, each


@contextmanager
def serving(model: Path, port: int) -> Iterator[psutil.Process]:
    """A server in a process of its own."""
    command = [sys.executable, "-m", "tasks.serve", "--model", str(model), "--port", str(port), "--rate", "100000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + _START_S
            while time.monotonic() < deadline:
                try:
                    httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False)
                    break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()


async def load(port: int, contents: Sequence[bytes], clients: int, seconds: float = 0.0, requests: int = 0) -> Row:
    """So many clients, each with one request after the other, for some seconds or until there were so many requests."""
    took: list[float] = []
    images, began = cycle(contents), time.monotonic()

    async def one(client: httpx.AsyncClient) -> None:
        while (time.monotonic() - began < seconds) if seconds else (len(took) < requests):
            start = time.monotonic()
            said = await client.post("/predict", content=next(images), headers={"Content-Type": "image/jpeg"})
            if said.status_code == 503:
                await asyncio.sleep(int(said.headers["Retry-After"]))
                continue
            said.raise_for_status()
            took.append(time.monotonic() - start)

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=300, trust_env=False
    ) as client:
        await asyncio.gather(*(one(client) for _ in range(clients)))
    rate = len(took) / (time.monotonic() - began)
    return f"HTTP, clients: {clients}", rate, *np.percentile(took, (50, 99)).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description="Measure the exported model.")
    parser.add_argument("--model", type=Path, default=Path("models/export"))
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--seconds", type=float, default=15, help="for each row")
    parser.add_argument("--requests", type=int, default=0, help="more of them at the end, to see the memory")
    parser.add_argument("--port", type=int, default=8719)
    given = parser.parse_args()
    paths = list(islice(find_images(str(given.images)), 64))
    contents = [Path(path).read_bytes() for path in paths]
    rows = list(engines(given.model, [decode(content)[0] for content in contents], given.seconds))
    alone = max(rate for name, rate, *_ in rows if name.startswith("ONNX Runtime, float32"))
    with serving(given.model, given.port) as server:
        asyncio.run(load(given.port, contents, 8, requests=16))  # starts the decoders
        for clients in _CLIENTS:
            rows.append(asyncio.run(load(given.port, contents, clients, given.seconds)))  # noqa: PERF401 - in this order
        memory = [server.memory_info().rss]
        for _ in range(5 if given.requests else 0):
            asyncio.run(load(given.port, contents, 8, requests=given.requests // 5))
            memory.append(server.memory_info().rss)
    table = [[name, f"{rate:.1f}", f"{1000 * half:.0f}", f"{1000 * most:.0f}"] for name, rate, half, most in rows]
    heads = ["", "images/s", "p50 (ms)", "p99 (ms)"]
    print(f"{usable_cores()} cores, load before {os.getloadavg()[2]:.1f}\n")
    print(markdown_table(heads, table, heads[1:]))
    print(f"\nHTTP over the engine alone: {max(rate for _, rate, *_ in rows[-3:]) / alone:.2f}")
    print(f"Memory of the server, MB: {', '.join(f'{value / 1e6:.0f}' for value in memory)}")


if __name__ == "__main__":
    main()
