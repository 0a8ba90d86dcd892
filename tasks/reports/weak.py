"""What the report says about weak slices of the images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.reports.data_uris import thumbnail
from tasks.reports.why import Images

_SIDE_PX = 112


def weak_verdict(weak: Mapping[str, Any]) -> str:
    """How many kinds of images were tested, and what came out, in a few sentences."""
    if not weak["tested"]:
        return (
            f"{weak['wrong']} of {weak['n']} test images are wrong, so no kind of images can be compared with the "
            "others: that takes right and wrong answers, 10 images of the kind and 10 others."
        )
    tested = (
        f"{weak['tested']} kinds of images were compared with all other test images: by size, shape, colours, "
        "brightness, contrast, sharpness, format, notes, and what the source tells about them."
    )
    found = len(weak["slices"])
    if not found:
        return (
            f"{tested} None has more mistakes than can be chance. The fewer mistakes there are, here "
            f"{weak['wrong']} among {weak['n']} images, the larger must a difference be to be found."
        )
    have = "has" if found == 1 else "have"
    return (
        f"{tested} {found} of them {have} more mistakes than the others. Of such findings, at most one of ten is "
        "expected to be chance. Look for the reason in the images, and add images of the kind to train."
    )


def show_slices(weak: Mapping[str, Any], images: Images) -> list[dict[str, Any]]:
    """The weak slices with thumbnails of their surest mistakes."""
    return [{**one, "images": [thumbnail(images[key], _SIDE_PX) for key in one["keys"]]} for one in weak["slices"]]
