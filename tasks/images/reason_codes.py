"""The reason codes of refused images in the quarantine. docs/images.md explains each."""

from __future__ import annotations

from enum import StrEnum


class RefusalCode(StrEnum):
    """Why an image is refused."""

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


class Refused(Exception):
    """The image can't be an example, or shouldn't be one by policy."""

    def __init__(self, code: RefusalCode, detail: str) -> None:
        super().__init__(code, detail)
        self.code, self.detail = code, detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"
