"""The reason codes of refused images in the quarantine. docs/images.md explains each."""

from __future__ import annotations

from enum import StrEnum

from tasks.errors import SourceError, TransientError


class RefusalCode(StrEnum):
    """Why an image is refused."""

    CHANGED_WHILE_READ = "changed_while_read"
    GONE = "gone"
    DAMAGED_AT_SOURCE = "damaged_at_source"
    UNREADABLE = "unreadable"
    EMPTY_FILE = "empty_file"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TOO_MANY_PIXELS = "too_many_pixels"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    DECODER_FAILED = "decoder_failed"
    UNSUPPORTED_COLOURS = "unsupported_colours"
    NARROW_RANGE = "narrow_range"
    TOO_SMALL = "too_small"
    EXTREME_ASPECT = "extreme_aspect"
    LOW_INFORMATION = "low_information"
    LABEL_CONFLICT = "label_conflict"
    DARK = "dark"
    OVEREXPOSED = "overexposed"
    LOW_CONTRAST = "low_contrast"
    BLURRED = "blurred"
    SINGLE_COLOUR = "single_colour"


PASSING = frozenset({RefusalCode.CHANGED_WHILE_READ, RefusalCode.GONE, RefusalCode.DAMAGED_AT_SOURCE})
"""Reasons of which the image's version tells nothing: the next run reads it again."""


class SourceChangedError(TransientError):
    """A part of the source changed or disappeared after it was listed. If it is one image, only this image is refused.

    Attributes:
        code: one of `PASSING`.
    """

    def __init__(self, message: str, code: RefusalCode) -> None:
        super().__init__(message, code)  # pickle needs all arguments
        self.message, self.code = message, code

    def __str__(self) -> str:
        return self.message


class DamagedAtSourceError(SourceError):
    """The store's checksum doesn't fit the bytes that it sends. If it is one image, only this image is refused."""


class ForbiddenError(SourceError):
    """The store lists this image, but doesn't give it: the permission for it is missing, or it is archived."""


class Refused(Exception):
    """The image can't be an example, or shouldn't be one by policy."""

    def __init__(self, code: RefusalCode, detail: str) -> None:
        super().__init__(code, detail)
        self.code, self.detail = code, detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"
