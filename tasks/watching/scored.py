"""New images that `tasks.score` has scored, with their features: a random sample of them, and the most foreign ones."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tasks.errors import PredictError
from tasks.files import stream_table
from tasks.scoring.rows import FEATURES
from tasks.watching.drift import MOST, Booleans, Sample

SHOWN = 8
_COLUMNS = ("path", "label", "foreign", "foreign_score", "unsure")


@dataclass(frozen=True, order=True)
class _Row:
    """A scored image. The order is that of the digests of the paths: as good as random."""

    digest: bytes
    part: str
    place: int
    path: str
    label: str
    foreign: bool | None
    unsure: bool | None
    score: float | None


def read_scored(folder: Path, parts: Sequence[str]) -> tuple[Sample, list[dict[str, Any]]]:
    """A random sample of at most `MOST` scored images, and the most foreign ones, the most foreign first.

    The sample depends on the paths alone. The memory doesn't depend on the number of images.

    Args:
        folder: of `tasks.score`, with features.
        parts: names of its files.

    Returns:
        the sample; and for each of at most `SHOWN` images `path`, `label`, `score` and `foreign`.

    Raises:
        PredictError: fewer than two images were scored.
    """
    chosen = sorted(heapq.nsmallest(MOST, _rows(folder, parts)), key=lambda row: (row.part, row.place))
    if len(chosen) < 2:
        raise PredictError("A comparison needs two new images or more.")
    probabilities, features = [], []
    for part, rows in groupby(chosen, key=lambda row: row.part):
        table = pq.read_table(folder / part, columns=["probabilities", FEATURES]).take([row.place for row in rows])
        each = table["probabilities"].combine_chunks().flatten()
        probabilities.append(np.stack([np.asarray(column) for column in each], axis=1))
        features.append(np.stack(table[FEATURES].to_numpy()))
    sample = Sample(
        np.concatenate(probabilities),
        np.concatenate(features).astype(np.float32),
        _flags([row.foreign for row in chosen]),
        _flags([row.unsure for row in chosen]),
    )
    scored = ((row.score, row) for row in _rows(folder, parts) if row.score is not None)
    first = heapq.nsmallest(SHOWN, scored, key=lambda one: (-one[0], one[1].path))
    return sample, [
        {"path": row.path, "label": row.label, "score": score, "foreign": row.foreign} for score, row in first
    ]


def _rows(folder: Path, parts: Sequence[str]) -> Iterator[_Row]:
    for part in parts:
        for place, row in enumerate(stream_table(folder / part, _COLUMNS)):
            if row["label"] is not None:
                path = row["path"]
                digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()
                yield _Row(digest, part, place, path, row["label"], row["foreign"], row["unsure"], row["foreign_score"])


def _flags(values: Sequence[bool | None]) -> Booleans | None:
    """None if the model can't tell."""
    return None if None in values else np.array(values, bool)
