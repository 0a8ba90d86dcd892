"""The data report: the source's entries, what happened to them, and what changed; `data.json` and one HTML page.

Everything that came from data passes Jinja's autoescape and `text.visible`. The page has no times and no dates, so the
same input gives the same bytes. Lists are samples of limited length, next to the total count; the complete tables are
in `data/prepared/`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.errors import IntegrityError
from tasks.files import read_json, sweep_temporaries, write_bytes, write_json
from tasks.images.manifest import SPLITS, Discovered, Duplicate, Example, Quarantined, read_examples
from tasks.images.reason_codes import RefusalCode
from tasks.images.selection import Selection
from tasks.images.shards import Shards
from tasks.reports import html
from tasks.reports.data_uris import thumbnail
from tasks.reports.data_warnings import data_warnings
from tasks.reports.text import describe_source

LAYOUT = 2
"""Version of the layout of `data.json`. Raise it with the layout, so that changes in an older layout are not read."""
LISTED_PAIRS = 24
LISTED_A_REASON = 24
"""Most images that are listed for each reason code, and most images that are listed with another class than before."""
LISTED_CONFLICTS = 100
THUMBNAILS_A_NOTE = 6
THUMBNAIL_PX = 192
SIDES_PX = (0, 64, 128, 224, 448, 896, 1792)
"""Lower bounds of the bars of the sizes; 224 is the size of the model's input."""
_BY_WEIGHT = ("left_out_as_leak", "kept_together", "kept_apart", "left_out")

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Previous:
    """The previous version of the data; `examples` is None if there was none."""

    examples: Sequence[Example] | None = None
    summary: Mapping[str, Any] | None = None
    report: Mapping[str, Any] | None = None


def read_previous(prepared: Path, reports: Path) -> Previous:
    """Read what the run before wrote. A damaged file counts as missing: only the comparison is lost."""
    try:
        examples = read_examples(prepared)
    except (IntegrityError, TypeError):  # none yet, damaged, or of an older layout
        examples = None
    return Previous(examples, _read_object(prepared / "summary.json"), _read_object(reports / "data.json"))


def write_data_report(reports: Path, description: Mapping[str, Any], shards: Shards) -> None:
    """Write `data.html`, then `data.json`, which marks the report as complete."""
    sweep_temporaries(reports)
    keys = shards.order(key for key in thumbnail_keys(description) if key in shards)
    page = render_data_page(description, dict(zip(keys, shards.read(keys) if keys else (), strict=True)))
    write_bytes(reports / "data.html", page.encode())
    write_json(reports / "data.json", description)


def describe_data(
    summary: Mapping[str, Any], discovered: Iterable[Discovered], selection: Selection, previous: Previous
) -> dict[str, Any]:
    """The content of the page as JSON; see the module's docstring for the length of lists.

    Args:
        summary: the future content of `data/prepared/summary.json`.
        discovered: all rows of the source.
        selection: what happened to them.
        previous: the version before. If its report already describes the same images, its changes are kept, so a
            second run gives the same bytes.
    """
    examples, version = selection.examples, _version(selection.examples, summary)
    report = previous.report or {}
    changes = report.get("changes") if report.get("version") == version else _changes(examples, summary, previous)
    sizes = {label: sum(splits.values()) for label, splits in sorted(summary["classes"].items())}
    shorter = [min(example.width_px, example.height_px) for example in examples]
    return {
        "version": version,
        **describe_source(summary),
        **{name: summary[name] for name in ("discovered", "accepted", "quarantined", "excluded", "given_splits")},
        "fractions": summary["fractions"],
        "warnings": data_warnings(summary),
        "quarantined_by_code": summary["quarantined_by_code"],
        "classes": {label: dict(summary["classes"][label]) for label in sizes},
        "largest": _class(max(sizes, key=sizes.__getitem__), sizes),
        "smallest": _class(min(sizes, key=sizes.__getitem__), sizes),
        "formats": dict(Counter(example.format for example in examples)),
        "shorter_sides": _histogram(shorter),
        "shorter_side_px": [min(shorter), max(shorter)],
        "notes": _notes(examples),
        "quarantine": _quarantine(selection.quarantined),
        "label_conflicts": _conflicts(selection.quarantined),
        "duplicates": _duplicates(selection.duplicates, discovered),
        "changes": changes,
    }


def thumbnail_keys(description: Mapping[str, Any]) -> set[str]:
    """Keys of the images that the page shows; some of them have no prepared pixels."""
    shown = [key for pair in description["duplicates"]["listed"] for key in (pair["key"], pair["of_key"])]
    shown += [row["key"] for row in description["label_conflicts"]["listed"]]
    shown += [image["key"] for note in description["notes"] for image in note["images"]]
    return set(shown)


def render_data_page(description: Mapping[str, Any], thumbnails: Mapping[str, Pixels]) -> str:
    """Write the page.

    Args:
        description: from `describe_data`.
        thumbnails: key -> (height, width, 3) uint8 RGB; other images are listed without a thumbnail.

    Returns:
        HTML, UTF-8 safe.
    """
    return html.render(
        "data_page.html.jinja",
        data=description,
        splits=SPLITS,
        thumbnails={key: thumbnail(pixels, THUMBNAIL_PX) for key, pixels in thumbnails.items()},
    )


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        found = read_json(path)
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _version(examples: Sequence[Example], summary: Mapping[str, Any]) -> str:
    """16 hex digits that change whenever the report has something new to say about the images."""
    digest = hashlib.sha256(json.dumps([LAYOUT, sorted(_reasons(summary).items())]).encode())
    for one in examples:
        digest.update(json.dumps([one.key, one.path, one.label, one.split]).encode())
    return digest.hexdigest()[:16]


def _reasons(summary: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """(kind, reason) -> how many images."""
    kinds = (("quarantined", "quarantined_by_code"), ("excluded", "excluded"), ("noted", "notes"))
    return {(kind, reason): n for kind, name in kinds for reason, n in summary.get(name, {}).items()}


def _changes(examples: Sequence[Example], summary: Mapping[str, Any], previous: Previous) -> dict[str, Any] | None:
    """The changes since the version before; None without one. Images with the same bytes are the same image."""
    if previous.examples is None:
        return None
    before = {one.key: one for one in previous.examples}
    after = {one.key: one for one in examples}
    both = [(before[key], one) for key, one in after.items() if key in before]
    relabelled = [
        {"path": new.path, "before": old.label, "after": new.label} for old, new in both if old.label != new.label
    ]
    earlier, now = _reasons(previous.summary or {}), _reasons(summary)
    return {
        "before": len(before),
        "after": len(after),
        "added": _by_class(one for key, one in after.items() if key not in before),
        "removed": _by_class(one for key, one in before.items() if key not in after),
        "relabelled": {"n": len(relabelled), "listed": relabelled[:LISTED_A_REASON]},
        "moved": sum(old.split != new.split for old, new in both),
        "renamed": sum(old.path != new.path for old, new in both),
        "reasons": [
            {
                "kind": kind,
                "reason": reason,
                "before": earlier.get((kind, reason), 0),
                "after": now.get((kind, reason), 0),
            }
            for kind, reason in sorted(earlier.keys() | now.keys())
            if earlier.get((kind, reason)) != now.get((kind, reason))
        ],
    }


def _by_class(examples: Iterable[Example]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for one in examples:
        counts.setdefault(one.label, dict.fromkeys(SPLITS, 0))[one.split] += 1
    return counts


def _class(label: str, sizes: Mapping[str, int]) -> dict[str, Any]:
    return {"label": label, "n": sizes[label]}


def _histogram(values: Sequence[int]) -> list[dict[str, Any]]:
    ends = (*SIDES_PX, None)
    places = Counter(np.searchsorted(SIDES_PX, values, side="right").tolist())
    return [
        {"from_px": start, "below_px": end, "n": places[number]}
        for number, (start, end) in enumerate(pairwise(ends), start=1)
    ]


def _notes(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Each note with its first images; the most frequent comes first."""
    counts: Counter[str] = Counter()
    images: dict[str, list[dict[str, str]]] = {}
    for one in examples:
        for note in filter(None, one.notes.split(",")):
            counts[note] += 1
            shown = images.setdefault(note, [])
            if len(shown) < THUMBNAILS_A_NOTE:
                shown.append({"key": one.key, "path": one.path, "label": one.label})
    return [{"note": note, "n": n, "images": images[note]} for note, n in _most_frequent(counts)]


def _quarantine(rows: Sequence[Quarantined]) -> list[dict[str, Any]]:
    """Each code with its first images; the most frequent comes first. Label conflicts have their own list."""
    refused = [row for row in rows if row.code != RefusalCode.LABEL_CONFLICT]
    found: dict[str, list[dict[str, str]]] = {}
    for row in refused:
        found.setdefault(str(row.code), []).append({"path": row.path, "label": row.label, "detail": row.detail})
    counts = {code: len(images) for code, images in found.items()}
    return [{"code": code, "n": n, "listed": found[code][:LISTED_A_REASON]} for code, n in _most_frequent(counts)]


def _conflicts(rows: Sequence[Quarantined]) -> dict[str, Any]:
    """Files with two labels; the paths of files with the same bytes are next to each other."""
    found = [row for row in rows if row.code == RefusalCode.LABEL_CONFLICT]
    first: dict[str, str] = {}
    for row in found:
        first.setdefault(row.sha256, row.path)
    listed = sorted(found, key=lambda row: (first[row.sha256], row.path))[:LISTED_CONFLICTS]
    return {
        "n": len(found),
        "listed": [{"key": row.sha256, "path": row.path, "label": row.label, "detail": row.detail} for row in listed],
    }


def _duplicates(rows: Sequence[Duplicate], discovered: Iterable[Discovered]) -> dict[str, Any]:
    wanted = {path for row in rows for path in (row.path, row.of_path)}
    by_path = {row.path: row for row in discovered if row.path in wanted}
    labels = {path: row.label for path, row in by_path.items()}
    listed = sorted(rows, key=lambda row: _weight(row, labels))[:LISTED_PAIRS]
    counts = Counter((row.kind, row.outcome) for row in rows)
    return {
        "n": len(rows),
        "counts": [{"kind": kind, "outcome": outcome, "n": n} for (kind, outcome), n in sorted(counts.items())],
        "listed": [
            {
                **asdict(row),
                "key": by_path[row.path].key,
                "of_key": by_path[row.of_path].key,
                "of_label": labels[row.of_path],
            }
            for row in listed
        ],
    }


def _weight(row: Duplicate, labels: Mapping[str, str]) -> tuple[bool, int, str, str]:
    """Pairs that a person may want to judge come first: those with two labels, then leaks."""
    alike = row.kind == "near" and labels[row.path] != labels[row.of_path]
    return not alike, _BY_WEIGHT.index(row.outcome), row.path, row.of_path


def _most_frequent(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
