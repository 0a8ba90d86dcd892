"""The frame of a chart: where values are in pixels, its axes, lines over it, and the SVG around it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 66, 24, 14, 46


@dataclass(frozen=True)
class Series:
    """One line: its name in the legend, and its points."""

    name: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]


class Frame:
    """Maps values to pixels, and draws the axes."""

    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float, log_x: bool = False) -> None:
        self._log = log_x
        low, high = self._scaled(x_low), self._scaled(x_high)
        self._x = (low, high) if high > low else (low - 0.5, high + 0.5)
        self._y = (y_low, y_high) if y_high > y_low else (y_low - 0.5, y_high + 0.5)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self._log else value

    def x(self, value: float) -> float:
        low, high = self._x
        return LEFT + (WIDTH - LEFT - RIGHT) * (self._scaled(value) - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self._y
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    def draw(
        self,
        x_ticks: Sequence[tuple[float, str]],
        y_ticks: Sequence[tuple[float, str]],
        x_label: str,
        y_label: str,
    ) -> Markup:
        rows = [
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>'
                '<text class="tick" x="{}" y="{text:.1f}" text-anchor="end">{}</text>'
            ).format(LEFT, WIDTH - RIGHT, LEFT - 8, name, y=self.y(value), text=self.y(value) + 4)
            for value, name in y_ticks
        ]
        columns = [
            Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                self.x(value), HEIGHT - BOTTOM + 18, name
            )
            for value, name in x_ticks
        ]
        middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
        names = Markup(
            '<text class="axis" x="{:.1f}" y="{}" text-anchor="middle">{}</text>'
            '<text class="axis" transform="translate(12 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>'
        ).format(LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 6, x_label, middle, y_label)
        return join([*rows, *columns, names])

    def line(self, series: Series, number: int) -> Markup:
        points = [(self.x(x), self.y(y)) for x, y in zip(series.xs, series.ys, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dots = [
            Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3"><title>{}: {:g}, {:.4g}</title></circle>').format(
                *point, series.name, x, y
            )
            for point, x, y in zip(points, series.xs, series.ys, strict=True)
        ]
        return Markup('<g class="series s{}"><polyline points="{}"/>{}</g>').format(number, path, join(dots))


_SMALLEST_SPAN = 1e-9
"""Smallest length of an axis: a smaller one can't be drawn, and a divided denormal number has no logarithm."""


def nice_ticks(low: float, high: float) -> list[float]:
    """About five round values that reach from at or below `low` to at or above `high`."""
    span = max(high - low or abs(high) or 1.0, _SMALLEST_SPAN)
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= span / 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * number, 12) for number in range(first, max(last, first + 1) + 1)]


def svg(width: int, height: int, kind: str, text: str, body: Markup) -> Markup:
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        kind, width, height, text, body
    )


def join(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)
