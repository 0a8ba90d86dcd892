"""Stage `export`: the champion in, a model that can be served out.

Reads `reports/evaluation.json` (which model is the champion), `models/trained/<champion>/`, `data/prepared/` and
`data/raw/` (held-out images for the check), `data/features/block5_pool/` (what was evaluated) and
`reports/foreign.safetensors`. Writes `models/export/`: `saved_model/` (encoded images in), `model.onnx` and
`model.tflite` (pixels in), `foreign.safetensors` (what tells images of none of the classes, if that can be told),
`labels.txt`, `MODEL_CARD.md`, `export.json` (a description of the model, which each format also has inside),
`sbom.json` (the packages of the environment), `digests.json` (the SHA-256 of every file) and, if the environment
variable ROOTSTOCK_SIGNING_KEY names a private key, `model.sig`.

Always: each format, and the evaluation, predicts the same as the trained model on real held-out images (the SavedModel
and LiteRT in a fresh process). Otherwise the stage fails and the previous export stays. The same input writes the same
bytes. Only child processes load TensorFlow: one that builds models that no earlier export has kept, one that checks
them. If nothing but the numbers is new, the latter needs only TensorFlow's C library, which loads faster.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import ExportError, IntegrityError
from tasks.files import atomic_folder, json_bytes, read_json, sha256_hex, sweep_temporaries, write_bytes, write_json
from tasks.images.manifest import Example, read_examples
from tasks.int8_formats import add_int8
from tasks.parity_table import PARITY, format_table
from tasks.program import run_stage
from tasks.reports.model_card import render_model_card
from tasks.settings import Settings
from tasks.vgg.exports.checks import Checks, choose, predict_images, read_images
from tasks.vgg.exports.description import KEY, LABELS, add_description, describe
from tasks.vgg.exports.kept import Kept
from tasks.vgg.exports.model_folder import ABOUT, MODEL, write_digests
from tasks.vgg.exports.onnx_graph import build_onnx
from tasks.vgg.exports.parity import Difference, FreshProcess, compare, compare_features, run_onnx
from tasks.vgg.exports.signature import SIGNING_KEY, sign_model
from tasks.vgg.exports.template import Outline, Template
from tasks.vgg.head import Floats
from tasks.vgg.inference import predict_probabilities
from tasks.vgg.trained_model import Trained, load_trained
from tasks.vgg.weights import Weights, load_weights
from tasks.workspace import EXPORT, Workspace

_SBOM = Path(__file__).with_name("sbom.json")
"""Software bill of materials; `make lock` writes it."""
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
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        refused = f", {self.refused} refused by the SavedModel's decoder" if self.refused else ""
        return (
            f"{self.champion} in {self.formats} formats; their probabilities differ from the trained model's by "
            f"at most {self.largest_difference:.1g} on {self.images} images{refused}; "
            f"{''.join(f'{one}; ' for one in self.left_out)}see {EXPORT}/MODEL_CARD.md"
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
    background, most = settings.prepare.background_rgb, settings.prepare.max_pixels
    weights = trained.weights(load_weights())
    outline = _outline(trained, weights, settings)
    description = describe(trained, evaluation, settings, workspace)
    workspace.export.parent.mkdir(parents=True, exist_ok=True)
    sweep_temporaries(workspace.export.parent)
    with (
        atomic_folder(workspace.export) as new,
        Template(outline, kept) as template,
        # what only Python's package reads doesn't depend on the numbers; it was checked when the template was new
        FreshProcess("library" if template.is_kept else "python") as fresh,
        ThreadPoolExecutor() as pool,
    ):
        onnx = pool.submit(_write_onnx, new / MODEL, trained, weights, description)
        chosen = choose([one for one in read_examples(workspace.prepared) if one.split == "test"], wanted.parity_images)
        images = read_images(chosen, workspace.raw, background, most)
        answers = pool.submit(lambda: run_onnx(onnx.result(), images.pixels[: images.real]))
        checks = predict_images(images, trained, weights, wanted.probability_tolerance, kept)
        _check_evaluation(trained, workspace, chosen, checks)
        for model in template.fill({**weights, **trained.head.tensors()}, new):
            add_description(model, description)
            fresh.begin(model, images)
        differences, refused = _check_models(checks, answers.result(), fresh)
        prices = add_int8(new, trained, weights, outline, description, settings, workspace)
        _copy_detector(new, evaluation.get("foreign"), workspace)
        _write_texts(new, evaluation, description, format_table(new, differences, prices))
    largest = float(f"{max(one.largest for one in differences):.2g}")
    left_out = tuple(one.left_out for one in prices if one.left_out)
    formats = len(wanted.formats) - len(left_out)
    return Summary(trained.strategy, formats, len(checks.names), refused, largest, left_out)


def _outline(trained: Trained, weights: Weights, settings: Settings) -> Outline:
    return Outline(
        trained.head,
        weights,
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


def _write_onnx(path: Path, trained: Trained, weights: Weights, description: dict[str, Any]) -> bytes:
    metadata = {KEY: json_bytes(description).decode()}
    content = build_onnx(trained.head, trained.classes, weights, trained.test_time_augmentation, metadata)
    path.write_bytes(content)
    return content


def _check_models(checks: Checks, by_onnx: tuple[Floats, Floats], fresh: FreshProcess) -> tuple[list[Difference], int]:
    """Check every format. Returns the difference of each, and how many images SavedModel refused."""
    probabilities, features = by_onnx
    difference = compare("ONNX", probabilities, checks, range(checks.real))
    compare_features(features, checks)
    differences, refused = fresh.compare(checks)
    return [difference, *differences], refused


def _copy_detector(folder: Path, found: dict[str, Any] | None, workspace: Workspace) -> None:
    """Copy what tells foreign images beside the model.

    Raises:
        IntegrityError: the file is not the one that was evaluated.
    """
    if found is None:
        return
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


def _write_texts(
    folder: Path, evaluation: dict[str, Any], description: dict[str, Any], table: list[dict[str, Any]]
) -> None:
    formats = [row["format"] for row in table if "left_out" not in row]
    write_bytes(folder / LABELS, "".join(f"{name}\n" for name in description["classes"]).encode())
    card = render_model_card(evaluation, formats, table)
    write_json(folder / PARITY, {"formats": table})
    write_bytes(folder / "MODEL_CARD.md", card.encode())
    write_bytes(folder / _SBOM.name, _SBOM.read_bytes())
    write_json(folder / ABOUT, {**description, "formats": formats})
    write_digests(folder)
    if key := os.environ.get(SIGNING_KEY):
        sign_model(folder, Path(key))


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
