"""Stage `export`: the champion in, a model that can be served out.

Reads `reports/evaluation.json` (which model is the champion), `models/trained/<champion>/`, `data/prepared/` and
`data/raw/` (held-out images for the check), `data/features/block5_pool/` (what was evaluated) and
`reports/foreign.safetensors`. Writes `models/export/`: `saved_model/` (encoded images in), `model.onnx` and
`model.tflite` (pixels in), `foreign.safetensors` (what tells images of none of the classes, if that can be told),
`labels.txt`, `MODEL_CARD.md` and `export.json` (a description of the model, and the SHA-256 of every file).

Always: each format, and the evaluation, predicts the same as the trained model on real held-out images (the SavedModel
and LiteRT in a fresh process). Otherwise the stage fails and the previous export stays. The same input writes the same
bytes. Only child processes load TensorFlow: one that builds models that no earlier export has kept, one that checks
them. If nothing but the head is new, the latter needs only TensorFlow's C library, which loads faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import ExportError, IntegrityError
from tasks.files import atomic_folder, file_sha256, read_json, sha256_hex, sweep_temporaries, write_bytes, write_json
from tasks.images import decoding
from tasks.images.manifest import Example, read_examples
from tasks.program import run_stage
from tasks.reports.model_card import render_model_card
from tasks.settings import Settings
from tasks.vgg.exports.kept import Kept
from tasks.vgg.exports.onnx_graph import build_onnx
from tasks.vgg.exports.parity import Checks, FreshProcess, check_images, choose, compare, compare_features, run_onnx
from tasks.vgg.exports.template import Outline, Template
from tasks.vgg.head import Floats
from tasks.vgg.inference import predict_probabilities
from tasks.vgg.trained_model import Trained, load_trained
from tasks.vgg.weights import SHA256, Weights, load_weights
from tasks.workspace import EXPORT, Workspace

_VERSION = 1
_NOT_THIS_MODEL = (
    "Nothing was exported, because the reported metrics are not those of this model. "
    "Compute the features and all that follows again: rm -r data/features && dvc repro"
)


@dataclass(frozen=True)
class Summary:
    champion: str
    formats: int
    images: int
    refused: int
    largest_difference: float

    def __str__(self) -> str:
        refused = f", {self.refused} refused by the SavedModel's decoder" if self.refused else ""
        return (
            f"{self.champion} in {self.formats} formats; their probabilities differ from the trained model's by "
            f"at most {self.largest_difference:.1g} on {self.images} images{refused}; see {EXPORT}/MODEL_CARD.md"
        )


def run(settings: Settings, workspace: Workspace) -> Summary:
    """Write and check `models/export`.

    Raises:
        ExportError: a format, or the evaluation, predicts differently from the trained model; or it can't be loaded.
        IntegrityError: the evaluation or the trained model is missing or damaged.
    """
    evaluation = _evaluation(workspace.evaluation)
    trained = load_trained(workspace.trained / evaluation["champion"])
    kept = Kept(workspace.kept_exports)
    try:
        summary = _export(trained, evaluation, settings, workspace, kept)
    except ExportError:
        kept.clear()
        raise
    kept.write()
    return summary


def _export(
    trained: Trained, evaluation: dict[str, Any], settings: Settings, workspace: Workspace, kept: Kept
) -> Summary:
    wanted = settings.export
    weights = trained.weights(load_weights())
    with (
        Template(_outline(trained, settings), weights, None if trained.backbone else kept) as template,
        # what only Python's package reads doesn't depend on the head; it was checked when the template was new
        FreshProcess("library" if template.is_kept else "python") as fresh,
    ):
        examples = [example for example in read_examples(workspace.prepared) if example.split == "test"]
        checks = check_images(
            examples,
            workspace.raw,
            trained,
            weights,
            wanted.parity_images,
            settings.prepare.background_rgb,
            settings.prepare.max_pixels,
            wanted.probability_tolerance,
            kept,
        )
        _check_evaluation(trained, workspace, choose(examples, wanted.parity_images), checks)
        workspace.export.parent.mkdir(parents=True, exist_ok=True)
        sweep_temporaries(workspace.export.parent)
        with atomic_folder(workspace.export) as new:
            differences, refused = _write_models(new, trained, weights, checks, template, fresh)
            foreign = _copy_detector(new, evaluation.get("foreign"), workspace)
            _write_texts(new, trained, evaluation, settings, foreign)
    largest = float(f"{max(differences):.2g}")
    return Summary(trained.strategy, len(wanted.formats), len(checks.names), refused, largest)


def _outline(trained: Trained, settings: Settings) -> Outline:
    return Outline(
        trained.head,
        trained.classes,
        settings.prepare.background_rgb,
        settings.prepare.max_pixels,
        trained.test_time_augmentation,
        "tflite" in settings.export.formats,
    )


def _check_evaluation(trained: Trained, workspace: Workspace, chosen: Sequence[Example], checks: Checks) -> None:
    """Compare what `evaluate` predicts for the held-out images, which come first in the checks."""
    keys = [example.key for example in chosen]
    batches = predict_probabilities(trained.head, trained.backbone, trained.test_time_augmentation, workspace, keys)
    compare("The evaluation", np.concatenate(list(batches)), checks, range(len(keys)), _NOT_THIS_MODEL)


def _write_models(
    folder: Path, trained: Trained, weights: Weights, checks: Checks, template: Template, fresh: FreshProcess
) -> tuple[list[float], int]:
    """Write and check every format. Returns the largest difference of each, and how many images SavedModel refused."""

    def write_and_run_onnx() -> tuple[Floats, Floats]:
        content = build_onnx(trained.head, trained.classes, weights, trained.test_time_augmentation)
        (folder / "model.onnx").write_bytes(content)
        return run_onnx(content, checks.pixels[: checks.real])

    with ThreadPoolExecutor(1) as pool:  # works while the template is built and the other models are loaded
        answers = pool.submit(write_and_run_onnx)
        template.fill(trained.head, folder)
        fresh.begin(folder, checks)
        probabilities, features = answers.result()
        difference = compare("ONNX", probabilities, checks, range(checks.real))
        compare_features(features, checks)
    differences, refused = fresh.compare(checks)
    return [difference, *differences], refused


def _copy_detector(folder: Path, found: dict[str, Any] | None, workspace: Workspace) -> dict[str, Any] | None:
    """Copy what tells foreign images beside the model; returns its description for `export.json`.

    Raises:
        IntegrityError: the file is not the one that was evaluated.
    """
    if found is None:
        return None
    try:
        content = workspace.foreign.read_bytes()
        if sha256_hex(content) != found["sha256"]:
            raise ValueError("its SHA-256 differs")
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"{workspace.foreign} is not the file that was evaluated ({error}). "
            "Run: dvc repro --force --single-item evaluate"
        ) from None
    write_bytes(folder / workspace.foreign.name, content)
    return {"score": found["score"], "threshold": found["threshold"]}


def _write_texts(
    folder: Path,
    trained: Trained,
    evaluation: dict[str, Any],
    settings: Settings,
    foreign: dict[str, Any] | None,
) -> None:
    formats = [name for name in ("saved_model", "onnx", "tflite") if name in settings.export.formats]
    write_bytes(folder / "labels.txt", "".join(f"{name}\n" for name in trained.classes).encode())
    card = render_model_card(evaluation, formats)
    write_bytes(folder / "MODEL_CARD.md", card.encode())
    write_json(
        folder / "export.json",
        {
            "version": _VERSION,
            "classes": list(trained.classes),
            "strategy": trained.strategy,
            "recipe": trained.recipe,
            "formats": formats,
            "backbone": {"weights_sha256": SHA256, **evaluation["strategies"][trained.strategy]["backbone"]},
            "test_time_augmentation": trained.test_time_augmentation,
            "decoder": {
                **decoding.recipe(settings.prepare.background_rgb),
                "max_pixels": settings.prepare.max_pixels,
            },
            "answers": {name: evaluation["answers"][name] for name in ("wanted_precision", "thresholds")},
            "probability_tolerance": settings.export.probability_tolerance,
            "foreign": foreign,
            "sha256": dict(_checksums(folder)),
        },
    )


def _checksums(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), file_sha256(path)


def _evaluation(path: Path) -> dict[str, Any]:
    try:
        evaluation: dict[str, Any] = read_json(path)
        if evaluation["champion"] not in evaluation["strategies"]:
            raise ValueError(f"the champion {evaluation['champion']!r} is not among the strategies")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{path} names no champion ({type(error).__name__}: {error}). Run: dvc repro --single-item evaluate"
        ) from None
    return evaluation


def main() -> int:
    return run_stage("export", run)


if __name__ == "__main__":
    raise SystemExit(main())
