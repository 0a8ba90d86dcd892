"""Charts as inline SVG: the same numbers give the same bytes, and the page's style sheet sets the colours.

Every text goes through `Markup.format`, which escapes it. Coordinates have one decimal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup

from tasks.reports.chart_frame import BOTTOM, HEIGHT, TOP, WIDTH, Frame, Series, join, nice_ticks, svg
from tasks.reports.text import percent

_LINE_PX, _LETTER_PX = 16.0, 6.5
"""Height of a line of text in a chart, and about the width of a letter."""


def accuracy_scale(accuracy: float, interval: Sequence[float], baseline: float) -> Markup:
    """A scale from 0 to 100 %: the accuracy as a point, its confidence interval as a band, the baseline as a mark."""

    def x(share: float) -> str:
        return f"{1000 * share:.1f}"

    ticks = join(
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
    return svg(
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
    frame = Frame(0.0, 1.0, 0.0, 1.0)
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
    body = frame.draw(shares, shares, "confidence", "accuracy") + diagonal + join(marks)
    return svg(WIDTH, HEIGHT, "chart", f"Reliability diagram: {'; '.join(spoken)}.", body)


def line_chart(
    series: Sequence[Series], x_label: str, y_label: str, log_x: bool = False, marked_x: float | None = None
) -> Markup:
    """Lines over a common axis; `marked_x` draws a vertical line at the chosen value. Points must be finite."""
    known = [one for one in series if one.xs]
    if not known:
        return Markup("")
    xs = [x for one in known for x in one.xs]
    ys = [y for one in known for y in one.ys]
    y_ticks = nice_ticks(min(ys), max(ys))
    frame = Frame(min(xs), max(xs), min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys)), log_x)
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
    return svg(WIDTH, HEIGHT, "chart", f"{y_label} over {x_label}: {spoken}.", join(parts))


def answers_chart(curve: Sequence[Mapping[str, float]], promised: float | None, wanted: float | None) -> Markup:
    """The precision of the answers against the share of images that get one, both in percent.

    Args:
        curve: from `answers.precision_curve`, of at least one row.
        promised: share of the images that get an answer at the promised threshold; marked by a vertical line.
        wanted: promised precision; a horizontal line.
    """
    lowest = min([row["precision"] for row in curve] + ([] if wanted is None else [wanted]))
    y_ticks = [value for value in nice_ticks(lowest, 1.0) if 0 <= value <= 1]
    frame = Frame(0.0, 1.0, min(y_ticks[0], lowest), 1.0)
    y_names = [(value, percent(value, 0 if round(100 * value, 6).is_integer() else 1)) for value in y_ticks]
    x_names = [(part / 4, f"{25 * part} %") for part in range(5)]
    parts = [frame.draw(x_names, y_names, "share of images with an answer", "precision of the answers")]
    mark = Markup('<line class="chosen" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"><title>{}</title></line>')
    if wanted is not None:
        told = f"wanted precision {percent(wanted)}"
        parts.append(mark.format(frame.x(0), frame.y(wanted), frame.x(1), frame.y(wanted), told))
    if promised is not None:
        told = f"at the promised threshold, {percent(promised)} get an answer"
        parts.append(mark.format(frame.x(promised), TOP, frame.x(promised), HEIGHT - BOTTOM, told))
    xs, ys = tuple(row["answered"] for row in curve), tuple(row["precision"] for row in curve)
    parts.append(frame.line(Series("precision", xs, ys), 0))
    spoken = f"{percent(ys[0])} of the surest, {percent(ys[-1])} of all"
    return svg(WIDTH, HEIGHT, "chart", f"Precision of the answers: {spoken}.", join(parts))


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
    lowest, highest = (end(choice.interval[side] for choice in choices) for side, end in enumerate((min, max)))
    y_ticks = [value for value in nice_ticks(lowest, highest) if value <= 1]
    costs = [choice.cost for choice in choices]
    frame = Frame(min(costs) / 1.6, max(costs) * 1.6, min(y_ticks[0], lowest), max(y_ticks[-1], highest), log_x=True)
    places = 0 if all(round(100 * value, 6).is_integer() for value in y_ticks) else 1
    y_labels = [(value, percent(value, places)) for value in y_ticks]
    parts = [frame.draw(_legible(_x_ticks(costs, True), frame), y_labels, x_label, "test accuracy")]
    labels = [_label(choice.name, frame.x(choice.cost), frame.y(choice.accuracy)) for choice in choices]
    for choice, label, place in zip(choices, labels, _apart(labels), strict=True):
        x, y, (low, high) = frame.x(choice.cost), frame.y(choice.accuracy), map(frame.y, choice.interval)
        on_left = label.left < x
        parts.append(
            Markup(
                '<g><line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
                '<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'
                '<text class="axis" x="{text:.1f}" y="{place:.1f}" text-anchor="{side}">{name}</text></g>'
            ).format(
                x=x, y=y, place=place, low=low, high=high, kind="dot" if choice.chosen else "dot other",
                name=choice.name, text=label.right if on_left else label.left, side="end" if on_left else "start",
            )
        )  # fmt: skip
    spoken = "; ".join(
        f"{choice.name}: accuracy {percent(choice.accuracy)}, cost {choice.cost:,.0f}" for choice in choices
    )
    return svg(WIDTH, HEIGHT, "chart", f"Accuracy and cost of the strategies: {spoken}.", join(parts))


def _legible(ticks: Sequence[tuple[float, str]], frame: Frame) -> list[tuple[float, str]]:
    """The ticks, from the left, without those whose labels would touch the one before."""
    kept: list[tuple[float, str]] = []
    for value, text in ticks:
        before = frame.x(kept[-1][0]) + _LETTER_PX * (len(kept[-1][1]) + 1) / 2 if kept else -math.inf
        if frame.x(value) - _LETTER_PX * (len(text) + 1) / 2 > before:
            kept.append((value, text))
    return kept


class _Label(NamedTuple):
    """Where a label wants to be: its ends, and its height."""

    left: float
    right: float
    y: float


def _label(name: str, x: float, y: float) -> _Label:
    """Beside a point, on the side where there is more room."""
    width = _LETTER_PX * len(name)
    return _Label(x - 10 - width, x - 10, y) if x > WIDTH / 2 else _Label(x + 10, x + 10 + width, y)


def _apart(labels: Sequence[_Label]) -> list[float]:
    """The heights of labels (n,), from the top down: one that would touch another is moved below it."""
    placed: dict[int, _Label] = {}
    for number in sorted(range(len(labels)), key=lambda one: labels[one].y):
        label = labels[number]
        for other in sorted(placed.values(), key=lambda one: one.y):
            if label.left < other.right and other.left < label.right and label.y < other.y + _LINE_PX:
                label = label._replace(y=other.y + _LINE_PX)
        placed[number] = label
    return [placed[number].y for number in range(len(labels))]


def steps_chart(name: str, steps: Sequence[tuple[str, Mapping[str, Any]]]) -> Markup:
    """Accuracies at a few steps, from 0 to 100 %, with their confidence intervals; text is large, for small charts.

    Args:
        name: what changes with each step.
        steps: the step's name, with `accuracy` and `accuracy_ci95`.
    """
    frame = Frame(-0.25, len(steps) - 0.75, 0.0, 1.0)
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
    return svg(WIDTH, HEIGHT, "chart steps", f"Accuracy, {name}: {spoken}.", join([axes, start, *whiskers, line]))


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
