"""Clients that are slow, greedy or lie: each gets the right answer or none, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest

from tasks.images.workers import Decoders
from tasks.serving.bodies import Uploads
from tasks.serving.problems import Problem
from tests.tasks.exporting import encoded, save_export
from tests.tasks.serving.running import Running, answer_of, running
from tests.waiting import wait_until

RED = encoded((200, 0, 0))
POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    model = save_export(tmp_path_factory.mktemp("hostile") / "export")
    with running(model, head_s=1.0, body_mb=1, images=8, pixels=10_000) as one:
        yield one


def is_served(server: Running) -> bool:
    return server.send(RED).status_code == 200


def bomb(side_px: int) -> bytes:
    """A PNG of so many pixels a side, of few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_serve_refuses_a_bomb_from_its_header(server: Running) -> None:
    said = server.send(bomb(30_000))
    assert said.status_code == 413
    assert said.json()["results"][0]["error"].startswith("too_many_pixels: 30000x30000")


def test_serve_refuses_images_above_its_own_limit_of_pixels(server: Running) -> None:
    assert server.send(encoded((200, 0, 0), size=(100, 100))).status_code == 200
    said = server.send(encoded((200, 0, 0), size=(101, 100)))
    assert (said.status_code, said.json()["results"][0]["error"][:15]) == (413, "too_many_pixels")


def test_serve_reads_no_more_of_a_large_body_than_it_may(server: Running) -> None:
    before = psutil.Process().memory_info().rss
    for head in (POST + b"Content-Length: 1000000000\r\n\r\n", POST + b"Transfer-Encoding: chunked\r\n\r\n"):
        with server.connect() as client:
            client.sendall(head)
            piece = b"80000\r\n" + bytes(0x80000) + b"\r\n" if b"chunked" in head else bytes(1 << 19)
            sent = 0
            while not select.select([client], [], [], 0)[0] and sent < 2000:
                client.sendall(piece)
                sent += 1
            client.shutdown(socket.SHUT_WR)
            assert answer_of(client).startswith("HTTP/1.1 413 ")
            assert sent < 1000
            assert is_served(server)
    assert psutil.Process().memory_info().rss - before < 100 << 20
    with server.connect() as client:
        client.sendall(POST + b"Content-Length: 2000000\r\nExpect: 100-continue\r\n\r\n")
        assert answer_of(client).startswith("HTTP/1.1 413 "), "before anything is sent"


def test_serve_closes_connections_that_send_no_whole_head(server: Running) -> None:
    clients = [server.connect() for _ in range(40)]
    for number, client in enumerate(clients):
        client.sendall(POST[: number % len(POST)])
    assert is_served(server)
    began = time.monotonic()
    assert [answer_of(client) for client in clients] == [""] * len(clients)
    assert time.monotonic() - began < 60
    for client in clients:
        client.close()


def test_serve_gives_up_the_connection_that_waits_longest_if_there_are_too_many(tmp_path: Path) -> None:
    with running(save_export(tmp_path / "export"), head_s=600.0) as server:
        clients = [server.connect() for _ in range(520)]
        assert is_served(server)
        assert answer_of(clients[0]) == "", "given up long before its time"
        clients[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer_of(clients[-1]).startswith("HTTP/1.1 200 ")
        for client in clients:
            client.close()


def test_serve_gives_up_slow_bodies_and_serves_others_meanwhile(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.serving.bodies.LEAST_S", 1.0)
    clients = [server.connect() for _ in range(10)]
    for client in clients:
        client.sendall(POST + b"Content-Length: 1000\r\n\r\n" + RED[:50])
    assert is_served(server)
    assert {answer_of(client)[:13] for client in clients} == {"HTTP/1.1 408 "}
    for client in clients:
        client.close()


def test_serve_gives_up_the_slowest_body_if_there_are_too_many(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.serving.bodies.LEAST_S", 600.0)
    clients = [server.connect() for _ in range(130)]
    for client in clients:
        client.sendall(POST + b"Content-Length: 1000\r\n\r\n")
    assert answer_of(clients[0]).startswith("HTTP/1.1 408 ")
    assert is_served(server)
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/predict/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/page.html"],
)
def test_serve_gives_no_file(server: Running, path: str) -> None:
    with server.connect() as client:
        client.sendall(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer_of(client).startswith("HTTP/1.1 404 ")


def test_serve_refuses_other_hosts_and_pages_of_other_sites(server: Running) -> None:
    assert server.client.get("/", headers={"Host": "attacker.example"}).status_code == 400
    for site in ("cross-site", "same-site"):
        headers = {"Sec-Fetch-Site": site, "Content-Type": "image/png"}
        assert server.client.post("/predict", content=RED, headers=headers).status_code == 403
    assert server.client.get("/predict").status_code == 405
    with server.connect() as client:
        client.sendall(b"\x16\x03\x01" + bytes(range(256)) * 10 + b"\r\n\r\n")
        assert answer_of(client).startswith("HTTP/1.1 400 ")


def test_serve_refuses_a_form_with_too_many_images(server: Running) -> None:
    said = server.client.post("/predict", files=[("a", ("a.png", RED))] * 9)
    assert (said.status_code, said.json()) == (413, {"error": "The request has more than 8 images."})


def test_serve_refuses_heads_of_forms_that_take_long_to_parse(server: Running) -> None:
    part = b'--b\r\nContent-Disposition: form-data; filename="a.png"; x="%s"\r\n\r\n%s\r\n--b--\r\n'
    slow = ";" * 7000  # Python's parser takes the square of their number
    for kind, body in (
        (f'multipart/form-data; boundary=b; x="{slow}"', part % (b"", RED)),
        ("multipart/form-data; boundary=b", part % (slow.encode(), RED)),
    ):
        assert server.send(body, kind).status_code == 422
    assert server.send(part % (b"", RED), "multipart/form-data; boundary=b").status_code == 200


def test_serve_gives_up_a_client_that_reads_no_answers(server: Running) -> None:
    ask = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with server.connect() as client:
        client.setblocking(False)
        unread = select.poll()
        unread.register(client, 0)  # tells only that the connection is gone

        def is_given_up() -> bool:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                client.send(ask * 100)
            return bool(unread.poll(0))

        wait_until(is_given_up, "the server to give up")
    assert is_served(server)


def test_serve_limits_the_rate_of_a_client(tmp_path: Path) -> None:
    with running(save_export(tmp_path / "export"), rate=0.01, burst=3) as server:
        said = [server.send(RED) for _ in range(5)]
        assert [one.status_code for one in said] == [200, 200, 200, 429, 429]
        assert 1 <= int(said[-1].headers["Retry-After"]) <= 100


def test_serve_asks_to_come_again_when_too_many_images_wait(tmp_path: Path) -> None:
    with running(save_export(tmp_path / "export"), waiting=4, answer_s=0.0) as server:
        said = server.send(RED)
        assert (said.status_code, said.json()) == (503, {"error": "The answer takes too long."})
        assert int(said.headers["Retry-After"]) >= 1
        assert server.client.get("/readyz").status_code == 200, "nothing waits any more"


def test_serve_takes_no_more_images_than_may_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, decode = Event(), Decoders.decode

    def wait(self: Decoders, *arguments: Any) -> Any:
        go_on.wait()
        return decode(self, *arguments)

    monkeypatch.setattr(Decoders, "decode", wait)
    with running(save_export(tmp_path / "export"), waiting=1) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.send, RED)
        try:
            wait_until(lambda: server.client.get("/readyz").status_code == 503, "an image to wait")
            said = server.send(RED)
        finally:
            go_on.set()
        assert (said.status_code, said.json()) == (503, {"error": "Too many images wait."})
        assert int(said.headers["Retry-After"]) >= 1
        assert first.result().status_code == 200
        assert server.client.get("/readyz").status_code == 200


def test_bodies_together_have_no_more_bytes_than_the_server_has_for_them() -> None:
    async def reserve() -> None:
        uploads = Uploads(8, 100)
        async with uploads.reserved(60):
            with pytest.raises(Problem) as refused:
                async with uploads.reserved(41):
                    pass
            assert (refused.value.status, refused.value.retry_after_s) == (503, 1)
            async with uploads.reserved(40):
                pass
        async with uploads.reserved(100):
            pass

    asyncio.run(reserve())
