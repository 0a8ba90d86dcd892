"""A local HTTP server that stores the messages it receives, like the webhook of a chat."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Receiver:
    """Its address, and the JSON bodies that were posted to it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.bodies: list[Any] = []

    def texts(self) -> list[str]:
        return [body["text"] for body in self.bodies]


@contextlib.contextmanager
def receiver(path: str) -> Iterator[Receiver]:
    """A receiver on a free port; only what comes to `path` as JSON is taken."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            right = self.path == path and self.headers["Content-Type"] == "application/json"
            if right:
                taken.bodies.append(json.loads(data))
            self.send_response(204 if right else 400)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Keep the test's output clean."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        taken = Receiver(f"http://127.0.0.1:{server.server_port}{path}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield taken
        finally:
            server.shutdown()
            thread.join()
