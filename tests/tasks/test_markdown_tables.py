"""Tables that are readable as Markdown and on a terminal."""

from __future__ import annotations

import pytest

from tasks.markdown_tables import duration, markdown_table, size


def test_columns_are_as_wide_as_their_widest_cell_and_aligned() -> None:
    table = markdown_table(["stage", "n"], [["prepare", "1"], ["a", "1,000"]], right=["n"])
    assert table.splitlines() == [
        "| stage   |     n |",
        "| ------- | ----: |",
        "| prepare |     1 |",
        "| a       | 1,000 |",
    ]


def test_a_very_long_cell_does_not_pad_all_others() -> None:
    lines = markdown_table(["name", "n"], [["x" * 300, "1"], ["y", "2"]]).splitlines()
    assert [len(line) for line in lines] == [50, 50, 310, 50]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"), (0, "0.0 s"), (9.9, "9.9 s"), (9.96, "10 s"), (99, "99 s"), (100, "2 min"),
        (5400, "90 min"), (7500, "2 h 05 min"),
    ],
)  # fmt: skip
def test_duration_has_the_unit_that_people_would_use(seconds: float | None, text: str) -> None:
    assert duration(seconds).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("mb", "text"),
    [(None, "unknown"), (0, "0 MB"), (0.3, "0.3 MB"), (9.96, "10 MB"), (999, "999 MB"), (1500, "1.5 GB")],
)
def test_size_has_the_unit_that_people_would_use(mb: float | None, text: str) -> None:
    assert size(mb).replace("\u00a0", " ") == text
