"""Program `watch`: do new images look like those that the model was tested on? Scores a source, and compares.

    python -m tasks.watch --model models/export s3://bucket/today --out reports/watch

The source is any that `tasks.score` takes; labels aren't needed. Written are the rows of `tasks.score` with features,
`watch.json` and `watch.html`: whether there is an alarm and by which test, estimated accuracy and class shares, and the
most foreign images. The exit code is 0 whether there is an alarm or not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.files import write_bytes, write_json
from tasks.images.reason_codes import Refused
from tasks.images.sources import SourcePolicy, discover
from tasks.params import load_settings
from tasks.program import run_program
from tasks.reports.metrics import rounded
from tasks.score import Wanted, score
from tasks.scoring.decoded import Spool, decode_source
from tasks.settings import Settings
from tasks.vgg.exports.exported_model import ExportedModel
from tasks.vgg.exports.signature import configured_key
from tasks.watching.drift import compare_samples, estimate_accuracy, estimate_class_shares
from tasks.watching.page import describe, render_watch, small
from tasks.watching.reference import reference_of
from tasks.watching.scored import read_scored
from tasks.workspace import EXPORT, WATCH, Workspace

JSON, PAGE, SCORES = "watch.json", "watch.html", "scores"


def watch(model_folder: Path, source: str, out: Path, settings: Settings, workspace: Workspace) -> dict[str, Any]:
    """Score a source, compare its images with the model's test images, and write the result.

    Args:
        model_folder: an exported model.
        source: as `source.uri`.
        out: folder for the result.
        settings: of the project.
        workspace: with the prepared images that the model was tested on.

    Returns:
        what `watch.json` holds: that of `compare_samples`, and `accuracy` (the estimate, its mean absolute error on
        worse copies of test images, that of the test images), `class_shares`, `errors` and `most` (foreign images,
        `image`: a small JPEG as a `data:` address).

    Raises:
        PredictError: the model can't be loaded, has no features or other test images; or fewer than two images.
        SourceError: the source is missing or not understood.
        TransientError: the source doesn't answer.
    """
    model = ExportedModel(model_folder, configured_key())
    reference = reference_of(model, model_folder, workspace, settings.train.class_weight == "balanced")
    scored = score(Wanted(model_folder, source, out / SCORES, keep_features=True), settings, workspace)
    new, most = read_scored(out / SCORES, scored["parts"])
    known = reference.sample
    shares = estimate_class_shares(new.probabilities, reference.prior)
    found = {
        "source": source,
        "images": scored["rows"] - sum(scored["errors"].values()),
        "errors": scored["errors"],
        **compare_samples(known, new, model.classes),
        "accuracy": {
            "estimate": estimate_accuracy(known.probabilities, reference.hits, new.probabilities),
            "error": reference.error,
            "reference": float(reference.hits.mean()),
        },
        "class_shares": {
            name: {**share, "training": prior}
            for name, share, prior in zip(model.classes, shares, reference.prior.tolist(), strict=True)
        },
    }
    images = _read_images([one["path"] for one in most], source, out, model, settings, workspace)
    found["most"] = [{**one, "image": images.get(one["path"])} for one in most]
    result: dict[str, Any] = rounded(found)
    write_bytes(out / PAGE, render_watch(result).encode())
    write_json(out / JSON, result)
    return result


def _read_images(
    paths: Sequence[str], source: str, out: Path, model: ExportedModel, settings: Settings, workspace: Workspace
) -> dict[str, str]:
    """Path -> the image, small; of those that can still be read."""
    listing = discover(source, replace(SourcePolicy.of(settings, workspace), labelled=False))
    wanted = [image for image in listing.images if image.path in paths]
    spool = Spool(out / ".spool")
    try:
        decoded = list(decode_source(wanted, settings.ingest.readers, model.policy, model.background_rgb, spool))
    finally:
        spool.close()
    return {one.path: small(one.content) for one in decoded if not isinstance(one.content, Refused)}


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tasks.watch", description="Tell whether new images have changed.")
    parser.add_argument("--model", type=Path, default=Path(EXPORT), help="exported model")
    parser.add_argument("--out", type=Path, default=Path(WATCH), help="folder for watch.html and the rest")
    parser.add_argument("source", help="a folder, archive, table, s3://..., tfds:name")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    given = _arguments(arguments)

    def body() -> None:
        workspace = Workspace.at(Path.cwd())
        found = watch(given.model, given.source, given.out, load_settings(workspace.folder), workspace)
        print(f"{describe(found)} {given.out / PAGE}")

    return run_program(body)


if __name__ == "__main__":
    raise SystemExit(main())
