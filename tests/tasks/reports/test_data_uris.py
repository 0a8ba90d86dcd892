"""Images inside a page: small, with the right colours, without metadata."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from tasks.reports.data_uris import thumbnail


@pytest.mark.parametrize(("side_px", "size"), [(20, (20, 10)), (500, (100, 50))])
def test_thumbnail_is_at_most_as_large_as_asked_and_keeps_its_colours(side_px: int, size: tuple[int, int]) -> None:
    red = np.zeros((50, 100, 3), np.uint8)
    red[..., 0] = 200
    image = Image.open(io.BytesIO(base64.b64decode(thumbnail(red, side_px).removeprefix("data:image/jpeg;base64,"))))
    assert image.size == size
    assert not image.getexif()
    assert np.abs(np.asarray(image).astype(int) - [200, 0, 0]).max() < 8
