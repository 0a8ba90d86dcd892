"""What a server answers when it can't answer."""

from __future__ import annotations

from tasks.images.reason_codes import RefusalCode


class Problem(Exception):
    """A request that is refused.

    Attributes:
        status: of HTTP.
        detail: for people.
        retry_after_s: when it may work; None: the same request never works.
    """

    def __init__(self, status: int, detail: str, retry_after_s: int | None = None) -> None:
        super().__init__(status, detail, retry_after_s)
        self.status, self.detail, self.retry_after_s = status, detail, retry_after_s


_STATUS = {
    RefusalCode.TOO_MANY_PIXELS: 413,
    RefusalCode.NOT_AN_IMAGE: 415,
    RefusalCode.UNSUPPORTED_FORMAT: 415,
}


def status_of(code: RefusalCode) -> int:
    """The status of a request whose only image is refused."""
    return _STATUS.get(code, 422)
