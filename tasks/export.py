"""Stage `export`: the champion in, a model that can be served out.

Reads `reports/evaluation.json` (which model is the champion), `models/trained/<champion>/`, `data/prepared/` and
`data/raw/` (held-out images for the check), and `data/features/block5_pool/` (what was evaluated). Writes
`models/export/`: `saved_model/` (encoded images in), `model.onnx` and `model.tflite` (pixels in), `labels.txt`,
`MODEL_CARD.md` and `export.json` (a description of the model, and the SHA-256 of every file).

Always: each format, and the evaluation, predicts the same as the trained model on real held-out images (the SavedModel
is checked in a fresh process). Otherwise the stage fails and the previous export stays. The same input writes the same
bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import IntegrityError
from tasks.files import atomic_folder, file_sha256, read_json, sweep_temporaries, write_bytes, write_json
from tasks.images import decoding
from tasks.images.manifest import Example, read_examples
from tasks.program import run_stage
from tasks.reports.model_card import render_model_card
from tasks.settings import Settings
from tasks.vgg.exports.onnx_graph import build_onnx
from tasks.vgg.exports.parity import Checks, FreshProcess, check_images, choose, compare, run_onnx
from tasks.vgg.inference import predict_probabilities
from tasks.vgg.quiet_tensorflow import load_tensorflow
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
    wanted = settings.export
    with FreshProcess() as fresh:  # loads TensorFlow meanwhile
        weights = trained.weights(load_weights())
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
        )
        _check_evaluation(trained, workspace, choose(examples, wanted.parity_images), checks)
        folder = workspace.export
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep_temporaries(folder.parent)
        with atomic_folder(folder) as new:
            differences, refused = _write_models(new, trained, weights, settings, checks, fresh)
            _write_texts(new, trained, evaluation, settings)
    return Summary(trained.strategy, len(wanted.formats), len(checks.names), refused, float(f"{max(differences):.2g}"))


def _check_evaluation(trained: Trained, workspace: Workspace, chosen: Sequence[Example], checks: Checks) -> None:
    """Compare what `evaluate` predicts for the held-out images, which come first in the checks."""
    keys = [example.key for example in chosen]
    batches = predict_probabilities(trained.head, trained.backbone, trained.test_time_augmentation, workspace, keys)
    compare("The evaluation", np.concatenate(list(batches)), checks, range(len(keys)), _NOT_THIS_MODEL)


def _write_models(
    folder: Path, trained: Trained, weights: Weights, settings: Settings, checks: Checks, fresh: FreshProcess
) -> tuple[list[float], int]:
    """Write and check every format. Returns the largest difference of each, and how many images SavedModel refused."""
    content = build_onnx(trained.head, trained.classes, weights, trained.test_time_augmentation)
    write_bytes(folder / "model.onnx", content)
    differences = [compare("ONNX", run_onnx(content, checks.pixels), checks)]

    load_tensorflow()  # takes ten seconds, so after all the steps that can fail without it
    from tasks.vgg.exports import serving

    served = serving.build_served(
        trained.head,
        trained.classes,
        weights,
        settings.prepare.background_rgb,
        settings.prepare.max_pixels,
        trained.test_time_augmentation,
    )
    serving.save_served(served, folder / "saved_model")
    fresh.ask(folder / "saved_model", checks)
    if "tflite" in settings.export.formats:
        content = serving.convert_litert(served)
        write_bytes(folder / "model.tflite", content)
        differences.append(compare("LiteRT", serving.run_litert(content, checks.pixels), checks))
    difference, refused = fresh.compare(checks)
    return [*differences, difference], refused


def _write_texts(folder: Path, trained: Trained, evaluation: dict[str, Any], settings: Settings) -> None:
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
            "probability_tolerance": settings.export.probability_tolerance,
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
