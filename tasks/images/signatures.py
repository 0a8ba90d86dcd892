"""Signatures: what a file is by its first bytes. Whatever can't be an image isn't read any further.

Formats: JPEG, PNG, GIF, WebP, BMP and TIFF begin as Pillow requires it; the others as in the Linux command `file`.
"""

from __future__ import annotations

from tasks.images.reason_codes import RefusalCode, Refused

HEAD_BYTES = 512

_TIFF = (b"II*\x00", b"MM\x00*", b"II\x00*", b"MM*\x00", b"II+\x00", b"MM\x00+")
_ACCEPTED = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", *_TIFF)
_ISO_MEDIA = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis", b"crx ")  # crx is Canon's RAW
_OTHER_FORMATS = (b"8BPS", b"\x00\x00\x01\x00", b"%PDF", b"icns", b"\xff\x0a", b"\x00\x00\x00\x0cjP  ")
_RAW_FILES = (b"FUJIFILM", b"IIRO", b"IIRS", b"MMOR", b"IIU\x00")
_TEXTS = (b"<!doctype", b"<html", b"<?xml", b"{", b"<head")
_NO_IMAGES = {
    b"\x1aE\xdf\xa3": "a video",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "packed by gzip",
}
_RIFF = {b"AVI ": "a video", b"WAVE": "a sound"}


def judge_head(head: bytes) -> Refused | None:
    """Why a file with these first bytes (`HEAD_BYTES`, or all) can't be decoded; None if it may be an image.

    The code is `unsupported_format` for known formats of images, else `not_an_image`.
    """
    if not head or head.startswith(_ACCEPTED) or _is_webp(head):
        return None
    return _as_other_image(head) or Refused(RefusalCode.NOT_AN_IMAGE, _name(head))


def _is_webp(head: bytes) -> bool:
    return head.startswith(b"RIFF") and b"WEBP".startswith(head[8:12])  # it may be cut off


def _as_other_image(head: bytes) -> Refused | None:
    if head[4:8] == b"ftyp" and head[8:12] in _ISO_MEDIA:
        what = f"{head[8:12].decode()} image; convert it to JPEG or PNG"
    elif b"<svg" in head.lower():
        what = "SVG drawing; convert it to PNG"
    elif head.startswith((*_OTHER_FORMATS, *_RAW_FILES)):
        what = "PSD, ICO, PDF, JPEG 2000 or XL, or RAW; convert it to JPEG or PNG"
    else:
        return None
    return Refused(RefusalCode.UNSUPPORTED_FORMAT, what)


def _name(head: bytes) -> str:
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_TEXTS):
        return "a web page or other text"
    if head[4:8] == b"ftyp":
        return "a video"
    if head.startswith(b"RIFF") and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    for start, what in _NO_IMAGES.items():
        if head.startswith(start):
            return what
    return f"unknown content, starts with {head[:8].hex(' ')}"
