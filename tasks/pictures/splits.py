"""Which split a picture belongs to: a pure function of its content, so members never move.

Each picture is drawn on its own by its content hash, so adding or removing pictures moves no other, the same picture is
in the same split on every machine, and every class keeps the wanted shares up to chance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection


def draw(key: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but the content and the seed."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def assign_split(
    key: str,
    given: str | None,
    given_splits: Collection[str],
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> str:
    """`train`, `validation` or `test`.

    Args:
        key: content hash of the picture.
        given: the split that the source assigns to it, if any.
        given_splits: all splits that the source assigns; those that it lacks are carved from train.
        validation_fraction: share of what is carved, as is `test_fraction`.
        seed: another seed gives other splits.
    """
    if given in ("validation", "test"):
        return given
    number = draw(key, seed)
    test = 0.0 if "test" in given_splits else test_fraction
    validation = 0.0 if "validation" in given_splits else validation_fraction
    if number < test:
        return "test"
    return "validation" if number < test + validation else "train"
