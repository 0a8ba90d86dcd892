"""Tells placeholders ("image not found") from drawings by what else is in their class: both are strokes on paper."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from tasks.images.columns import ShardRow
from tasks.images.duplicate_sets import FactsOf
from tasks.images.manifest import Discovered
from tasks.images.reason_codes import RefusalCode
from tasks.images.selection import Refusals

_DRAWINGS_FROM = 0.1
"""In a class with at least this share of images of few tones, they are drawings or scans."""


def find_placeholders(rows: Sequence[Discovered], facts: FactsOf, min_entropy_bits: float) -> Refusals:
    """Images of few tones in a class of other images: there they are placeholders, in other classes drawings."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if has_few_tones(facts(row.key), min_entropy_bits):
            found[row.label].append(row.key)
    sizes = Counter(row.label for row in rows)
    refusals: Refusals = {}
    for label, keys in found.items():
        if len(keys) < _DRAWINGS_FROM * sizes[label]:
            why = f"below {min_entropy_bits:g}, as of {len(keys)} of the {sizes[label]} images of its class"
            for key in keys:
                detail = f"a placeholder? Its entropy is {facts(key)['entropy_bits']:.2f} bits, {why}"
                refusals[key] = RefusalCode.LOW_INFORMATION, detail
    return refusals


def has_few_tones(facts: ShardRow, min_entropy_bits: float) -> bool:
    return bool(facts["entropy_bits"] < min_entropy_bits)
