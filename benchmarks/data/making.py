"""Images for measurements: smooth random photographs, all different, and quick to make."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image


def write_images(folder: Path, numbers: range, size: tuple[int, int] = (64, 48)) -> Path:
    """Write JPEG files into two class folders, named by number; the same number always gives the same image."""
    for label in ("even", "odd"):
        (folder / label).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: _write(folder, number, size), numbers))
    return folder


def _write(folder: Path, number: int, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    image.save(folder / ("odd" if number % 2 else "even") / f"{number:06d}.jpg", quality=90)
