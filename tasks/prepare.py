"""Stage `prepare`: packs in, decoded pictures, splits and the quarantine out.

Reads `data/raw/`. Writes `data/prepared/`: `shards/` (n, 224, 224, 3) uint8 RGB, `examples.parquet` (accepted
pictures with label and split), `quarantine.parquet` (refused ones with a reason code) and `summary.json` (counts).

Always: discovered = accepted + quarantined + excluded. Only pictures that are in no shard are decoded. A picture's
split depends on its content alone. Labels are not in the shards, so relabelling decodes nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks import ingest
from tasks.errors import DataError, IntegrityError
from tasks.files import fingerprint, read_json, write_json
from tasks.pictures import decoding
from tasks.pictures.decoding import Code, Facts, Policy, Refused
from tasks.pictures.manifest import (
    SPLITS,
    Discovered,
    Example,
    Quarantined,
    read_discovered,
    write_examples,
    write_quarantine,
)
from tasks.pictures.packs import Place, index_packs
from tasks.pictures.shards import Array, Header, Row, Shards, append, reconcile, usable_headers
from tasks.pictures.splits import assign_split
from tasks.pictures.workers import decode_all
from tasks.program import run_stage
from tasks.progress import Progress
from tasks.settings import Prepare, Settings

PREPARED = "data/prepared"
SHARDS = f"{PREPARED}/shards"

Refusals = dict[str, tuple[Code, str]]


@dataclass(frozen=True)
class Summary:
    accepted: int
    quarantined: int
    excluded: int
    decoded: int
    reused: int

    def __str__(self) -> str:
        return (
            f"{self.accepted} pictures accepted, {self.quarantined} quarantined, {self.excluded} excluded; "
            f"{self.decoded} decoded, {self.reused} reused"
        )


def run(settings: Settings, workspace: Path) -> Summary:
    """Bring `data/prepared` in line with `data/raw`.

    Raises:
        DataError: too many pictures refused, too few in a class, or a split without pictures.
        IntegrityError: a pack doesn't hold the bytes that were packed.
    """
    rules = settings.prepare
    discovered = read_discovered(workspace / ingest.RAW)
    files, conflicts, duplicates = by_content([row for row in discovered if not row.excluded])

    mark = fingerprint(decoding.recipe(rules.background_rgb))
    refusals = _refuse_known(usable_headers(workspace / SHARDS, mark), _policy(rules))
    wanted = [key for key in files if key not in conflicts and key not in refusals]
    _check_sizes(Counter(row.label for row in files.values()), rules)
    state = reconcile(workspace / SHARDS, wanted, mark)
    new = _decode(workspace, state.missing, rules, mark, refusals)
    shards = Shards([*state.kept.headers, *new])

    given = {row.split for row in discovered if row.split}
    examples = [_example(row, shards.row(key), given, rules) for key, row in files.items() if key in shards]
    quarantined = _quarantine(discovered, conflicts, refusals)
    excluded = Counter(row.excluded for row in discovered if row.excluded)
    if duplicates:
        excluded["duplicate"] = duplicates
    _check(examples, quarantined, rules)

    prepared = workspace / PREPARED
    write_examples(prepared, examples)
    write_quarantine(prepared, quarantined)
    counts = _counts(examples, quarantined, excluded, given, rules)
    write_json(
        prepared / "summary.json",
        {
            "source": read_json(workspace / ingest.RAW / "source.json"),
            "discovered": len(discovered),
            "fingerprint": mark,
            **counts,
        },
    )
    decoded = sum(len(header.rows) for header in new)
    return Summary(len(examples), len(quarantined), sum(excluded.values()), decoded, len(examples) - decoded)


def by_content(rows: Sequence[Discovered]) -> tuple[dict[str, Discovered], set[str], int]:
    """Group the same bytes under several paths.

    Returns:
        key -> the row that stands for it (test before validation before train, then the first path), in the order of
        the paths; the keys that stand under two labels; the number of rows that are left out as duplicates.
    """
    groups: dict[str, list[Discovered]] = defaultdict(list)
    for row in rows:
        groups[row.key].append(row)
    held_out_first = {"test": 0, "validation": 1}
    chosen = {
        key: min(group, key=lambda row: (held_out_first.get(row.split or "", 2), row.path))
        for key, group in groups.items()
    }
    conflicts = {key for key, group in groups.items() if len({row.label for row in group}) > 1}
    duplicates = sum(len(group) - 1 for key, group in groups.items() if key not in conflicts)
    ordered = sorted(chosen.items(), key=lambda entry: entry[1].path)
    return dict(ordered), conflicts, duplicates


def _policy(rules: Prepare) -> Policy:
    return Policy(rules.min_side_px, rules.max_pixels, rules.max_aspect_ratio, rules.min_entropy_bits)


def _refuse_known(headers: Sequence[Header], policy: Policy) -> Refusals:
    """What a changed policy refuses among the pictures that were decoded before."""
    refusals: Refusals = {}
    for row in (row for header in headers for row in header.rows):
        facts = Facts(**{name: value for name, value in row.items() if name != "key"})
        try:
            decoding.judge(facts, policy)
        except Refused as refused:
            refusals[row["key"]] = (refused.code, refused.detail)
    return refusals


def _decode(workspace: Path, missing: Sequence[str], rules: Prepare, mark: str, refusals: Refusals) -> list[Header]:
    """Decode the missing pictures into new shards; what is refused is added to `refusals`."""
    places: dict[str, Place] = {}
    for members in index_packs(workspace / ingest.RAW).values():
        places.update(members)
    unpacked = [key for key in missing if key not in places]
    if unpacked:
        raise IntegrityError(
            f"{len(unpacked)} pictures are in no pack of {ingest.RAW}. Run `dvc repro` from the start."
        )

    with Progress("prepare", len(missing), "pictures") as progress:

        def rows(keys: Iterator[str]) -> Iterator[tuple[Row, Array]]:
            work = ((key, places[key]) for key in keys)
            for key, result in decode_all(work, _policy(rules), rules.background_rgb):
                progress.advance()
                if isinstance(result, Refused):
                    refusals[key] = (result.code, result.detail)
                else:
                    pixels, facts = result
                    yield {"key": key, **asdict(facts)}, pixels

        return list(append(workspace / SHARDS, missing, rules.shard_size, mark, rows))


def _example(row: Discovered, facts: Row, given: Collection[str], rules: Prepare) -> Example:
    split = assign_split(row.key, row.split, given, rules.validation_fraction, rules.test_fraction, rules.split_seed)
    return Example(
        row.key,
        row.path,
        row.label,
        split,
        facts["width_px"],
        facts["height_px"],
        facts["format"],
        facts["notes"],
    )


def _quarantine(discovered: Sequence[Discovered], conflicts: set[str], refusals: Refusals) -> list[Quarantined]:
    """Rows for every path in conflict, and for the refused pictures (once each: other paths count as duplicates)."""
    quarantined: list[Quarantined] = []
    chosen, _, _ = by_content([row for row in discovered if not row.excluded])
    for row in discovered:
        if row.key in conflicts:
            detail = "the same bytes stand under another class too"
            quarantined.append(Quarantined(row.path, row.key, row.label, Code.LABEL_CONFLICT, detail))
        elif row.key in refusals and chosen[row.key] is row:
            code, detail = refusals[row.key]
            quarantined.append(Quarantined(row.path, row.key, row.label, code, detail))
    return quarantined


def _check_sizes(discovered: Counter[str], rules: Prepare) -> None:
    """Find out before the long work what no decoding can mend."""
    problems = _too_small(sorted(discovered), discovered, rules, "different pictures")
    if problems:
        raise DataError(_list(problems))


def _too_small(labels: Sequence[str], sizes: Counter[str], rules: Prepare, what: str) -> list[str]:
    return [
        f"class {label!r}: {sizes[label]} {what}, prepare.min_pictures_per_class is {rules.min_pictures_per_class}"
        for label in labels
        if sizes[label] < rules.min_pictures_per_class
    ]


def _list(problems: Sequence[str]) -> str:
    return "These pictures can't make a classifier:\n  " + "\n  ".join(problems)


def _check(examples: Sequence[Example], quarantined: Sequence[Quarantined], rules: Prepare) -> None:
    _check_quarantine(len(examples), quarantined, rules)
    by_class = Counter(example.label for example in examples)
    trained = Counter(example.label for example in examples if example.split == "train")
    labels = sorted({*by_class, *(row.label for row in quarantined)})
    problems = _too_small(labels, by_class, rules, "accepted")
    problems += [
        f"class {label!r}: none of its {by_class[label]} pictures is in the train split"
        for label in labels
        if by_class[label] >= rules.min_pictures_per_class and not trained[label]
    ]
    by_split = Counter(example.split for example in examples)
    problems += [
        f"the {split} split is empty: raise prepare.{split}_fraction, or add pictures"
        for split in SPLITS[1:]
        if not by_split[split]
    ]
    if problems:
        raise DataError(_list(problems))


def _check_quarantine(accepted: int, quarantined: Sequence[Quarantined], rules: Prepare) -> None:
    share = len(quarantined) / max(1, accepted + len(quarantined))
    if share > rules.max_quarantined_fraction:
        codes = Counter(row.code for row in quarantined)
        shown = "\n  ".join(f"{row.path}: {row.code}: {row.detail}" for row in quarantined[:5])
        raise DataError(
            f"{len(quarantined)} of {accepted + len(quarantined)} pictures were refused "
            f"({', '.join(f'{count} {code}' for code, count in sorted(codes.items()))}), "
            f"more than prepare.max_quarantined_fraction={rules.max_quarantined_fraction:g}. The first ones:\n  {shown}"
        )


def _counts(
    examples: Sequence[Example],
    quarantined: Sequence[Quarantined],
    excluded: Counter[str],
    given: Collection[str],
    rules: Prepare,
) -> dict[str, Any]:
    by_class: dict[str, dict[str, int]] = {}
    for example in examples:
        by_class.setdefault(example.label, dict.fromkeys(SPLITS, 0))[example.split] += 1
    return {
        "accepted": len(examples),
        "quarantined": len(quarantined),
        "excluded": dict(excluded),
        "quarantined_by_code": dict(Counter(row.code for row in quarantined)),
        "classes": by_class,
        "given_splits": sorted(given),
        "fractions": {"validation": rules.validation_fraction, "test": rules.test_fraction},
    }


def main() -> int:
    return run_stage("prepare", run)


if __name__ == "__main__":
    raise SystemExit(main())
