"""Connections of clients that send nothing, or one byte now and then, or read nothing: they are closed, for others."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 10.0
"""Time for the head of a request, from the connection or from its first byte on; and to read what waits to be sent."""
MOST_WAITING = 500
"""So many connections may be open without a whole head; then the one that waits longest is closed."""


class _Sending(H11Protocol):
    """Closes the connection of a client that doesn't read for `limit_s` seconds what waits to be sent."""

    limit_s = HEAD_S
    _unread: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.limit_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop()
        super().resume_writing()

    def _stop(self) -> None:
        if self._unread is not None:
            self._unread.cancel()


def bounded_protocol(head_s: float = HEAD_S, most_waiting: int = MOST_WAITING) -> type[H11Protocol]:
    """Uvicorn's protocol with these limits, which uvicorn lacks; its own keep-alive limit begins after a response."""
    waiting: dict[Any, asyncio.TimerHandle] = {}

    class Bounded(_Sending):
        limit_s = head_s

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()
            elif self not in waiting and not self.transport.is_closing():
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait(self) -> None:
            waiting[self] = self.loop.call_later(head_s, self.transport.abort)
            if len(waiting) > most_waiting:
                oldest = next(iter(waiting))
                oldest._stop_waiting()
                oldest.transport.abort()

        def _stop_waiting(self) -> None:
            timer = waiting.pop(self, None)
            if timer is not None:
                timer.cancel()

    return Bounded


def allow_many_files() -> None:
    """Let this process have as many connections as the system allows it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
