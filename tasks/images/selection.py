"""Decides for every discovered image: example (in which split), quarantined or excluded.

A pure function of the discovered images, the facts from decoding, and the splits of the previous run. Always:
discovered = examples + quarantined + excluded. Examples of different splits never have the same bytes, pixels or group,
and are never near duplicates. No image has two labels.
"""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.images.columns import ShardRow
from tasks.images.duplicates import equal_pairs, find_duplicates, groups
from tasks.images.manifest import Discovered, Duplicate, Example, Quarantined
from tasks.images.perceptual_hash import stack
from tasks.images.reason_codes import RefusalCode
from tasks.images.splits import HELD_OUT, Assignment, ImageToSplit, Rules, assign

Refusals = dict[str, tuple[RefusalCode, str]]
FactsOf = Callable[[str], ShardRow]
"""Key -> the facts from decoding, as stored in a shard's header (`decoding.ImageFacts`)."""

_HASH_BYTES = 8


@dataclass(frozen=True)
class Selection:
    """The decisions about the discovered images; `memory` is key -> split for the next run."""

    examples: list[Example]
    quarantined: list[Quarantined]
    duplicates: list[Duplicate]
    excluded: Counter[str]
    memory: dict[str, str]


@dataclass(frozen=True)
class Contents:
    """Discovered images by their bytes.

    Attributes:
        chosen: key -> the row that represents it (test before validation before train, then the first path), in the
            order of the paths.
        conflicts: keys that have two labels.
        copies: the rows that are left out, because another row represents the same bytes.
    """

    chosen: dict[str, Discovered]
    conflicts: set[str]
    copies: list[Discovered]


def by_content(rows: Sequence[Discovered]) -> Contents:
    """Group the same bytes under several paths."""
    found: dict[str, list[Discovered]] = defaultdict(list)
    for row in rows:
        found[row.key].append(row)
    conflicts = {key for key, group in found.items() if len({row.label for row in group}) > 1}
    chosen = {key: min(group, key=_held_out_first) for key, group in found.items()}
    copies = [row for row in rows if row.key not in conflicts and chosen[row.key] is not row]
    return Contents(dict(sorted(chosen.items(), key=lambda entry: entry[1].path)), conflicts, copies)


def near_duplicate_sets(keys: Sequence[str], facts: FactsOf, radius: int) -> dict[str, str]:
    """Key -> the smallest key of its set of near duplicates, for keys that have near duplicates; see `duplicates`."""
    if not keys:
        return {}
    stored = [base64.b64decode(facts(key)["look"]) for key in keys]
    hashes = np.array([int.from_bytes(look[:_HASH_BYTES], "big") for look in stored], np.uint64)
    near = find_duplicates(hashes, stack([look[_HASH_BYTES:] for look in stored]), radius)
    same = equal_pairs([facts(key)["pixels"] for key in keys])
    place_of = groups(len(keys), np.concatenate([near, same]))
    members: dict[int, list[str]] = defaultdict(list)
    for key, place in zip(keys, place_of.tolist(), strict=True):
        members[place].append(key)
    return {key: min(group) for group in members.values() if len(group) > 1 for key in group}


def select(
    discovered: Sequence[Discovered],
    contents: Contents,
    usable: Sequence[str],
    refusals: Refusals,
    facts: FactsOf,
    radius: int,
    rules: Rules,
    previous: Mapping[str, str],
) -> Selection:
    """Decide on every discovered image.

    Args:
        discovered: all rows of the source.
        contents: the rows that aren't excluded, by their bytes.
        usable: the keys that were decoded and not refused.
        refusals: the keys that were refused, with the reason.
        facts: usable key -> facts from decoding.
        radius: most bits in which perceptual hashes of near duplicates differ.
        rules: of the splits.
        previous: the memory of the previous run, if it had the same rules.
    """
    set_of = near_duplicate_sets(sorted(usable), facts, radius)
    clashes = _clashes(contents.chosen, set_of)
    twins = _twins([key for key in usable if key not in clashes], contents.chosen, facts)
    members = [
        ImageToSplit(row.key, row.split, row.group, set_of.get(key), row.label)
        for key, row in ((key, contents.chosen[key]) for key in usable)
        if key not in clashes and key not in twins
    ]
    assignment = assign(members, previous, rules)
    examples = [
        _example(contents.chosen[key], facts(key), split)
        for key, split in sorted(assignment.splits.items(), key=lambda entry: contents.chosen[entry[0]].path)
    ]
    excluded = Counter(row.excluded for row in discovered if row.excluded)
    excluded += Counter({"duplicate": len(contents.copies) + len(twins), "leak": len(assignment.leaks)})
    return Selection(
        examples,
        _quarantine(discovered, contents, refusals, clashes),
        _duplicates(contents, twins, assignment, set_of),
        excluded,
        assignment.memory,
    )


def _held_out_first(row: Discovered) -> tuple[int, str]:
    return HELD_OUT.index(row.split) if row.split in HELD_OUT else len(HELD_OUT), row.path


def _clashes(chosen: Mapping[str, Discovered], set_of: Mapping[str, str]) -> dict[str, Discovered]:
    """Key -> a near duplicate of it with another label."""
    members: dict[str, list[str]] = defaultdict(list)
    for key, name in set_of.items():
        members[name].append(key)
    clashes = {}
    for group in members.values():
        rows = sorted((chosen[key] for key in group), key=lambda row: row.path)
        for row in rows:
            other = next((other for other in rows if other.label != row.label), None)
            if other is not None:
                clashes[row.key] = other
    return clashes


def _twins(keys: Sequence[str], chosen: Mapping[str, Discovered], facts: FactsOf) -> dict[str, str]:
    """Key -> the key that represents the same decoded pixels."""
    standing: dict[str, str] = {}
    twins = {}
    for key in sorted(keys, key=lambda key: _held_out_first(chosen[key])):
        first = standing.setdefault(facts(key)["pixels"], key)
        if first != key:
            twins[key] = first
    return twins


def _example(row: Discovered, facts: ShardRow, split: str) -> Example:
    return Example(
        row.key,
        row.path,
        row.label,
        split,
        facts["width_px"],
        facts["height_px"],
        facts["format"],
        facts["notes"],
        row.group,
    )


def _quarantine(
    discovered: Sequence[Discovered], contents: Contents, refusals: Refusals, clashes: Mapping[str, Discovered]
) -> list[Quarantined]:
    """A row for every path in conflict, and one for each refused image (its other paths count as duplicates)."""
    quarantined: list[Quarantined] = []
    for row in discovered:
        reason: tuple[RefusalCode, str] | None = None
        if row.refusal:
            reason = row.refusal.code, row.refusal.detail
        elif row.key in contents.conflicts:
            reason = RefusalCode.LABEL_CONFLICT, "the same bytes also have another label"
        elif row.excluded or contents.chosen[row.key] is not row:
            continue
        elif row.key in refusals:
            reason = refusals[row.key]
        elif row.key in clashes:
            other = clashes[row.key]
            reason = RefusalCode.LABEL_CONFLICT, f"a near duplicate of {other.path}, which has the label {other.label}"
        if reason:
            quarantined.append(Quarantined(row.path, row.key, row.label, *reason))
    return quarantined


def _duplicates(
    contents: Contents, twins: Mapping[str, str], assignment: Assignment, set_of: Mapping[str, str]
) -> list[Duplicate]:
    chosen = contents.chosen
    found = [_duplicate(row, chosen[row.key], "same_bytes", "left_out") for row in contents.copies]
    found += [_duplicate(chosen[key], chosen[of], "same_pixels", "left_out") for key, of in twins.items()]
    for key, of in assignment.leaks.items():
        kind = "near" if set_of.get(key) == set_of.get(of, "") else "group"
        found.append(_duplicate(chosen[key], chosen[of], kind, "left_out_as_leak"))
    standing = {key: name for key, name in set_of.items() if key in assignment.splits}
    first: dict[str, str] = {}
    for key in sorted(standing, key=lambda key: chosen[key].path):
        of = first.setdefault(standing[key], key)
        if of != key:
            found.append(_duplicate(chosen[key], chosen[of], "near", "kept_together"))
    return sorted(found, key=lambda row: (row.path, row.of_path))


def _duplicate(row: Discovered, of: Discovered, kind: str, outcome: str) -> Duplicate:
    return Duplicate(row.path, row.label, row.split or "", of.path, of.split or "", kind, outcome)
