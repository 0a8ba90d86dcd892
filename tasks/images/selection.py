"""Decides for every discovered image: example (in which split), quarantined or excluded.

A pure function of the discovered images, the facts from decoding, and the splits of the previous run. Always:
discovered = examples + quarantined + excluded. Examples of different splits never have the same bytes, pixels or group,
and are near duplicates only if too many of their class look alike (`duplicate_sets`). No image has two labels.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tasks.images.columns import ShardRow
from tasks.images.duplicate_sets import (
    FactsOf,
    LargeSet,
    PixelsOf,
    find_conflicts,
    large_sets,
    near_duplicate_sets,
)
from tasks.images.manifest import Discovered, Duplicate, Example, Memory, Quarantined
from tasks.images.reason_codes import RefusalCode
from tasks.images.splits import HELD_OUT, Assignment, ImageToSplit, Rules, assign

Refusals = dict[str, tuple[RefusalCode, str]]


@dataclass(frozen=True)
class Selection:
    """The decisions about the discovered images.

    Attributes:
        memory: for the next run.
        large_sets: of near duplicates, the largest first.
        mixed: how many examples are in sets of near duplicates with several labels that are kept together.
    """

    examples: list[Example]
    quarantined: list[Quarantined]
    duplicates: list[Duplicate]
    excluded: Counter[str]
    memory: Memory
    large_sets: list[LargeSet] = field(default_factory=list)
    mixed: int = 0


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


def select(
    discovered: Sequence[Discovered],
    contents: Contents,
    usable: Sequence[str],
    refusals: Refusals,
    facts: FactsOf,
    pixels_of: PixelsOf,
    radius: int,
    rules: Rules,
    previous: Memory,
) -> Selection:
    """Decide on every discovered image.

    Args:
        discovered: all rows of the source.
        contents: the rows that aren't excluded, by their bytes.
        usable: the keys that were decoded and not refused.
        refusals: the keys that were refused, with the reason.
        facts: usable key -> facts from decoding.
        pixels_of: usable keys -> decoded pixels; asked for few images.
        radius: most bits in which perceptual hashes of near duplicates differ.
        rules: of the splits.
        previous: the memory of the previous run, if it had the same rules.
    """
    label_of = {key: contents.chosen[key].label for key in usable}
    set_of = near_duplicate_sets(sorted(usable), facts, radius)
    conflicts = find_conflicts(set_of, label_of, facts, pixels_of)
    kept = [key for key in usable if key not in conflicts]
    twins = _twins(kept, contents.chosen, facts)
    rows = {key: contents.chosen[key] for key in kept if key not in twins}
    standing = {key: name for key in rows if (name := set_of.get(key))}
    large = large_sets(standing, rows, previous.apart)
    together = {key: name for key, name in standing.items() if not (name in large and large[name].apart)}
    members = [ImageToSplit(key, row.split, row.group, together.get(key), row.label) for key, row in rows.items()]
    assignment = assign(members, previous.splits, rules)
    examples = [
        _example(contents.chosen[key], facts(key), split)
        for key, split in sorted(assignment.splits.items(), key=lambda entry: contents.chosen[entry[0]].path)
    ]
    excluded = Counter(row.excluded for row in discovered if row.excluded)
    excluded += Counter({"duplicate": len(contents.copies) + len(twins), "leak": len(assignment.leaks)})
    apart = frozenset(key for key in standing if key not in together and key in assignment.memory)
    return Selection(
        examples,
        _quarantine(discovered, contents, refusals, conflicts),
        _duplicates(contents, twins, assignment, standing, together),
        excluded,
        Memory(assignment.memory, apart),
        sorted(large.values(), key=lambda one: (-one.n, one.paths)),
        _count_mixed({key: name for key, name in together.items() if key in assignment.splits}, label_of),
    )


def _count_mixed(set_of: Mapping[str, str], label_of: Mapping[str, str]) -> int:
    """How many images are in sets of near duplicates with several labels."""
    labels: dict[str, set[str]] = defaultdict(set)
    for key, name in set_of.items():
        labels[name].add(label_of[key])
    return sum(len(labels[name]) > 1 for name in set_of.values())


def _held_out_first(row: Discovered) -> tuple[int, str]:
    return HELD_OUT.index(row.split) if row.split in HELD_OUT else len(HELD_OUT), row.path


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
        row.about,
    )


def _quarantine(
    discovered: Sequence[Discovered], contents: Contents, refusals: Refusals, conflicts: Mapping[str, str]
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
        elif row.key in conflicts:
            other = contents.chosen[conflicts[row.key]]
            reason = RefusalCode.LABEL_CONFLICT, f"a copy of {other.path}, which has the label {other.label}"
        if reason:
            quarantined.append(Quarantined(row.path, row.key, row.label, *reason))
    return quarantined


def _duplicates(
    contents: Contents,
    twins: Mapping[str, str],
    assignment: Assignment,
    set_of: Mapping[str, str],
    together: Mapping[str, str],
) -> list[Duplicate]:
    chosen = contents.chosen
    found = [_duplicate(row, chosen[row.key], "same_bytes", "left_out") for row in contents.copies]
    found += [_duplicate(chosen[key], chosen[of], "same_pixels", "left_out") for key, of in twins.items()]
    for key, of in assignment.leaks.items():
        kind = "near" if together.get(key) == together.get(of, "") else "group"
        found.append(_duplicate(chosen[key], chosen[of], kind, "left_out_as_leak"))
    standing = {key: name for key, name in set_of.items() if key in assignment.splits}
    first: dict[str, str] = {}
    for key in sorted(standing, key=lambda key: chosen[key].path):
        of = first.setdefault(standing[key], key)
        if of != key:
            outcome = "kept_together" if key in together else "kept_apart"
            found.append(_duplicate(chosen[key], chosen[of], "near", outcome))
    return sorted(found, key=lambda row: (row.path, row.of_path))


def _duplicate(row: Discovered, of: Discovered, kind: str, outcome: str) -> Duplicate:
    return Duplicate(row.path, row.label, row.split or "", of.path, of.split or "", kind, outcome)
