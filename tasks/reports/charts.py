"""Charts as inline SVG: the same numbers give the same bytes, and the page's style sheet sets the colours.

Every text goes through `Markup.format`, which escapes it. Coordinates have one decimal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tasks.reports.text import percent

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 66, 24, 14, 46


@dataclass(frozen=True)
class Series:
    """One line: its name in the legend, and its points."""

    name: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]


def accuracy_scale(accuracy: float, interval: Sequence[float], baseline: float) -> Markup:
    """A scale from 0 to 100 %: the accuracy as a point, its confidence interval as a band, the baseline as a mark."""

    def x(share: float) -> str:
        return f"{1000 * share:.1f}"

    ticks = _join(
        Markup('<text class="{}" x="{}" y="78" text-anchor="{}">{} %</text>').format(
            "tick minor" if part % 2 else "tick", x(part / 4), _anchor(part / 4), 25 * part
        )
        for part in range(5)
    )
    body = Markup(
        '<rect class="track" x="0" y="34" width="1000" height="14" rx="7"/>'
        '<rect class="band" x="{low}" y="29" width="{band:.1f}" height="24" rx="6"/>'
        '<line class="baseline" x1="{baseline}" x2="{baseline}" y1="22" y2="56"/>'
        '<text class="baseline-label" x="{baseline}" y="14" text-anchor="{side}">majority-class baseline</text>'
        '<circle class="point" cx="{point}" cy="41" r="10"/>{ticks}'
    ).format(
        low=x(interval[0]),
        band=max(2.0, 1000 * (interval[1] - interval[0])),
        baseline=x(baseline),
        point=x(accuracy),
        side=_anchor(baseline),
        ticks=ticks,
    )
    return _svg(
        1000,
        86,
        "accuracy-scale",
        f"Accuracy {percent(accuracy)}, 95 % confidence interval {percent(interval[0])} to {percent(interval[1])}; "
        f"majority-class baseline {percent(baseline)}.",
        body,
    )


def reliability_diagram(rows: Sequence[dict[str, Any]]) -> Markup:
    """Accuracy against confidence; the dots of a calibrated model lie on the diagonal.

    Args:
        rows: from `metrics.calibration`. The area of a dot grows with its number of images.
    """
    frame = _Frame(0.0, 1.0, 0.0, 1.0)
    most = max((row["n"] for row in rows), default=1)
    marks = []
    for row in rows:
        x, low, high = frame.x(row["confidence"]), *map(frame.y, row["accuracy_ci95"])
        marks.append(
            Markup(
                '<g><title>{}</title><line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
                '<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/></g>'
            ).format(
                f"{row['n']} images: mean confidence {percent(row['confidence'])}, accuracy {percent(row['accuracy'])}",
                x=x,
                low=low,
                high=high,
                y=frame.y(row["accuracy"]),
                r=4 + 8 * math.sqrt(row["n"] / most),
            )
        )
    shares = [(part / 4, f"{25 * part} %") for part in range(5)]
    diagonal = Markup('<line class="diagonal" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        *(f"{value:.1f}" for value in (frame.x(0), frame.y(0), frame.x(1), frame.y(1)))
    )
    spoken = "; ".join(
        f"confidence {percent(row['confidence'], 0)}, accuracy {percent(row['accuracy'], 0)}" for row in rows
    )
    body = frame.draw(shares, shares, "confidence", "accuracy") + diagonal + _join(marks)
    return _svg(WIDTH, HEIGHT, "chart", f"Reliability diagram: {'; '.join(spoken)}.", body)


def line_chart(
    series: Sequence[Series], x_label: str, y_label: str, log_x: bool = False, marked_x: float | None = None
) -> Markup:
    """Lines over a common axis; `marked_x` draws a vertical line at the chosen value. Points must be finite."""
    known = [one for one in series if one.xs]
    if not known:
        return Markup("")
    xs = [x for one in known for x in one.xs]
    ys = [y for one in known for y in one.ys]
    y_ticks = _nice_ticks(min(ys), max(ys))
    frame = _Frame(min(xs), max(xs), min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys)), log_x)
    parts = [frame.draw(_x_ticks(xs, log_x), [(value, f"{value:g}") for value in y_ticks], x_label, y_label)]
    if marked_x is not None:
        parts.append(
            Markup('<line class="chosen" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>').format(
                x=frame.x(marked_x), top=TOP, bottom=HEIGHT - BOTTOM
            )
        )
    for number, one in enumerate(known):
        parts.append(frame.line(one, number))
    spoken = "; ".join(f"{one.name} from {one.ys[0]:.3g} to {one.ys[-1]:.3g}" for one in known)
    return _svg(WIDTH, HEIGHT, "chart", f"{y_label} over {x_label}: {spoken}.", _join(parts))


@dataclass(frozen=True)
class Choice:
    """A model in the chart of costs: accuracy, the ends of its interval, cost, and whether it is the chosen one."""

    name: str
    accuracy: float
    interval: tuple[float, float]
    cost: float
    chosen: bool


def cost_chart(choices: Sequence[Choice], x_label: str) -> Markup:
    """Accuracy against cost, with confidence intervals: a model to the upper left of another is better and cheaper."""
    lowest = min(choice.interval[0] for choice in choices)
    y_ticks = [value for value in _nice_ticks(lowest, max(choice.interval[1] for choice in choices)) if value <= 1]
    costs = [choice.cost for choice in choices]
    frame = _Frame(min(costs) / 1.6, max(costs) * 1.6, min(y_ticks[0], lowest), 1.0, log_x=True)
    parts = [
        frame.draw(_x_ticks(costs, True), [(value, percent(value, 0)) for value in y_ticks], x_label, "test accuracy")
    ]
    for choice in choices:
        x, y, (low, high) = frame.x(choice.cost), frame.y(choice.accuracy), map(frame.y, choice.interval)
        right = x > WIDTH / 2
        parts.append(
            Markup(
                '<g><line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
                '<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'
                '<text class="axis" x="{text:.1f}" y="{y:.1f}" text-anchor="{side}">{name}</text></g>'
            ).format(
                x=x, y=y, low=low, high=high, kind="dot" if choice.chosen else "dot other", name=choice.name,
                text=x - 10 if right else x + 10, side="end" if right else "start",
            )
        )  # fmt: skip
    spoken = "; ".join(
        f"{choice.name}: accuracy {percent(choice.accuracy)}, cost {choice.cost:,.0f}" for choice in choices
    )
    return _svg(WIDTH, HEIGHT, "chart", f"Accuracy and cost of the strategies: {spoken}.", _join(parts))


def steps_chart(name: str, steps: Sequence[tuple[str, Mapping[str, Any]]]) -> Markup:
    """Accuracies at a few steps, from 0 to 100 %, with their confidence intervals; text is large, for small charts.

    Args:
        name: what changes with each step.
        steps: the step's name, with `accuracy` and `accuracy_ci95`.
    """
    frame = _Frame(-0.25, len(steps) - 0.75, 0.0, 1.0)
    shares = [(part / 2, f"{50 * part} %") for part in range(3)]
    rows = [row for _, row in steps]
    start = Markup('<line class="diagonal" x1="{:.1f}" y1="{y:.1f}" x2="{:.1f}" y2="{y:.1f}"/>').format(
        frame.x(0), frame.x(len(steps) - 1), y=frame.y(rows[0]["accuracy"])
    )
    whiskers = [
        Markup('<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
            *map(frame.y, row["accuracy_ci95"]), x=frame.x(place)
        )
        for place, row in enumerate(rows)
    ]
    line = frame.line(Series(name, tuple(map(float, range(len(rows)))), tuple(row["accuracy"] for row in rows)), 0)
    axes = frame.draw([(float(place), step) for place, (step, _) in enumerate(steps)], shares, "", "")
    spoken = "; ".join(f"{step}: {percent(row['accuracy'])}" for step, row in steps)
    return _svg(WIDTH, HEIGHT, "chart steps", f"Accuracy, {name}: {spoken}.", _join([axes, start, *whiskers, line]))


class _Frame:
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
        return _join([*rows, *columns, names])

    def line(self, series: Series, number: int) -> Markup:
        points = [(self.x(x), self.y(y)) for x, y in zip(series.xs, series.ys, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dots = [
            Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3"><title>{}: {:g}, {:.4g}</title></circle>').format(
                *point, series.name, x, y
            )
            for point, x, y in zip(points, series.xs, series.ys, strict=True)
        ]
        return Markup('<g class="series s{}"><polyline points="{}"/>{}</g>').format(number, path, _join(dots))


def _anchor(share: float) -> str:
    """The anchor of a text at this share of the scale that keeps the text inside."""
    return "middle" if 0.08 < share < 0.92 else "start" if share <= 0.08 else "end"


_MOST_LABELS = 12
"""More labels don't fit below the axis."""


def _x_ticks(xs: Sequence[float], log_x: bool) -> list[tuple[float, str]]:
    values = sorted(set(xs))
    if log_x and len(values) > _MOST_LABELS:
        powers = [
            10.0**power for power in range(math.ceil(math.log10(values[0])), math.floor(math.log10(values[-1])) + 1)
        ]
        values = powers[:: max(1, math.ceil(len(powers) / _MOST_LABELS))] or [values[0], values[-1]]
    if log_x:
        return [(value, f"{value:g}") for value in values]
    step = max(1, math.ceil((values[-1] - values[0]) / 8))
    return [(value, f"{value:g}") for value in values if (value - values[0]) % step == 0]


_SMALLEST_SPAN = 1e-9
"""Smallest length of an axis: a smaller one can't be drawn, and a divided denormal number has no logarithm."""


def _nice_ticks(low: float, high: float) -> list[float]:
    """About five round values that reach from at or below `low` to at or above `high`."""
    span = max(high - low or abs(high) or 1.0, _SMALLEST_SPAN)
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= span / 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * number, 12) for number in range(first, max(last, first + 1) + 1)]


def _svg(width: int, height: int, kind: str, text: str, body: Markup) -> Markup:
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        kind, width, height, text, body
    )


def _join(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)
