"""The source policies of tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.images.sources import SourcePolicy
from tasks.images.sources.source_cache import SourceCache


def policy(folder: Path | None = None, **changes: Any) -> SourcePolicy:
    """As of a workspace in the folder, the current one where none is given; without allow-lists."""
    folder = folder or Path.cwd()
    given = {
        "clone": folder,
        "cache": SourceCache(folder / ".rootstock/sources"),
        "s3_buckets": (),
        "s3_endpoints": (),
        "max_image_bytes": 256_000_000,
        **changes,
    }
    return SourcePolicy(folder, **given)
