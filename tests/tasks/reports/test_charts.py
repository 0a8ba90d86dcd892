"""Charts are well-formed and show their numbers correctly."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.reports.chart_frame import HEIGHT, Series
from tasks.reports.charts import Choice, accuracy_scale, answers_chart, cost_chart, line_chart, reliability_diagram

BINS = [{"n": 3, "confidence": 0.55, "accuracy": 1 / 3, "accuracy_ci95": [0.06, 0.79]}]

finite = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(st.tuples(st.floats(1e-6, 1e6), finite), min_size=1, max_size=30), st.booleans())
@example([(1.0, 5e-324)], False)
@settings(max_examples=60, deadline=None)
def test_line_chart_draws_any_finite_points_inside(points: list[tuple[float, float]], log_x: bool) -> None:
    series = Series("one", tuple(x for x, _ in points), tuple(y for _, y in points))
    root = ElementTree.fromstring(line_chart([series], "x", "y", log_x))
    _, _, width, height = map(float, root.get("viewBox", "").split())
    for circle in root.iter("circle"):
        assert -0.1 <= float(circle.get("cx", "")) <= width + 0.1
        assert -0.1 <= float(circle.get("cy", "")) <= height + 0.1
    assert "nan" not in str(ElementTree.tostring(root))


def test_line_chart_of_nothing_is_nothing() -> None:
    assert line_chart([Series("empty", (), ())], "x", "y") == ""


def test_line_chart_does_not_crowd_its_axis() -> None:
    epochs = tuple(float(number) for number in range(1, 501))
    root = ElementTree.fromstring(line_chart([Series("loss", epochs, epochs)], "epoch", "loss"))
    assert len([text for text in root.iter("text") if text.get("class") == "tick"]) < 25


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 1.0])
def test_accuracy_scale_says_its_numbers_aloud(accuracy: float) -> None:
    root = ElementTree.fromstring(accuracy_scale(accuracy, [0.0, 1.0], 0.5))
    assert re.search(r"95 % confidence interval 0\.0\u00a0% to 100\.0\u00a0%", root.get("aria-label", ""))


def test_reliability_diagram_has_a_dot_for_each_bin() -> None:
    root = ElementTree.fromstring(reliability_diagram(BINS))
    assert len(list(root.iter("circle"))) == 1


def test_logarithmic_axis_of_many_points_is_labelled_by_powers_of_ten() -> None:
    values = tuple(10 ** (number / 10) for number in range(-15, 25))
    root = ElementTree.fromstring(line_chart([Series("loss", values, values)], "C", "loss", log_x=True))
    texts = ["".join(text.itertext()) for text in root.iter("text")]
    assert {"0.1", "1", "10", "100"} <= set(texts)
    assert len(texts) < 16


@pytest.mark.parametrize(("promised", "lines"), [(0.6, 2), (None, 1)])
def test_answers_chart_has_round_shares_and_marks_what_is_promised(promised: float | None, lines: int) -> None:
    curve = [{"answered": 1 / 153, "precision": 1.0}, {"answered": 0.5, "precision": 0.98}]
    root = ElementTree.fromstring(answers_chart([*curve, {"answered": 1.0, "precision": 0.9346}], promised, 0.95))
    ticks = ["".join(text.itertext()) for text in root.iter("text") if text.get("class") == "tick"]
    assert ticks[-5:] == ["0 %", "25 %", "50 %", "75 %", "100 %"]
    assert all(re.fullmatch(r"[0-9]+(\.5)?\s%", tick) for tick in ticks)
    assert len([line for line in root.iter("line") if line.get("class") == "chosen"]) == lines


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20), st.none() | st.floats(0.01, 0.99)
)
@settings(max_examples=40, deadline=None)
def test_answers_chart_draws_any_shares_inside(points: list[tuple[float, float]], wanted: float | None) -> None:
    curve = [{"answered": answered, "precision": precision} for answered, precision in points]
    root = ElementTree.fromstring(answers_chart(curve, None, wanted))
    _, _, width, height = map(float, root.get("viewBox", "").split())
    for circle in root.iter("circle"):
        assert -0.1 <= float(circle.get("cx", "")) <= width + 0.1
        assert -0.1 <= float(circle.get("cy", "")) <= height + 0.1


def test_names_of_strategies_stand_beside_their_points_and_do_not_cover_each_other() -> None:
    def heights(costs: list[float]) -> list[float]:
        choices = [Choice(f"strategy {n}", 0.93, (0.88, 0.96), cost, n == 0) for n, cost in enumerate(costs)]
        drawn = str(cost_chart(choices, "cost"))
        return [float(y) for y in re.findall(r'y="([\d.]+)" text-anchor="(?:start|end)">strategy', drawn)]

    near, crowded = heights([100, 100_000]), heights([100, 120, 140, 160])
    assert near[0] == near[1]
    assert all(below - above >= 15 for above, below in itertools.pairwise(crowded))


def test_chart_of_costs_uses_its_height_for_the_intervals() -> None:
    choices = [Choice(name, 0.7, (0.68, 0.72), cost, False) for name, cost in (("a", 10.0), ("b", 20.0))]
    tops = [float(y) for y in re.findall(r'class="whisker".*?y2="([\d.]+)"', str(cost_chart(choices, "cost")))]
    assert max(tops) < HEIGHT / 3


def test_ticks_of_the_chart_of_costs_tell_their_values_and_do_not_cover_each_other() -> None:
    costs = ((244.0, 0.935), (1240.0, 0.928), (1301.0, 0.915), (2408.0, 0.922))
    choices = [Choice(f"{cost:g}", accuracy, (0.86, 0.964), cost, False) for cost, accuracy in costs]
    drawn = str(cost_chart(choices, "cost"))
    texts = re.findall(r">([^<>]+)</text>", drawn.replace("\u00a0", " "))
    assert [text for text in texts if "%" in text] == ["85.0 %", "87.5 %", "90.0 %", "92.5 %", "95.0 %", "97.5 %"]
    assert [text for text in texts if text in ("244", "1240", "1301", "2408")].count("1301") == 1  # its name only
