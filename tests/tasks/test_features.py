"""Features: computed once for each image and recipe, never lost, and deleted together with their image."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tasks import features
from tasks.errors import IntegrityError, SettingsError, WeightsError
from tasks.files import read_json
from tasks.images.manifest import Example, read_examples
from tasks.images.shards import open_shards, read_header
from tasks.vgg import backbone, calibration, engine_choice, engines, quantized
from tasks.vgg.boundaries import BOTTLENECK, RECIPE
from tasks.vgg.engines import Engine
from tasks.vgg.weights import SHA256, VARIABLE, load_weights
from tasks.workspace import FEATURES, PREPARED, SHARDS, Workspace
from tests.conftest import contents, save_image
from tests.tasks.steps import (
    Change,
    identities,
    kill_program,
    run_afresh,
    run_prepare,
    settings_for,
    twins,
    use_tiny_extractor,
)

FOLDER = f"{FEATURES}/{BOTTLENECK}"


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that the tiny extractor was asked for."""
    return use_tiny_extractor(monkeypatch)


def keys_of(workspace: Path) -> set[str]:
    return {example.key for example in read_examples(workspace / PREPARED)}


def stored(workspace: Path) -> set[str]:
    return {row["key"] for header in open_shards(workspace / FOLDER).headers for row in header.rows}


def test_features_are_those_of_the_image_under_the_same_key(
    workspace: Path, source: Path, change: Change, batches: list[int]
) -> None:
    wanted = settings_for(change, source, "features.batch_size=5")
    run_prepare(wanted, workspace)
    summary = features.run(wanted, Workspace.at(workspace))
    assert (summary.extracted, summary.reused) == (24, 0)
    assert sum(batches) == 24
    assert max(batches) == 5
    images, found = open_shards(workspace / SHARDS), open_shards(workspace / FOLDER)
    assert stored(workspace) == keys_of(workspace)
    for key in keys_of(workspace):
        expected = images.read([key]).reshape(1, 2, 112, 2, 112, 3).mean(axis=(2, 4)).astype(np.float16)
        assert np.array_equal(found.read([key]), expected)


def test_unchanged_images_are_not_extracted_again(
    workspace: Path, source: Path, change: Change, batches: list[int]
) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    features.run(wanted, Workspace.at(workspace))
    before, files = contents(workspace / FEATURES), identities(workspace / FOLDER, "*.safetensors")
    batches.clear()
    summary = features.run(wanted, Workspace.at(workspace))
    assert (summary.extracted, summary.reused, batches) == (0, 24, [])
    assert contents(workspace / FEATURES) == before
    assert identities(workspace / FOLDER, "*.safetensors") == files


def test_new_images_alone_are_extracted(workspace: Path, source: Path, change: Change, batches: list[int]) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    features.run(wanted, Workspace.at(workspace))
    files = identities(workspace / FOLDER, "*.safetensors")
    save_image(source / "ant" / "new.png", "ant", 99)
    run_prepare(wanted, workspace)
    summary = features.run(wanted, Workspace.at(workspace))
    assert (summary.extracted, summary.reused) == (1, 24)
    assert files.items() <= identities(workspace / FOLDER, "*.safetensors").items()


def test_relabelling_extracts_nothing(workspace: Path, source: Path, change: Change, batches: list[int]) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    features.run(wanted, Workspace.at(workspace))
    (source / "ant" / "000.jpg").rename(source / "bee" / "x.jpg")
    run_prepare(wanted, workspace)
    assert features.run(wanted, Workspace.at(workspace)).extracted == 0


def test_features_of_removed_images_are_gone(workspace: Path, source: Path, change: Change, batches: list[int]) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    features.run(wanted, Workspace.at(workspace))
    before = keys_of(workspace)
    (source / "bee" / "003.png").unlink()
    run_prepare(wanted, workspace)
    [removed] = before - keys_of(workspace)
    lost = open_shards(workspace / FOLDER).read([removed]).tobytes()
    assert features.run(wanted, Workspace.at(workspace)).extracted == 0
    assert stored(workspace) == keys_of(workspace)
    everything = contents(workspace / FEATURES).values()
    assert not any(removed.encode() in content or lost in content for content in everything)


@pytest.mark.parametrize("harm", ["flip", "cut", "lose"])
def test_damaged_shard_is_extracted_again_and_no_other(
    workspace: Path, source: Path, change: Change, batches: list[int], harm: str
) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    features.run(wanted, Workspace.at(workspace))
    before = contents(workspace / FEATURES)
    victim = min((workspace / FOLDER).glob("*.safetensors"))
    rows, content = len(read_header(victim).rows), victim.read_bytes()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if harm == "flip" else content[:99])
    if harm == "lose":
        victim.unlink()
    assert features.run(wanted, Workspace.at(workspace)).extracted == rows
    assert contents(workspace / FEATURES) == before


def test_another_engine_or_decoder_computes_everything_anew(
    workspace: Path, source: Path, change: Change, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    features.run(wanted, Workspace.at(workspace))
    monkeypatch.setattr(engine_choice, "choose_engine", lambda *_: Engine("tensorflow", "bfloat16"))
    train = sum(one.split == "train" for one in read_examples(workspace / PREPARED))
    assert features.run(wanted, Workspace.at(workspace)).extracted == train
    recipe = read_json(workspace / FOLDER / RECIPE)
    assert (recipe["precision"], recipe["training_precision"]) == ("float32", "bfloat16")
    assert computed_otherwise(workspace) == {"train"}
    other = settings_for(change, source, "prepare.background_rgb=[0, 0, 0]")
    run_prepare(other, workspace)
    summary = features.run(other, Workspace.at(workspace))
    assert (summary.extracted, summary.reused) == (24, 0)
    assert len({header.fingerprint for header in open_shards(workspace / FOLDER).headers}) == 2


def test_recipe_says_what_features_were_made_of(
    workspace: Path, source: Path, change: Change, batches: list[int]
) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    features.run(wanted, Workspace.at(workspace))
    recipe = read_json(workspace / FOLDER / RECIPE)
    assert (recipe["weights_sha256"], recipe["engine"], recipe["precision"]) == (SHA256, "ncnn", "float32")


@pytest.fixture
def calibrations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the images that calibrations looked at."""
    looked: list[int] = []

    def measure(_: object, images: np.ndarray) -> tuple[float, ...]:
        looked.append(len(images))
        return (float(images.mean()),)

    monkeypatch.setattr(quantized, "measure_ranges", measure)
    return looked


def computed_otherwise(workspace: Path) -> set[str]:
    """Splits of the images whose features the tiny extractor has made in another precision than float32."""
    images, found = open_shards(workspace / SHARDS), open_shards(workspace / FOLDER)
    splits: dict[bool, set[str]] = {True: set(), False: set()}
    for example in read_examples(workspace / PREPARED):
        means = images.read([example.key]).reshape(1, 2, 112, 2, 112, 3).mean(axis=(2, 4)).astype(np.float16)
        splits[not np.array_equal(found.read([example.key]), means)].add(example.split)
    assert not splits[True] & splits[False]
    return splits[True]


def test_int8_is_for_training_images_only_and_keeps_its_calibration(
    workspace: Path, source: Path, change: Change, batches: list[int], calibrations: list[int]
) -> None:
    wanted = settings_for(change, source, "features.precision=int8")
    run_prepare(wanted, workspace)
    assert str(features.run(wanted, Workspace.at(workspace))).count("training images by onnxruntime in int8") == 1
    assert computed_otherwise(workspace) == {"train"}
    recipe = read_json(workspace / FOLDER / RECIPE)
    assert (recipe["precision"], recipe["training_precision"]) == ("float32", "int8")
    kept = read_json(workspace / FOLDER / calibration.FILE)
    train = {one.key for one in read_examples(workspace / PREPARED) if one.split == "train"}
    assert set(kept["images"]) <= train
    assert calibrations == [len(kept["images"])]
    for number in range(99, 105):
        save_image(source / "ant" / f"{number}.png", "ant", number)
    run_prepare(wanted, workspace)
    assert features.run(wanted, Workspace.at(workspace)).extracted == 6
    assert computed_otherwise(workspace) == {"train"}
    assert len(calibrations) == 1
    assert read_json(workspace / FOLDER / calibration.FILE) == kept


def test_tensorflow_is_imported_while_another_engine_computes_and_only_if_it_has_work(
    workspace: Path, source: Path, change: Change, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    imported, compute = threading.Event(), engines.build_extractor

    def build(engine: Engine, *arguments: Any) -> engines.Extract:
        def extract(batch: np.ndarray) -> tuple[np.ndarray, ...]:
            assert imported.wait(timeout=30)
            return compute(engine, *arguments)(batch)

        return extract

    monkeypatch.setattr(engines, "build_extractor", build)
    monkeypatch.setattr(engines, "load_tensorflow", lambda keras: imported.set())
    monkeypatch.setattr(engine_choice, "choose_engine", lambda *_: Engine("tensorflow", "bfloat16"))
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    assert features.run(wanted, Workspace.at(workspace)).extracted == 24
    recipe = read_json(workspace / FOLDER / RECIPE)
    assert (recipe["engine"], recipe["training_engine"]) == ("ncnn", "tensorflow")
    imported.clear()
    assert features.run(wanted, Workspace.at(workspace)).extracted == 0
    assert not imported.is_set()


def test_int8_switched_off_computes_training_images_anew_and_nothing_else(
    workspace: Path, source: Path, change: Change, batches: list[int], calibrations: list[int]
) -> None:
    run_prepare(settings_for(change, source), workspace)
    features.run(change("features.precision=float32"), Workspace.at(workspace))
    before = contents(workspace / FEATURES)
    train = sum(one.split == "train" for one in read_examples(workspace / PREPARED))
    assert features.run(change("features.precision=int8"), Workspace.at(workspace)).extracted == train
    assert features.run(change("features.precision=float32"), Workspace.at(workspace)).extracted == train
    assert computed_otherwise(workspace) == set()
    assert not (workspace / FOLDER / calibration.FILE).exists()
    assert contents(workspace / FEATURES).keys() >= {f"block5_pool/{RECIPE}"}
    assert {name: value for name, value in before.items() if name.endswith(".json")} == {
        name: value for name, value in contents(workspace / FEATURES).items() if name.endswith(".json")
    }


@pytest.mark.parametrize(("passed", "splits"), [(True, {"train"}), (False, set())])
def test_auto_takes_int8_only_where_a_check_finds_no_loss_and_stays_with_it(
    workspace: Path, source: Path, change: Change, batches: list[int], calibrations: list[int],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], passed: bool, splits: set[str],
) -> None:  # fmt: skip
    checked: list[int] = []

    def check(
        plain: np.ndarray, quantized: np.ndarray, examples: list[Example], _: object, poolings: tuple[str, ...]
    ) -> calibration.Verdict:
        checked.append(len(examples))
        assert poolings == ("average_maximum", "bilinear")
        assert not np.array_equal(plain, quantized)
        return calibration.Verdict(passed, "because")

    monkeypatch.setattr(engine_choice, "has_fast_int8", lambda: True)
    monkeypatch.setattr(engine_choice, "check", check)
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    features.run(wanted, Workspace.at(workspace))
    assert checked == []  # too little to compute
    shutil.rmtree(workspace / FEATURES)
    monkeypatch.setattr(engine_choice, "_WORTH_CHECKING", 5)
    monkeypatch.setattr(engine_choice, "_ROWS_A_CHECKED_IMAGE", 1)
    features.run(wanted, Workspace.at(workspace))
    validation = sum(one.split == "validation" for one in read_examples(workspace / PREPARED))
    assert checked == [validation]
    assert f"int8 for training images: {'yes' if passed else 'no'}, because" in capsys.readouterr().out
    assert computed_otherwise(workspace) == splits
    save_image(source / "ant" / "new.png", "ant", 99)
    run_prepare(wanted, workspace)
    assert features.run(wanted, Workspace.at(workspace)).extracted == 1
    assert computed_otherwise(workspace) == splits
    assert len(checked) == 1


@pytest.mark.parametrize("precision", ["int8", "auto"])
def test_int8_that_a_machine_computes_wrongly_is_not_used(
    workspace: Path, source: Path, change: Change, batches: list[int], calibrations: list[int],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], precision: str,
) -> None:  # fmt: skip
    """Without VNNI, products of 8-bit kernels overflowed in 16 bits; here int8 features are zeros but for one place."""
    build = engines.build_extractor

    def wrong(engine: Engine, *rest: Any) -> Any:
        extract = build(engine, *rest)
        first = np.eye(1, 12).reshape(2, 2, 3).astype(np.float16)
        return extract if engine.precision != "int8" else lambda batch: tuple(one * first for one in extract(batch))

    monkeypatch.setattr(engines, "build_extractor", wrong)
    monkeypatch.setattr(engine_choice, "has_fast_int8", lambda: True)
    monkeypatch.setattr(engine_choice, "_WORTH_CHECKING", 5)
    monkeypatch.setattr(engine_choice, "_ROWS_A_CHECKED_IMAGE", 1)
    monkeypatch.setattr(engine_choice, "check", lambda *_: calibration.Verdict(True, "because"))
    wanted = settings_for(change, source, f"features.precision={precision}")
    run_prepare(wanted, workspace)
    if precision == "int8":
        with pytest.raises(
            SettingsError, match=r"features.precision=int8 can't be used: .*mean cosine 0\.\d+, at least 0.99"
        ):
            features.run(wanted, Workspace.at(workspace))
        return
    features.run(wanted, Workspace.at(workspace))
    assert computed_otherwise(workspace) == set()
    assert "int8 for training images: no, on this machine int8 features differ" in capsys.readouterr().out


def test_damaged_images_are_refused(workspace: Path, source: Path, change: Change, batches: list[int]) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    victim = min((workspace / SHARDS).iterdir())
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=f"rm {victim}"):
        features.run(wanted, Workspace.at(workspace))


def test_missing_images_say_what_to_run(workspace: Path, source: Path, change: Change, batches: list[int]) -> None:
    wanted = settings_for(change, source)
    with pytest.raises(IntegrityError, match="dvc repro"):
        features.run(wanted, Workspace.at(workspace))
    run_prepare(wanted, workspace)
    min((workspace / SHARDS).iterdir()).unlink()
    with pytest.raises(IntegrityError, match=r"examples are in no shard.*dvc repro"):
        features.run(wanted, Workspace.at(workspace))
    assert not (workspace / FEATURES).exists()


def test_wrong_preprocessing_stops_before_anything_is_computed(
    workspace: Path, source: Path, change: Change, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    monkeypatch.setattr(backbone, "preprocess", lambda rgb: rgb / 255)
    with pytest.raises(WeightsError, match="preprocessing"):
        features.run(wanted, Workspace.at(workspace))
    assert batches == []
    assert not (workspace / FEATURES).exists()


@pytest.mark.weights
def test_tampered_weights_are_refused_before_anything_is_computed(
    workspace: Path, source: Path, change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    weights = dict(load_weights())
    weights["block3_conv2/bias"] = weights["block3_conv2/bias"] * np.float32(1.0000002)
    save_file(weights, tmp_path / "weights.safetensors")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "weights.safetensors"))
    with pytest.raises(WeightsError, match="tampered"):
        features.run(wanted, Workspace.at(workspace))
    assert not (workspace / FEATURES).exists()


@pytest.mark.slow
@pytest.mark.weights
def test_killed_features_keep_their_shards_and_end_like_uninterrupted_ones(
    workspace: Path, source: Path, change: Change
) -> None:
    wanted = settings_for(change, source, "features.engine=ncnn", "features.batch_size=2")
    run_prepare(wanted, workspace)
    kill_program(workspace, "tasks.features", f"{FOLDER}/*.safetensors", 2)
    survivors = identities(workspace / FOLDER, "*.safetensors")
    finished = {path: path.read_bytes() for path in survivors}
    done = sum(len(read_header(path).rows) for path in survivors)
    assert done == 8
    summary = features.run(wanted, Workspace.at(workspace))
    assert (summary.extracted, summary.reused) == (24 - done, done)
    assert survivors.items() <= identities(workspace / FOLDER, "*.safetensors").items()
    assert all(path.read_bytes() == content for path, content in finished.items())
    after = contents(workspace / FEATURES)
    shutil.rmtree(workspace / FEATURES)
    assert features.run(wanted, Workspace.at(workspace)).extracted == 24
    assert contents(workspace / FEATURES) == after


@pytest.mark.slow
@pytest.mark.weights
def test_features_are_the_same_bytes_in_every_process(workspace: Path, source: Path, change: Change) -> None:
    several = ("features.engine=ncnn", "features.boundary_cache=always", "strategies=[feature_extraction, progressive]")
    run_prepare(settings_for(change, source, *several, "augmentation.count=1"), workspace)
    one, two = twins(workspace)
    run_afresh((one, two), "tasks.features")
    assert contents(one / FEATURES) == contents(two / FEATURES)
    assert len(stored(one)) == 24
    assert list((one / FEATURES / "for/progressive/block4_pool.views").glob("*.safetensors"))
