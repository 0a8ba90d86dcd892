"""Rows of shard headers: `tasks.images.columns` against a list of dicts and a pyarrow.Table.

`python -m benchmarks.data.columns [ROWS]` prints, for each, the memory of the rows and the seconds to make them, to
read one column of all rows, and to read every row once in a random order (as `prepare` does several times).
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.images.columns import Columns

SHARD_SIZE = 512
FORMS = ("list", "columns", "pyarrow")


class ArrowRows(Sequence[dict[str, Any]]):
    """Rows in a pyarrow.Table; each is made when it is asked for."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        import pyarrow as pa

        self._table = pa.Table.from_pylist(list(rows))

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, place: Any) -> Any:
        return {
            name: column[place].as_py()
            for name, column in zip(self._table.column_names, self._table.columns, strict=True)
        }

    def column(self, name: str) -> list[Any]:
        values: list[Any] = self._table[name].to_pylist()
        return values


def make_rows(first: int) -> list[dict[str, Any]]:
    """Rows as `prepare` writes them."""
    rows = []
    for number in range(first, first + SHARD_SIZE):
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        scores = dict.fromkeys(("light", "light_p5", "light_p99", "contrast", "sharpness", "single_colour_share"), 0.1)
        rows.append(
            {
                "key": digest,
                "width_px": 500 + number % 7,
                "height_px": 375,
                "format": "JPEG",
                "entropy_bits": number / 1e6,
                "content_fraction": number / 1e6,
                "notes": "",
                "look": digest * 5 + digest[:32],
                "pixels": digest[::-1],
                "scores": {name: value + number / 1e6 for name, value in scores.items()},
            }
        )
    return rows


def measure(form: str, count: int) -> None:
    make: Any = {"list": list, "columns": Columns, "pyarrow": ArrowRows}[form]
    make(make_rows(0))  # imports
    before, spent = _memory_mb(), 0.0
    shards = []
    for first in range(0, count, SHARD_SIZE):
        rows = make_rows(first)
        started = time.perf_counter()
        shards.append(make(rows))
        spent += time.perf_counter() - started
    del rows
    memory = _memory_mb() - before
    started = time.perf_counter()
    keys = [key for shard in shards for key in _keys(shard)]
    column = time.perf_counter() - started
    places = [(number, place) for number, shard in enumerate(shards) for place in range(len(shard))]
    random.Random(1).shuffle(places)
    started = time.perf_counter()
    for number, place in places:
        shards[number][place]
    each = time.perf_counter() - started
    print(f"{form:8} {memory:7.0f} MB  make {spent:5.2f} s  keys {column:5.2f} s  every row {each:5.2f} s", flush=True)
    assert len(keys) == len(places)


def _keys(shard: Any) -> Iterator[str]:
    return iter(shard.column("key")) if isinstance(shard, ArrowRows) else (row["key"] for row in shard)


def _memory_mb() -> float:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    if len(sys.argv) > 2:
        measure(sys.argv[2], int(sys.argv[1]))
        return
    for form in FORMS:
        command = [sys.executable, "-m", "benchmarks.data.columns", (sys.argv[1:] or ["100000"])[0], form]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
