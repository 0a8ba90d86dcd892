"""Images that are no photographs, drawn here: what almost every classifier must call foreign.

Three kinds in turn: noise from fine to coarse, regular textures, and simple drawings on a plain ground.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

FAR_IMAGES = 24
_SIDE = 224


def draw_far_images() -> Pixels:
    """The images (n, 224, 224, 3), uint8 RGB; always the same ones."""
    random = np.random.default_rng(0)
    kinds = (_draw_noise, _draw_texture, _draw_shapes)
    return np.stack([kinds[number % len(kinds)](random) for number in range(FAR_IMAGES)])


def _draw_noise(random: np.random.Generator) -> Pixels:
    """Random colours in squares of 1 to 56 pixels."""
    size = int(random.choice([1, 2, 4, 7, 14, 28, 56]))
    squares = random.integers(0, 256, (_SIDE // size, _SIDE // size, 3), np.uint8)
    return squares.repeat(size, axis=0).repeat(size, axis=1)


def _draw_texture(random: np.random.Generator) -> Pixels:
    """Stripes or a grid, turned, in two colours."""
    period, angle = random.uniform(6, 60), random.uniform(0, np.pi)
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    along = (columns * np.cos(angle) + rows * np.sin(angle)) // period
    across = (rows * np.cos(angle) - columns * np.sin(angle)) // period
    odd = (along + random.integers(0, 2) * across) % 2 == 1
    first, second = _draw_colours(random, 2)
    turned: Pixels = np.where(odd[..., np.newaxis], first, second)
    return turned


def _draw_shapes(random: np.random.Generator) -> Pixels:
    """Some ellipses and rectangles."""
    image = np.broadcast_to(_draw_colours(random, 1), (_SIDE, _SIDE, 3)).copy()
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    for number in range(int(random.integers(2, 7))):
        (top, left), (height, width) = random.integers(0, _SIDE, 2), random.integers(10, 90, 2)
        down, right = (rows - top) / height, (columns - left) / width
        inside = down**2 + right**2 < 1 if number % 2 else (abs(down) < 1) & (abs(right) < 1)
        image[inside] = _draw_colours(random, 1)
    return image


def _draw_colours(random: np.random.Generator, number: int) -> Pixels:
    return random.integers(0, 256, (number, 3), np.uint8)
