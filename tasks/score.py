"""Program `score`: all images of a source in, files of rows out, exactly one row for each image.

    python -m tasks.score --model models/export s3://bucket/new --out scores

The source is any that `ingest` knows; labels aren't needed, so images may lie anywhere in a folder. A row says what
`tasks.predict` says about the image, or `error`, a reason code. The rows are in parts, in the order of the paths. A
part appears when it is complete. A killed program continues after its last part, and ends with the same rows as if it
had not been killed; so does one whose source grew. The memory doesn't depend on the images, only on the length of the
listing: 1.5 KB an image at most. `scores.json` appears last, with the counts.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import IntegrityError, PredictError, RunError
from tasks.files import sweep_temporaries, write_json
from tasks.images.reason_codes import PASSING, RefusalCode, Refused
from tasks.images.sources import Excluded, SourceImage, SourcePolicy, discover
from tasks.parallel import in_order
from tasks.params import load_settings
from tasks.production import PRODUCTION, model_folder
from tasks.program import run_program
from tasks.progress import Progress
from tasks.runs.claims import claimed
from tasks.scoring.decoded import Decoded, Spool, decode_source
from tasks.scoring.parts import Part, plan, sweep
from tasks.scoring.rows import FEATURES, FORMATS, Row, RowFiles
from tasks.settings import Settings
from tasks.vgg.exports.exported_model import ExportedModel
from tasks.vgg.exports.model_folder import model_version
from tasks.vgg.exports.signature import configured_key
from tasks.workspace import EXPORT, Workspace

SUMMARY = "scores.json"
BATCH_SIZE = 8
ROWS_A_PART = 500
"""A killed program repeats at most one part: half a minute of two cores."""
FEATURES_SIZE = 1024
_BATCHES_AHEAD = 2
_READ_AGAIN = {*PASSING, RefusalCode.UNREADABLE}


@dataclass(frozen=True)
class Wanted:
    """What is scored, and how.

    Attributes:
        model: folder of an exported model.
        source: as `source.uri`.
        out: folder for the parts; made if it is missing.
        form: of the parts, one of `FORMATS`.
        keep_features: whether the rows have the features of the images, for drift.
        rows_a_part: most rows in a part.
    """

    model: Path
    source: str
    out: Path
    form: str = "parquet"
    keep_features: bool = False
    rows_a_part: int = ROWS_A_PART


def score(wanted: Wanted, settings: Settings, workspace: Workspace) -> dict[str, Any]:
    """Score all images of a source, and return what `scores.json` holds: see `_count`.

    Raises:
        PredictError: the model can't be loaded or has no features, or there is no image, or none could be scored.
        SourceError: the source is missing or not understood.
        TransientError: the source doesn't answer.
        RunError: another process scores into the folder.
    """
    model = ExportedModel(wanted.model, configured_key())
    if wanted.keep_features and not (model.has_features and wanted.form == "parquet"):
        raise PredictError("--keep-features needs --format parquet, and a model that was exported with features.")
    wanted.out.mkdir(parents=True, exist_ok=True)
    with claimed(wanted.out / ".claim", "scores") as is_mine:
        if not is_mine:
            raise RunError(f"Another process scores into {wanted.out}. Wait for its end, or give another folder.")
        return _score(wanted, model, settings, workspace)


def _score(wanted: Wanted, model: ExportedModel, settings: Settings, workspace: Workspace) -> dict[str, Any]:
    sweep_temporaries(wanted.out)
    files = RowFiles(wanted.form, model.classes, FEATURES_SIZE if wanted.keep_features else 0)
    listing = discover(wanted.source, replace(SourcePolicy.of(settings, workspace), labelled=False))
    facts = {"model": model_version(wanted.model), "form": wanted.form, "features": files.features}
    parts = list(plan(listing, wanted.rows_a_part, facts, files.suffix))
    total = sum(len(part.entries) for part in parts)
    if not total:
        raise PredictError(f"{wanted.source} holds no image.")
    missing = [part for part in parts if not _is_whole(wanted.out / part.name, files, len(part.entries))]
    if missing:
        (wanted.out / SUMMARY).unlink(missing_ok=True)
    sweep(wanted.out, parts)
    done = total - sum(len(part.entries) for part in missing)
    with Progress("score", total, "images", done=done) as progress:
        for part, rows in _scored(missing, model, settings.ingest.readers, wanted):
            files.write(wanted.out / part.name, rows)
            progress.advance(len(rows))
    summary = {**_count(wanted.out, parts, files), "source": wanted.source, "model": facts["model"]}
    write_json(wanted.out / SUMMARY, summary)
    return summary


def _is_whole(path: Path, files: RowFiles, rows: int) -> bool:
    """Whether an earlier run has written this part and could read all its images, and no disk has damaged it since."""
    try:
        errors = [row["error"] for row in files.read(path)]
        return len(errors) == rows and _READ_AGAIN.isdisjoint(errors)
    except (OSError, ValueError, KeyError, IntegrityError):
        return False


def _scored(
    parts: Sequence[Part], model: ExportedModel, readers: int, wanted: Wanted
) -> Iterator[tuple[Part, list[Row]]]:
    """The rows of each part. Reading, decoding and the network overlap, also from part to part."""
    spool = Spool(wanted.out / ".spool")
    images = (entry for part in parts for entry in part.entries if isinstance(entry, SourceImage))
    decoded = decode_source(images, readers, model.policy, model.background_rgb, spool)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="network") as network:
            begun = (
                (number, network.submit(_rows, batch, model, wanted.keep_features))
                for number, batch in _batches(parts, decoded)
            )
            answered = ((number, row) for number, rows in in_order(begun, _BATCHES_AHEAD) for row in rows.result())
            for number, rows in groupby(answered, key=lambda one: one[0]):
                yield parts[number], [row for _, row in rows]
    finally:
        spool.close()


def _batches(parts: Sequence[Part], decoded: Iterator[Decoded]) -> Iterator[tuple[int, list[Decoded | Excluded]]]:
    """(Number of a part, some of its entries). Batches are the same in every run, so their numbers are, too."""
    for number, part in enumerate(parts):
        batch: list[Decoded | Excluded] = []
        good = 0
        for entry in part.entries:
            one = entry if isinstance(entry, Excluded) else next(decoded)
            assert one.path == entry.path
            batch.append(one)
            good += isinstance(one, Decoded) and not isinstance(one.content, Refused)
            if good == BATCH_SIZE:
                yield number, batch
                batch, good = [], 0
        if batch:
            yield number, batch


def _rows(batch: Sequence[Decoded | Excluded], model: ExportedModel, keep_features: bool) -> list[Row]:
    pixels = [one.content for one in batch if isinstance(one, Decoded) and not isinstance(one.content, Refused)]
    answers, features = model.answer_with_features(pixels) if pixels else ([], None)
    if keep_features and features is not None:
        for answer, values in zip(answers, features.astype(np.float16), strict=True):
            answer[FEATURES] = values
    left = iter(answers)
    return [_row(one, left) for one in batch]


def _row(one: Decoded | Excluded, answers: Iterator[Row]) -> Row:
    if isinstance(one, Excluded):
        return {"path": one.path, "error": one.reason}
    known: Row = {"path": one.path, "sha256": one.sha256}
    if isinstance(one.content, Refused):
        return {**known, "error": str(one.content.code), "detail": one.content.detail}
    return {**known, **next(answers)}


def _count(out: Path, parts: Iterable[Part], files: RowFiles) -> dict[str, Any]:
    """JSON: `rows`; how many have each `label` and each `error`; how many are `unsure` and `foreign`; the `parts`.

    Raises:
        PredictError: no row has a label.
    """
    labels, errors, told = Counter[str](), Counter[str](), Counter[str]()
    first: Row = {}
    for part in parts:
        for row in files.read(out / part.name):
            told["rows"] += 1
            told.update(name for name in ("unsure", "foreign") if row[name])
            if row["error"]:
                errors[row["error"]] += 1
                first = first or row
            else:
                labels[row["label"]] += 1
    if not labels:
        shown = f"{first['path']}: {first['error']}"
        raise PredictError(f"None of the {told['rows']} images could be scored. The first: {shown}")
    counts = {name: told[name] for name in ("rows", "unsure", "foreign")}
    return {**counts, "labels": labels, "errors": errors, "parts": [part.name for part in parts]}


def describe(summary: dict[str, Any], out: Path) -> str:
    """The summary as a sentence."""
    refused = sum(summary["errors"].values())
    words = ", ".join(f"{count} {name}" for name, count in sorted(summary["errors"].items()))
    told = f"{summary['rows']} rows, {summary['unsure']} unsure, {summary['foreign']} foreign, {refused} refused"
    return f"{told}{f' ({words})' if words else ''}: {out}"


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tasks.score", description="Score all images of a source.")
    parser.add_argument("--model", type=Path, default=Path(EXPORT), help=f"folder of an export, or {PRODUCTION}")
    parser.add_argument("--out", type=Path, required=True, help="folder for the parts and scores.json")
    parser.add_argument("--format", choices=FORMATS, default="parquet", help="of the parts")
    parser.add_argument("--keep-features", action="store_true", help="for drift; 2 KB an image, only with parquet")
    parser.add_argument("--rows-a-part", type=int, default=ROWS_A_PART, metavar="N", help="most rows in a part")
    parser.add_argument("source", help="a folder, archive, table, s3://..., tfds:name, digits, digits:all")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    given = _arguments(arguments)
    rows = max(1, given.rows_a_part)

    def body() -> None:
        workspace = Workspace.at(Path.cwd())
        model = model_folder(given.model, workspace, print)()
        wanted = Wanted(model, given.source, given.out, given.format, given.keep_features, rows)
        print(describe(score(wanted, load_settings(workspace.folder), workspace), wanted.out))

    return run_program(body)


if __name__ == "__main__":
    raise SystemExit(main())
