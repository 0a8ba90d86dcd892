"""Rows stored by columns come back unchanged: true stays true, and 1.0 does not become 1."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.images.columns import Columns

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.fixed_dictionaries({"key": st.text("0123\0é", min_size=20, max_size=20), "x": VALUES}), max_size=6))
def test_columns_give_the_rows_back(rows: list[dict[str, object]]) -> None:
    columns = Columns(rows)
    assert list(columns) == rows
    assert columns[1:] == rows[1:]
    assert [columns[-1 - place] for place in range(len(rows))] == rows[::-1]
    assert json.dumps(list(columns), sort_keys=True) == json.dumps(rows, sort_keys=True)


def test_columns_refuse_rows_of_unlike_names() -> None:
    with pytest.raises(ValueError, match="different names"):
        Columns([{"key": "a"}, {"key": "b", "size": 1}])


def test_columns_take_a_third_of_the_memory_of_dicts() -> None:
    text = json.dumps([{"key": f"{n:064x}", "px": n, "scores": {"light": n / 7, "edges": 0.1}} for n in range(999)])
    tracemalloc.start()
    rows = json.loads(text)
    of_dicts, _ = tracemalloc.get_traced_memory()
    columns = Columns(rows)
    del rows
    of_columns, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(columns) == 999
    assert 3 * of_columns < of_dicts
