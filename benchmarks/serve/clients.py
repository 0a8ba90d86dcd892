"""The server, in a process of its own, under the load of wrk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from benchmarks.serve.engines import Row

_SCRIPT = Path(__file__).with_name("wrk.lua")
_START_S = 120


def find_wrk() -> str:
    """The load generator; ends the program if there is none."""
    return shutil.which("wrk") or sys.exit("There is no wrk, which makes the load. Install it: apt-get install wrk")


@contextmanager
def serving(model: Path, port: int) -> Iterator[psutil.Process]:
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


def load(wrk: str, port: int, files: Sequence[str], clients: int, seconds: float) -> tuple[Row, int]:
    """So many clients, each with one request after the other: the row, and the number of requests."""
    command = [wrk, "--threads", "1", "--connections", str(clients), "--duration", f"{seconds:.0f}s"]
    command += ["--timeout", "120s", "--script", str(_SCRIPT), f"http://127.0.0.1:{port}", "--", *files]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    told = json.loads(said.splitlines()[-1])
    if told["errors"]:
        raise SystemExit(f"{told['errors']} requests failed.")
    rate = told["requests"] / told["seconds"]
    return (f"HTTP, clients: {clients}", rate, told["p50"], told["p99"]), told["requests"]


def wait_for_rest(port: int) -> None:
    """Until the server has answered what the clients don't wait for any more."""
    while httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).json()["waiting"]:
        time.sleep(0.1)


def memory_mb(server: psutil.Process) -> tuple[float, float]:
    """Of the server alone, and with its decoders, which share some of it."""
    own = server.memory_info().rss / 1e6
    return own, own + sum(child.memory_info().rss for child in server.children(recursive=True)) / 1e6
