"""Bodies of requests: read within limits of size and time, and taken apart into images."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from email.message import Message
from email.parser import HeaderParser

from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from tasks.serving.problems import Problem

LEAST_S = 10.0
SLOWEST = 50_000
"""A body has so many seconds, and one more for each so many bytes that it announces."""
_THROWN_AWAY_BYTES, _THROWN_AWAY_S = 1 << 30, 10.0
"""Of a body that isn't wanted."""
_MOST_HEAD_BYTES = 8 << 10
_MOST_PARAMETERS = 300
"""Semicolons in a head: Python's parser needs the square of their number, in which nobody else is served."""
_NAME_LENGTH = 255

Image = tuple[str, bytes]
"""The name that the client gave, for the answer only, and the bytes."""


class Uploads:
    """The bodies that are being read: how many, and how many bytes they may have in all.

    Args:
        most: if more arrive, the oldest one is given up: it's the slowest.
        most_bytes: in memory.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._bytes_left = most, most_bytes
        self._reading: dict[asyncio.Timeout, None] = {}

    @contextlib.asynccontextmanager
    async def reserved(self, size: int) -> AsyncIterator[None]:
        """Memory for a body, until its images are decoded.

        Raises:
            Problem: 503, there is none.
        """
        if size > self._bytes_left:
            raise Problem(503, "Too many uploads at the same time.", 1)
        self._bytes_left -= size
        try:
            yield
        finally:
            self._bytes_left += size

    async def read(self, request: Request, most_bytes: int) -> bytes:
        """The body.

        Raises:
            Problem: 408, it comes too slowly; 413, it has more than `most_bytes`.
        """
        if len(self._reading) >= self._most:
            oldest = next(iter(self._reading))
            oldest.reschedule(0.0)
            del self._reading[oldest]
        limit = asyncio.timeout(LEAST_S + most_bytes / SLOWEST)
        self._reading[limit] = None
        try:
            async with limit:
                return await _read(request, most_bytes)
        except TimeoutError:
            raise Problem(408, "The request came too slowly.") from None
        except ClientDisconnect:
            raise Problem(400, "The client went away.") from None
        finally:
            self._reading.pop(limit, None)


async def _read(request: Request, most_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            raise too_large(most_bytes)
    return bytes(body)


def too_large(most_bytes: int) -> Problem:
    return Problem(413, f"The request has more than {most_bytes / 1e6:g} MB.")


class Refusal(JSONResponse):
    """An answer to a request whose body isn't wanted. What comes of it is thrown away for a while.

    Otherwise the system would reset the connection, and a client that still sends would never read the answer.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        waits = any(name == b"expect" for name, _ in scope["headers"])  # it sends only if it is asked to
        if self.status_code != 408 and not waits:
            await _throw_away(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _throw_away(receive: Receive) -> None:
    left = _THROWN_AWAY_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_THROWN_AWAY_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body"):  # also if the client is gone
                    return


def images_of(body: bytes, content_type: str, most: int) -> list[Image]:
    """The images of a body: itself, or the files of `multipart/form-data` (RFC 7578).

    Raises:
        Problem: 413, there are more than `most`; 422, there is none, or the form is damaged.
    """
    if not content_type.lower().startswith("multipart/form-data"):
        found = [("", body)]
    else:
        found = list(_files(body, content_type, most))
    if not found or not body:
        raise Problem(422, "The request holds no image.")
    return found


def _files(body: bytes, content_type: str, most: int) -> Iterator[Image]:
    boundary = None
    if content_type.count(";") <= _MOST_PARAMETERS:
        head = Message()
        head["content-type"] = content_type
        boundary = head.get_param("boundary")
    if not isinstance(boundary, str) or not 1 <= len(boundary) <= 70 or not boundary.isascii():
        raise Problem(422, "The form has no valid boundary.")
    mark = b"\r\n--" + boundary.encode()
    _, *parts = (b"\r\n" + body).split(mark, most + 2)
    if len(parts) > most + 1:
        raise Problem(413, f"The request has more than {most} images.")
    if not parts or not parts.pop().startswith(b"--"):
        raise Problem(422, "The form is cut off.")
    for part in parts:
        text, found, content = part.partition(b"\r\n\r\n")
        if not found or len(text) > _MOST_HEAD_BYTES or text.count(b";") > _MOST_PARAMETERS:
            raise Problem(422, "A part of the form has no head.")
        name = HeaderParser().parsestr(text.decode(errors="replace").lstrip()).get_filename()
        if name is not None:  # else a field, which nobody reads
            yield str(name)[:_NAME_LENGTH], content
