"""How fast an exported model answers: each format alone, and the server by HTTP with 1, 8 and 64 clients.

    python -m benchmarks.serve --model models/export --images FOLDER
    python -m benchmarks.serve --model models/export --images FOLDER --requests 10000   # the server's memory instead

All share the cores of this machine, the clients too. A format alone gets decoded images; by HTTP the server decodes
them, so the share tells what HTTP, decoding and the clients cost together. The engine's own rate is measured again
before and after each number of clients, because machines change their speed. The load comes from wrk (Debian's package
`wrk`). Formats that the export lacks are left out: make them with
SET="export.formats=[saved_model,onnx,tflite,onnx_int8,tflite_int8]".
"""

from __future__ import annotations

import argparse
import os
from itertools import islice
from pathlib import Path

from benchmarks.serve.clients import find_wrk, load, memory_mb, serving, wait_for_rest
from benchmarks.serve.engines import Row, engines, timed
from tasks.images.decoding import decode
from tasks.markdown_tables import markdown_table
from tasks.parallel import usable_cores
from tasks.predict import find_images
from tasks.serving.batches import BATCH_SIZE
from tasks.vgg.exports.exported_model import ExportedModel

_CLIENTS = (1, 8, 64)
_MARKS = (0, 0.1, 0.5, 1)
_SLICE_S = 5
_LONGER = 4
"""By HTTP: what the server has begun when the time is over doesn't count."""


def rates(model: Path, files: list[str], wrk: str, port: int, seconds: float) -> None:
    contents = [Path(file).read_bytes() for file in files]
    rows: list[Row] = list(engines(model, contents, seconds))
    exported, pixels = ExportedModel(model), [decode(content)[0] for content in contents[:BATCH_SIZE]]

    def alone() -> float:
        return timed("", BATCH_SIZE, lambda: exported.answer(pixels), seconds / 2)[1]

    shares = []
    with serving(model, port):
        load(wrk, port, files, 2, 2)  # starts the decoders
        for clients in _CLIENTS:
            before = alone()
            rows.append(load(wrk, port, files, clients, _LONGER * seconds)[0])
            wait_for_rest(port)
            shares.append(2 * rows[-1][1] / (before + alone()))
    table = [[name, f"{rate:.1f}", f"{1000 * half:.0f}", f"{1000 * most:.0f}"] for name, rate, half, most in rows]
    heads = ["", "images/s", "p50 (ms)", "p99 (ms)"]
    print(f"{usable_cores()} cores, load of the last 15 minutes {os.getloadavg()[2]:.1f}\n")
    print(markdown_table(heads, table, heads[1:]))
    told = ", ".join(f"{share:.2f} ({clients})" for share, clients in zip(shares, _CLIENTS, strict=True))
    print(f"\nHTTP over the engine alone just before and after, by clients: {told}")


def memory(model: Path, files: list[str], wrk: str, port: int, requests: int) -> None:
    sent, marks, rows = 0, [share * requests for share in _MARKS], []
    with serving(model, port) as server:
        sent += load(wrk, port, files, 8, 1)[1]  # starts the decoders
        while marks:
            if sent >= marks[0]:
                marks.pop(0)
                rows.append([str(sent), *(f"{value:.0f}" for value in memory_mb(server))])
            else:
                sent += load(wrk, port, files, 8, _SLICE_S)[1]
    heads = ["requests", "server (MB)", "with decoders (MB)"]
    print(markdown_table(heads, rows, heads))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description="Measure the exported model.")
    parser.add_argument("--model", type=Path, default=Path("models/export"))
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--seconds", type=float, default=10, help="for each row; 4 times as long by HTTP")
    parser.add_argument("--requests", type=int, default=0, help="measure the server's memory over so many")
    parser.add_argument("--port", type=int, default=8719)
    given = parser.parse_args()
    wrk, files = find_wrk(), [os.fsdecode(path) for path in islice(find_images(str(given.images)), 64)]
    if given.requests:
        memory(given.model, files, wrk, given.port, given.requests)
    else:
        rates(given.model, files, wrk, given.port, given.seconds)


if __name__ == "__main__":
    main()
