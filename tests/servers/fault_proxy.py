"""A proxy in front of an S3 server: it passes requests on unchanged, and fails where a rule says so.

The signature of a request covers its `Host` header, so that header goes on unchanged, although it names the proxy: the
server checks the signature against the header, not against its own address. Paths and queries go on byte by byte.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "proxy-connection", "te", "trailer", "upgrade"}
_CHUNK = 64 << 10


@dataclass
class Rule:
    """What happens to requests. Unset fields match all; of several rules the first that matches and isn't used up acts.

    Attributes:
        method, path, range: parts of what the requests have that it is for: the method, path and query as sent, and
            the Range header.
        skip: so many matching requests go by first.
        times: so many are hit, then it is used up.
        status, code: answer with this error in place of the server; `body` overrides the XML.
        body: answer with these bytes in place of the server (status 200 if none is given).
        headers: of that answer.
        drop_after: cut the connection after so many bytes of the answer's body; 0 cuts after the headers.
        delay_s: wait before the answer; chunk_delay_s: wait before each KiB of it.
        before: called before the request goes on.
        change: called on the answer's body; may not change its length.
    """

    method: str = ""
    path: str = ""
    range: str = ""
    skip: int = 0
    times: int = 1_000_000
    status: int = 0
    code: str = "InternalError"
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    delay_s: float = 0
    chunk_delay_s: float = 0
    before: Callable[[], object] | None = None
    change: Callable[[bytes], bytes] | None = None


@dataclass
class Seen:
    """A request that came in, and how many bytes of body its answer got so far."""

    method: str
    path: str
    range: str
    if_match: str
    status: int
    sent: int = 0


class FaultProxy:
    """`with FaultProxy(port) as proxy:`; listens on 127.0.0.1, on a port of its own or a named one.

    Attributes:
        seen: every request, noted before the first byte of its answer is sent.
    """

    def __init__(self, server_port: int, port: int = 0) -> None:
        self.server_port = server_port
        self.seen: list[Seen] = []
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.cut_all()
        self._server.server_close()
        self._thread.join()

    def add(self, **fields: Any) -> Rule:
        rule = Rule(**fields)
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Forget all rules and requests."""
        with self._lock:
            self._rules.clear()
            self.seen.clear()

    def count(self, method: str = "", path: str = "") -> int:
        return len(self.requests(method, path))

    def bytes_sent(self, method: str = "", path: str = "") -> int:
        return sum(one.sent for one in self.requests(method, path))

    def requests(self, method: str = "", path: str = "") -> list[Seen]:
        with self._lock:
            return [one for one in self.seen if method in one.method and path in one.path]

    def note(self, seen: Seen) -> None:
        with self._lock:
            self.seen.append(seen)

    def rule_for(self, method: str, path: str, range_: str) -> Rule:
        with self._lock:
            for rule in self._rules:
                if rule.times > 0 and rule.method in method and rule.path in path and rule.range in range_:
                    if rule.skip > 0:
                        rule.skip -= 1
                        continue
                    rule.times -= 1
                    return rule
        return Rule()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = True
    proxy: FaultProxy

    def __init__(self, *arguments: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut_all(self) -> None:
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the proxy."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle_one_request()
            return
        self.close_connection = True

    def _pass(self) -> None:
        proxy = self.server.proxy
        rule = proxy.rule_for(self.command, self.path, self.headers.get("Range", ""))
        sent_body = b"".join(self._request_body())
        if rule.before:
            rule.before()
        time.sleep(rule.delay_s)
        status, headers, body = self._answer(rule, sent_body)
        if rule.change:
            body = rule.change(body)
        wanted = self.headers
        seen = Seen(self.command, self.path, wanted.get("Range", ""), wanted.get("If-Match", ""), status)
        proxy.note(seen)
        self._send(rule, seen, headers, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815 - what http.server calls

    def _request_body(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            yield self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, rule: Rule, sent_body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        if rule.status or rule.body is not None:
            error = f"<Error><Code>{rule.code}</Code><Message>{self.headers.get('Authorization')}</Message></Error>"
            body = error.encode() if rule.body is None else rule.body
            headers = {"Content-Type": "application/xml", "Content-Length": str(len(body)), **rule.headers}
            return rule.status or 200, list(headers.items()), body
        connection = http.client.HTTPConnection("127.0.0.1", self.server.proxy.server_port, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP | {"content-length"}:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(sent_body)))
            connection.endheaders(sent_body)
            answer = connection.getresponse()
            headers_back = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
            body = answer.read()
        if "content-length" not in {name.lower() for name, _ in headers_back}:
            headers_back.append(("Content-Length", str(len(body))))
        return answer.status, headers_back, body

    def _send(self, rule: Rule, seen: Seen, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(seen.status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        kept = body if rule.drop_after is None else body[: rule.drop_after]
        step = 1024 if rule.chunk_delay_s else _CHUNK
        for begin in range(0, len(kept), step):
            time.sleep(rule.chunk_delay_s)
            chunk = kept[begin : begin + step]
            seen.sent += len(chunk)  # before it goes: who has all of it may ask for the count at once
            self.wfile.write(chunk)
        if rule.drop_after is not None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
