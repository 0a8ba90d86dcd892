"""The stage `export`, end to end on a small workspace; a miniature of VGG16 where it proves the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from safetensors.numpy import save

from tasks import export, int8_formats
from tasks.errors import ExportError, IntegrityError
from tasks.files import read_json, sha256_hex, write_bytes, write_json
from tasks.images.decoding import decode
from tasks.images.manifest import read_examples
from tasks.images.shards import open_shards
from tasks.predict import predict_files
from tasks.settings import Settings
from tasks.vgg.engines import Engine, build_extractor
from tasks.vgg.exports.checks import choose
from tasks.vgg.exports.model_folder import check_model
from tasks.vgg.exports.parity import Difference, run_onnx
from tasks.vgg.foreign import Detector
from tasks.vgg.head import Dense, Head
from tasks.vgg.trained_model import save_trained
from tasks.vgg.weights import load_weights
from tasks.workspace import EVALUATION, EXPORT, PREPARED, SHARDS, TRAINED, Workspace
from tests.conftest import PROJECT, contents, save_image
from tests.tasks.export_workspace import CLASSES, make_ready, make_tiny, store_features, trained_on
from tests.tasks.steps import identities, run_afresh, twins
from tests.tasks.vgg.exports.test_model_folder import new_keys
from tests.tasks.vgg.small_weights import tiny_weights

FILES = {
    "MODEL_CARD.md",
    "digests.json",
    "export.json",
    "labels.txt",
    "model.onnx",
    "model.tflite",
    "parity.json",
    "saved_model/assets.extra/rootstock.json",
    "saved_model/saved_model.pb",
    "saved_model/variables/variables.data-00000-of-00001",
    "saved_model/variables/variables.index",
    "sbom.json",
}


@pytest.fixture
def ready(workspace: Path, source: Path, change: Callable[..., Settings]) -> Path:
    return make_ready(workspace, source, change)


@pytest.fixture
def tiny(ready: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_tiny(ready, monkeypatch)


@pytest.mark.slow
def test_export_of_a_backbone_that_was_trained_further_agrees_in_every_format(
    tiny: Path, change: Callable[..., Settings]
) -> None:
    """Tuned layers and flip averaging reach ONNX, LiteRT and the SavedModel; parity would refuse anything else."""
    tuned = {name: value[..., ::-1].copy() for name, value in tiny_weights().items() if name.startswith("block5")}
    held_out = [one.key for one in read_examples(tiny / PREPARED) if one.split == "test"]
    pixels = open_shards(tiny / SHARDS).read(held_out)
    extract = build_extractor(Engine("ncnn", "float32"), {**tiny_weights(), **tuned}, ("block5_pool",), len(pixels))
    seen, mirrored = (extract(side)[0] for side in (pixels, np.ascontiguousarray(pixels[:, :, ::-1])))
    head = undecided_on(seen)
    expected = (head.probabilities(seen) + head.probabilities(mirrored)) / 2
    assert np.abs(expected - head.probabilities(seen)).max() > 0.05
    trained = replace(trained_on(16), head=head, backbone=tuned, test_time_augmentation=True)
    save_trained(tiny / TRAINED / "feature_extraction", trained)
    evaluation = read_json(tiny / EVALUATION)
    evaluation["strategies"]["feature_extraction"]["backbone"] = {"trained_further": "block5"}
    write_json(tiny / EVALUATION, evaluation)
    formats = "export.formats=[saved_model, onnx, tflite, onnx_int8, tflite_int8]"
    assert export.run(change(formats, "export.max_int8_loss=1"), Workspace.at(tiny)).formats == 5
    table = read_json(tiny / EXPORT / "parity.json")["formats"]
    assert [row["format"] for row in table] == ["saved_model", "onnx", "tflite", "onnx_int8", "tflite_int8"]
    assert [row["images"] for row in table] == [7, 2, 2, len(held_out), len(held_out)]
    assert [row["largest_difference"] for row in table[:3]] == [0.0] * 3, "rounded: computers differ in the last digits"
    assert [row["bytes"] > 0 for row in table] == [True] * 5
    assert "accuracy" in table[4]
    check_model(tiny / EXPORT)
    [kept] = Workspace.at(tiny).kept_exports.iterdir()
    assert kept.name.startswith("template-"), "the outputs of a backbone that no other model has are not kept"
    answered = run_onnx((tiny / EXPORT / "model.onnx").read_bytes(), pixels.astype(np.float32))[0]
    np.testing.assert_allclose(answered, expected, atol=0.01)
    card = (tiny / EXPORT / "MODEL_CARD.md").read_text()
    assert "changed: it was trained further" in card
    assert "trained further: block5" in card


def test_int8_is_measured_on_held_out_images_and_left_out_if_it_loses_too_much(
    tiny: Path, change: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.Template, "fill", lambda *_: ())
    monkeypatch.setattr(export.FreshProcess, "compare", lambda *_: ([Difference("SavedModel", 8, 0.0, 0.0, 0)], 0))
    settings = change("export.formats=[saved_model, onnx, onnx_int8]", "export.max_int8_loss=1")
    assert export.run(settings, Workspace.at(tiny)).left_out == ()
    folder = tiny / EXPORT
    made = contents(folder)
    plain, quantized = (onnx.load(folder / name) for name in ("model.onnx", "model.int8.onnx"))
    assert quantized.metadata_props == plain.metadata_props
    assert {one.data_type for one in quantized.graph.initializer} >= {onnx.TensorProto.INT8}
    held_out = [one for one in read_examples(tiny / PREPARED) if one.split == "test"]
    row = read_json(folder / "parity.json")["formats"][2]
    assert (row["format"], row["images"], row["accuracy"]["n"]) == ("onnx_int8", len(held_out), len(held_out))
    assert row["bytes"] == len(made["model.int8.onnx"])
    assert "| ONNX in int8 |" in made["MODEL_CARD.md"].decode()
    export.run(settings, Workspace.at(tiny))
    assert contents(folder) == made

    def all_wrong(content: bytes, pixels: np.ndarray) -> tuple[np.ndarray, None]:
        labels = np.array([CLASSES.index(one.label) for one in choose(held_out, 1000)])
        return np.eye(2, dtype=np.float32)[1 - labels], None

    monkeypatch.setattr(int8_formats, "run_onnx", all_wrong)
    predict_right = [np.eye(2, dtype=np.float32)[[CLASSES.index(one.label)]] for one in choose(held_out, 1000)]
    monkeypatch.setattr(int8_formats, "predict_probabilities", lambda *_: iter(predict_right))
    summary = export.run(change("export.max_int8_loss=0.02"), Workspace.at(tiny))
    count = len(held_out)
    assert f"ONNX in int8 is left out: its accuracy on {count} held-out images is lower by 100.0%" in str(summary)
    assert "more than export.max_int8_loss=0.02" in str(summary)
    assert not (folder / "model.int8.onnx").exists()
    assert read_json(folder / "export.json")["formats"] == ["saved_model", "onnx"]
    row = read_json(folder / "parity.json")["formats"][2]
    assert row["changed_answers"] == count
    assert "left out" in row["left_out"]
    assert "| left out |" in (folder / "MODEL_CARD.md").read_text()


def undecided_on(features: np.ndarray) -> Head:
    """A head whose answers lie about 0.5 and change fast: images all look alike to random layers."""
    kernel = np.random.default_rng(0).normal(0, 20, (16, 2)).astype(np.float32)
    plain = Head("average_maximum", (Dense(kernel, np.zeros(2, np.float32), "softmax"),))
    probabilities = plain.probabilities(features).astype(np.float64).clip(1e-30)
    bias = -np.log(probabilities).mean(axis=0)
    return Head("average_maximum", (Dense(kernel, bias.astype(np.float32), "softmax"),))


@pytest.mark.slow
@pytest.mark.weights
def test_export_is_the_same_bytes_in_every_process_and_can_be_used(ready: Path, source: Path) -> None:
    store_features(ready, load_weights())
    one, two = twins(ready)
    tuned = {"block5_conv3/kernel": load_weights()["block5_conv3/kernel"] * np.float32(1.01)}
    save_trained(two / TRAINED / "feature_extraction", replace(trained_on(1024, seed=1), backbone=tuned))
    assert run_afresh((one, two), "tasks.export") == ["", ""], "the terminal shows only what matters"
    made = contents(one / EXPORT)
    assert set(made) == FILES
    assert {name for name, content in contents(two / EXPORT).items() if content != made[name]} == {
        "digests.json", "export.json", "model.onnx", "model.tflite", "saved_model/saved_model.pb",
        "saved_model/assets.extra/rootstock.json", "saved_model/variables/variables.data-00000-of-00001",
        "saved_model/variables/variables.index",
    }  # fmt: skip
    kept = identities(two, ".rootstock/exports/*/*")
    assert len(kept) == 5, "the outputs of a backbone that no other model has are not kept"
    save_trained(two / TRAINED / "feature_extraction", trained_on(1024))
    assert run_afresh((two,), "tasks.export") == [""]
    assert contents(two / EXPORT) == made, "the bytes don't depend on what an earlier export has kept"
    assert identities(two, ".rootstock/exports/template-*/*") == kept, "other numbers need nothing anew"

    about = json.loads(made["export.json"])
    assert about["classes"] == list(CLASSES) == made["labels.txt"].decode().split()
    assert "used without change" in made["MODEL_CARD.md"].decode()
    assert json.loads(made["digests.json"]) == {name: sha256_hex(made[name]) for name in FILES - {"digests.json"}}
    rows = list(predict_files(ready / EXPORT, [str(source)]))
    assert len(rows) == 24
    assert {row["label"] for row in rows} <= set(CLASSES)
    large = save_image(ready / "large.png", "ant", 0, side_px=33)
    [row] = predict_files(ready / EXPORT, [str(large)])
    assert row["error"].startswith("too_many_pixels: 33x33 pixels, more than 1024"), "as prepare.max_pixels says"
    assert b"more than 1024 pixels" in made["saved_model/saved_model.pb"]


def test_each_model_is_checked_while_the_next_one_is_built(
    tiny: Path, change: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def fill(_template: object, _head: Head, folder: Path) -> Iterator[Path]:
        for name in ("saved_model", "model.tflite"):
            yield folder / name
            assert begun[-1:] == [name]

    monkeypatch.setattr(export.Template, "fill", fill)
    monkeypatch.setattr(export, "add_description", lambda *_: None)
    monkeypatch.setattr(export.FreshProcess, "begin", lambda _fresh, model, _images: begun.append(model.name))
    monkeypatch.setattr(export.FreshProcess, "compare", lambda *_: ([Difference("SavedModel", 8, 0.0, 0.0, 0)], 0))
    export.run(change(), Workspace.at(tiny))
    assert begun == ["saved_model", "model.tflite"]


@pytest.mark.parametrize(("is_kept", "runtime"), [(False, "python"), (True, "library")])
def test_export_needs_pythons_loader_for_new_templates_only(
    tiny: Path, change: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, is_kept: bool, runtime: str
) -> None:
    def begin(wanted: str) -> None:
        raise ExportError(wanted)

    monkeypatch.setattr(export, "FreshProcess", begin)
    monkeypatch.setattr(export.Template, "is_kept", is_kept)
    monkeypatch.setattr(export.Template, "__enter__", lambda template: template)
    with pytest.raises(ExportError, match=runtime):
        export.run(change(), Workspace.at(tiny))


def test_export_copies_what_tells_foreign_images_and_predict_uses_it(
    tiny: Path, change: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ([Difference("SavedModel", 8, 0.0, 0.0, 0)], 0)
    monkeypatch.setattr(export.Template, "fill", lambda *_: ())
    monkeypatch.setattr(export.FreshProcess, "compare", lambda *_: answer)
    known = np.random.default_rng(0).uniform(size=(5, 16)).astype(np.float16)
    content = save({"known": known})
    write_bytes(Workspace.at(tiny).foreign, content)
    found = {"score": "nearest_neighbours", "threshold": 0.25, "sha256": sha256_hex(content)}
    found["called_foreign"] = {"value": 0.05}
    write_json(tiny / EVALUATION, {**read_json(tiny / EVALUATION), "foreign": found})
    private, public = new_keys(tiny / "keys", SECP256R1())
    monkeypatch.setenv("ROOTSTOCK_SIGNING_KEY", str(private))
    export.run(change(), Workspace.at(tiny))
    check_model(tiny / EXPORT, public)
    about = read_json(tiny / EXPORT / "export.json")
    assert about["foreign"] == {"score": "nearest_neighbours", "threshold": 0.25, "sha256": sha256_hex(content)}
    held_out = next(one for one in read_examples(tiny / PREPARED) if one.split == "test")
    image = save_image(tiny / "some.png", held_out.label, 3)
    [row] = predict_files(tiny / EXPORT, [image])
    session = onnxruntime.InferenceSession(tiny / EXPORT / "model.onnx")
    inside = json.loads(session.get_modelmeta().custom_metadata_map["rootstock"])
    assert {**inside, "formats": about["formats"]} == about
    trained = tiny / TRAINED / "feature_extraction/model.json"
    assert inside["made_from"]["trained_sha256"] == sha256_hex(trained.read_bytes())
    pixels = decode(image.read_bytes())[0][np.newaxis].astype(np.float32)
    expected = Detector("nearest_neighbours", {"known": known}, 0.25).score(
        session.run(["features"], {"pixels": pixels})[0]
    )
    assert row["foreign_score"] == pytest.approx(expected[0], abs=1e-5)
    assert row["foreign"] == (expected[0] > 0.25)
    write_bytes(Workspace.at(tiny).foreign, content + b" ")
    with pytest.raises(IntegrityError, match=r"foreign\.safetensors is not the file that was evaluated"):
        export.run(change(), Workspace.at(tiny))


def test_bill_of_materials_is_that_of_the_locked_packages() -> None:
    """`make lock` writes both; the bill says nothing of when and where it was written."""
    bill = (PROJECT / "tasks/sbom.json").read_text(encoding="utf-8")
    found = {f"{one['name']}=={one['version']}" for one in json.loads(bill)["components"]}
    locked = re.findall(r"^[^ #]+==[^ ;]+", (PROJECT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(locked) > 100
    assert found == set(locked)
    assert not re.search("serialNumber|timestamp|pypi.org|/work/|file:", bill)
