"""The tables that stages pass on come back unchanged."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from pytest import TempPathFactory  # noqa: PT013

from tasks.images.manifest import (
    Discovered,
    Example,
    Quarantined,
    class_names,
    read_discovered,
    read_examples,
    read_quarantine,
    write_discovered,
    write_examples,
    write_quarantine,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
sides = st.integers(0, 2**31 - 1)
splits = st.sampled_from(["train", "validation", "test"])
discovered = st.builds(Discovered, text, text, splits | st.none(), text, text | st.none())
examples = st.builds(Example, text, text, text, splits, sides, sides, text, text)
quarantined = st.builds(Quarantined, text, text, text, text, text)


@given(st.lists(discovered, max_size=4), st.lists(examples, max_size=4), st.lists(quarantined, max_size=4))
def test_tables_come_back_as_they_were(
    tmp_path_factory: TempPathFactory, found: list[Discovered], taken: list[Example], refused: list[Quarantined]
) -> None:
    folder: Path = tmp_path_factory.getbasetemp() / "tables"
    write_discovered(folder, found)
    write_examples(folder, taken)
    write_quarantine(folder, refused)
    assert read_discovered(folder) == found
    assert read_examples(folder) == taken
    assert read_quarantine(folder) == refused


def test_class_names_are_sorted_and_named_once() -> None:
    taken = [Example("", "", label, "train", 1, 1, "", "") for label in ("b", "a", "C", "b", "10", "9")]
    assert class_names(taken) == ("10", "9", "C", "a", "b")
