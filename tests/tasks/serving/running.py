"""A server in a thread, and clients that follow the protocol, or don't."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import httpx

from tasks.serve import build_server, options
from tasks.serving.app import Limits
from tests.waiting import wait_until


@dataclass
class Running:
    """A server's address and a client."""

    port: int
    client: httpx.Client

    def send(self, data: bytes, kind: str = "image/png", **more: Any) -> httpx.Response:
        return self.client.post("/predict", content=data, headers={"Content-Type": kind}, **more)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def metric(self, name: str) -> float:
        """The value of a line of /metrics, 0 if there is none."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name)


@contextlib.contextmanager
def running(model: Path, *arguments: str, head_s: float = 10.0, **limits: Any) -> Iterator[Running]:
    """A server of a model, at a free port."""
    given = options(["--model", str(model), "--port", "0", *arguments])
    server = build_server(given, Limits(**limits), lambda: given.model, head_s)
    thread = Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), "the server", pause_s=0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
            yield Running(port, client)
    finally:
        server.should_exit = True
        thread.join()


def answer_of(client: socket.socket) -> str:
    """All that the server says until it closes the connection."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while some := client.recv(65536):
            said += some
    return said.decode(errors="replace")
