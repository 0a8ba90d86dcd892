"""Stage `prepare`: packs in, decoded images, splits and the quarantine out.

Reads `data/raw/`. Writes `data/prepared/`: `shards/` (n, 224, 224, 3) uint8 RGB, `examples.parquet` (accepted images
with label and split), `quarantine.parquet` (refused images with a reason code), `duplicates.parquet` (images that
repeat another image), `splits.parquet` (the splits for the next run) and `summary.json` (counts). Also writes the data
report, `reports/data.html` and `reports/data.json`.

Always: discovered = accepted + quarantined + excluded. Only images that are in no shard are decoded. An image keeps its
split. Near duplicates and images of one group are in one split. Labels are not in the shards, so new labels don't
decode anything again.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.errors import DataError, IntegrityError
from tasks.files import fingerprint, read_json, write_json
from tasks.images import decoding, perceptual_hash, quality
from tasks.images.columns import ShardRow
from tasks.images.decoding import ImageFacts, ImagePolicy
from tasks.images.manifest import (
    SPLITS,
    Discovered,
    Memory,
    Quarantined,
    read_discovered,
    read_memory,
    write_duplicates,
    write_examples,
    write_memory,
    write_quarantine,
)
from tasks.images.packs import index_packs
from tasks.images.placeholders import find_placeholders, has_few_tones
from tasks.images.reason_codes import RefusalCode, Refused
from tasks.images.selection import Refusals, Selection, by_content, select
from tasks.images.shards import Array, ShardHeader, Shards, append, reconcile, usable_headers
from tasks.images.splits import Rules
from tasks.images.workers import decode_all
from tasks.program import run_stage
from tasks.progress import Progress
from tasks.reports.data_page import describe_data, read_previous, write_data_report
from tasks.reports.data_warnings import data_warnings
from tasks.settings import Prepare, Settings
from tasks.workspace import PREPARED, RAW, Workspace


@dataclass(frozen=True)
class Summary:
    accepted: int
    quarantined: int
    excluded: int
    decoded: int
    reused: int

    def __str__(self) -> str:
        return (
            f"{self.accepted} images accepted, {self.quarantined} quarantined, {self.excluded} excluded; "
            f"{self.decoded} decoded, {self.reused} reused"
        )


def run(settings: Settings, workspace: Workspace) -> Summary:
    """Bring `data/prepared` in line with `data/raw`.

    Raises:
        DataError: too many images refused, too few in a class, or a split without images.
        IntegrityError: a pack doesn't hold the bytes that were packed.
    """
    rules = settings.prepare
    discovered = read_discovered(workspace.raw)
    contents = by_content([row for row in discovered if row.key])

    recipe = decoding.recipe(rules.background_rgb)
    # `likeness` is the perceptual hash; another name would decode everything again.
    versions = {"facts": decoding.FACTS_VERSION, "likeness": perceptual_hash.VERSION, "quality": quality.VERSION}
    mark = fingerprint({**recipe, **versions})
    refusals = _refuse_known(usable_headers(workspace.shards, mark), rules)
    wanted = [key for key in contents.chosen if key not in refusals]  # label conflicts too: the report shows them
    check_sizes(Counter(row.label for row in contents.chosen.values()), rules, "different images")
    state = reconcile(workspace.shards, wanted, mark, rules.shard_size)
    new = _decode(workspace, state.missing, rules, mark, refusals)
    shards = Shards([*state.kept.headers, *new])

    standing = [contents.chosen[key] for key in wanted if key in shards]
    refusals |= find_placeholders(standing, shards.row, rules.min_entropy_bits)

    prepared = workspace.prepared
    split_rules = _split_rules(discovered, rules)
    selection = select(
        discovered,
        contents,
        [key for key in wanted if key in shards and key not in refusals and key not in contents.conflicts],
        refusals,
        lambda key: _with_issues(shards.row(key), rules),
        shards.read,
        rules.near_duplicate_bits,
        split_rules,
        _read_memory(prepared, _mark_of_splits(split_rules, rules)),
    )
    summary = {
        "source": read_json(workspace.raw / "source.json"),
        "discovered": len(discovered),
        "fingerprint": fingerprint(recipe),
        **_mark_of_splits(split_rules, rules),
        **_counts(selection, split_rules),
    }
    _check(selection, rules)
    for warning in data_warnings(summary):
        print(f"prepare: {warning}", file=sys.stderr, flush=True)
    # The report compares with the old tables, so it is written before the new ones. If the run is killed in between,
    # the next run writes the same report. If it is killed later, the next run finds a report on the same images.
    earlier = read_previous(prepared, workspace.reports)
    write_data_report(workspace.reports, describe_data(summary, discovered, selection, earlier), shards)
    write_examples(prepared, selection.examples)
    write_quarantine(prepared, selection.quarantined)
    write_duplicates(prepared, selection.duplicates)
    write_memory(prepared, selection.memory)
    write_json(prepared / "summary.json", summary)
    decoded = sum(len(header.rows) for header in new)
    accepted = len(selection.examples)
    excluded = sum(selection.excluded.values())
    return Summary(
        accepted, len(selection.quarantined), excluded, decoded, sum(len(header.rows) for header in state.kept.headers)
    )


def _split_rules(discovered: Sequence[Discovered], rules: Prepare) -> Rules:
    given = frozenset(row.split for row in discovered if row.split)
    return Rules(rules.validation_fraction, rules.test_fraction, rules.split_seed, given)


def _mark_of_splits(rules: Rules, settings: Prepare) -> dict[str, Any]:
    """What the splits depend on besides the images; an older version wrote no `near_duplicate_bits`."""
    shares = [rules.validation_fraction, rules.test_fraction, rules.seed, sorted(rules.given_splits)]
    return {"split_rules": fingerprint(shares), "near_duplicate_bits": settings.near_duplicate_bits}


def _read_memory(prepared: Path, mark: dict[str, Any]) -> Memory:
    """The splits of the previous run if they were drawn by the same rules, else none; reports it if they are lost."""
    if not (prepared / "examples.parquet").exists():
        return Memory()  # the first run
    try:
        before = read_json(prepared / "summary.json")
        same = {"near_duplicate_bits": mark["near_duplicate_bits"], **before}.items() >= mark.items()
        return read_memory(prepared) if same else Memory()
    except (OSError, ValueError, IntegrityError) as error:
        print(
            f"prepare: {PREPARED} doesn't say any more which split an image was in ({error}). All images are drawn by "
            "their content again. Images that near duplicates or groups had moved may change their split: to keep it, "
            "restore the folder (dvc checkout --force prepare) and run again.",
            file=sys.stderr,
            flush=True,
        )
        return Memory()


def _policy(rules: Prepare) -> ImagePolicy:
    return ImagePolicy(rules.min_side_px, rules.max_pixels, rules.max_aspect_ratio, rules.min_content_fraction)


def _refuse_known(headers: Sequence[ShardHeader], rules: Prepare) -> Refusals:
    """Images that were decoded before and that the present policy refuses."""
    refusals: Refusals = {}
    for row in (row for header in headers for row in header.rows):
        facts = ImageFacts(**{name: value for name, value in row.items() if name != "key"})
        try:
            _judge(facts, rules)
        except Refused as refused:
            refusals[row["key"]] = (refused.code, refused.detail)
    return refusals


def _judge(facts: ImageFacts, rules: Prepare) -> None:
    """Raise Refused if the facts about a decoded image break the policy."""
    decoding.judge(facts, _policy(rules))
    for issue in quality.issues(facts.scores or {}, rules, min(facts.width_px, facts.height_px)):
        if issue in rules.quarantine_issues:
            raise Refused(RefusalCode(issue), f"{issue}: {facts.scores}")


def _with_issues(row: ShardRow, rules: Prepare) -> ShardRow:
    """The row with its quality issues added to its notes."""
    found = quality.issues(row["scores"], rules, min(row["width_px"], row["height_px"]))
    if has_few_tones(row, rules.min_entropy_bits):
        found = (*found, "few_tones")
    return {**row, "notes": ",".join(filter(None, (row["notes"], *found)))}


def _decode(
    workspace: Workspace, missing: Sequence[str], rules: Prepare, mark: str, refusals: Refusals
) -> list[ShardHeader]:
    """Decode the missing images into new shards, and add the refused ones to `refusals`."""
    if not missing:
        return []
    places = index_packs(workspace.raw)
    unpacked = [key for key in missing if key not in places]
    if unpacked:
        raise IntegrityError(f"{len(unpacked)} images are in no pack of {RAW}. Run `dvc repro` from the start.")

    with Progress("prepare", len(missing), "images") as progress:

        def rows(keys: Iterator[str]) -> Iterator[tuple[ShardRow, Array]]:
            work = ((key, places[key]) for key in keys)
            for key, result in decode_all(work, _policy(rules), rules.background_rgb, describe=True):
                progress.advance()
                try:
                    if isinstance(result, Refused):
                        raise result
                    pixels, facts = result
                    _judge(facts, rules)
                except Refused as refused:
                    refusals[key] = (refused.code, refused.detail)
                else:
                    yield {"key": key, **vars(facts)}, pixels

        return list(append(workspace.shards, missing, rules.shard_size, mark, rows))


def check_sizes(discovered: Counter[str], rules: Prepare, what: str) -> None:
    """Raise DataError before the long work if a class is too small anyway. `what` was counted for each class."""
    problems = _too_small(sorted(discovered), discovered, rules, what)
    if problems:
        raise DataError(_list(problems))


def _too_small(labels: Sequence[str], sizes: Counter[str], rules: Prepare, what: str) -> list[str]:
    return [
        f"class {label!r}: {sizes[label]} {what}, prepare.min_images_per_class is {rules.min_images_per_class}"
        for label in labels
        if sizes[label] < rules.min_images_per_class
    ]


def _list(problems: Sequence[str]) -> str:
    return "No classifier can be trained on these images:\n  " + "\n  ".join(problems)


def _check(selection: Selection, rules: Prepare) -> None:
    examples, quarantined = selection.examples, selection.quarantined
    _check_quarantine(len(examples), quarantined, rules)
    by_class = Counter(example.label for example in examples)
    trained = Counter(example.label for example in examples if example.split == "train")
    labels = sorted({*by_class, *(row.label for row in quarantined)})
    problems = _too_small(labels, by_class, rules, "accepted")
    problems += [
        f"class {label!r}: none of its {by_class[label]} images is in the train split, and no image changes its "
        "split. Add images of the class to train on, or draw all splits again: change prepare.split_seed"
        for label in labels
        if by_class[label] >= rules.min_images_per_class and not trained[label]
    ]
    by_split = Counter(example.split for example in examples)
    problems += [
        f"the {split} split is empty: raise prepare.{split}_fraction, or add images"
        for split in SPLITS[1:]
        if not by_split[split]
    ]
    if problems and selection.large_sets:
        problems.append(
            f"{sum(one.n for one in selection.large_sets)} images are in large sets of near duplicates, which stay "
            "together. If they are different images, set prepare.near_duplicate_bits=0"
        )
    if problems:
        raise DataError(_list(problems))


def _check_quarantine(accepted: int, quarantined: Sequence[Quarantined], rules: Prepare) -> None:
    share = len(quarantined) / max(1, accepted + len(quarantined))
    if share > rules.max_quarantined_fraction:
        codes = Counter(row.code for row in quarantined)
        shown = "\n  ".join(f"{row.path}: {row.code}: {row.detail}" for row in quarantined[:5])
        raise DataError(
            f"{len(quarantined)} of {accepted + len(quarantined)} images were refused "
            f"({', '.join(f'{count} {code}' for code, count in sorted(codes.items()))}), "
            f"more than prepare.max_quarantined_fraction={rules.max_quarantined_fraction:g}. The first ones:\n  {shown}"
        )


def _counts(selection: Selection, rules: Rules) -> dict[str, Any]:
    by_class: dict[str, dict[str, int]] = {}
    for example in selection.examples:
        by_class.setdefault(example.label, dict.fromkeys(SPLITS, 0))[example.split] += 1
    notes = Counter(note for example in selection.examples for note in example.notes.split(",") if note)
    return {
        "accepted": len(selection.examples),
        "quarantined": len(selection.quarantined),
        "excluded": dict(selection.excluded),
        "quarantined_by_code": dict(Counter(row.code for row in selection.quarantined)),
        "duplicates": dict(Counter(f"{row.kind}, {row.outcome}" for row in selection.duplicates)),
        "near_duplicates": {"large_sets": [asdict(one) for one in selection.large_sets], "mixed": selection.mixed},
        "notes": dict(notes),
        "classes": by_class,
        "given_splits": sorted(rules.given_splits),
        "fractions": {"validation": rules.validation_fraction, "test": rules.test_fraction},
    }


def main() -> int:
    return run_stage("prepare", run)


if __name__ == "__main__":
    raise SystemExit(main())
