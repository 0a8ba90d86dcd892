"""Prepare: no image moves, every class is in every split, what belongs together stays together."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tasks.errors import DataError
from tasks.files import read_json, sha256_hex, write_json, write_table
from tasks.images.decoding import decode
from tasks.images.manifest import read_examples
from tasks.workspace import PREPARED, SHARDS
from tests.conftest import draw_image, fill_source, save_image
from tests.tasks.prepared import counts, prepared, splits
from tests.tasks.steps import Change, identities, run_prepare, settings_for


def test_new_images_alone_are_decoded_and_no_other_moves(workspace: Path, source: Path, change: Change) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    before, files = splits(workspace), identities(workspace / SHARDS, "*")
    for number in range(3):
        save_image(source / "ant" / f"new{number}.png", "ant", 100 + number)
    summary = run_prepare(wanted, workspace)
    assert (summary.decoded, summary.reused) == (3, 24)
    assert before.items() <= splits(workspace).items()
    assert files.items() <= identities(workspace / SHARDS, "*").items()


def test_relabelling_and_renaming_decode_nothing(workspace: Path, source: Path, change: Change) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    before = splits(workspace)
    (source / "ant" / "000.jpg").rename(source / "bee" / "was an ant.jpg")
    summary = run_prepare(wanted, workspace)
    assert summary.decoded == 0
    [moved] = [example for example in read_examples(workspace / PREPARED) if "was" in example.path]
    assert (moved.label, moved.split) == ("bee", before["ant/000.jpg"])


def test_removed_images_are_gone_from_the_shards(workspace: Path, source: Path, change: Change) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    path = source / "bee" / "003.png"
    key, pixels = sha256_hex(path.read_bytes()), decode(path.read_bytes())[0].tobytes()
    path.unlink()
    before = splits(workspace)
    summary = run_prepare(wanted, workspace)
    assert (summary.accepted, summary.decoded) == (23, 0)
    assert splits(workspace) == {name: split for name, split in before.items() if name != "bee/003.png"}
    everything = prepared(workspace).values()
    assert not any(pixels in content or key.encode() in content for content in everything)


def test_duplicates_across_given_splits_stay_in_test_only(workspace: Path, tmp_path: Path, change: Change) -> None:
    source = tmp_path / "source"
    fill_source(source / "train")
    for number, label in enumerate(("ant", "bee")):
        save_image(source / "test" / label / "1.png", label, 50 + number)
        save_image(source / "valid" / label / "1.png", label, 60 + number)
    shutil.copy(source / "test" / "ant" / "1.png", source / "train" / "ant" / "leak.png")
    shutil.copy(source / "test" / "bee" / "1.png", source / "valid" / "bee" / "leak.png")
    shutil.copy(source / "valid" / "ant" / "1.png", source / "train" / "ant" / "leak2.png")
    summary = run_prepare(settings_for(change, source), workspace)
    found = splits(workspace)
    assert {name: split for name, split in found.items() if not name.startswith("train")} == {
        "test/ant/1.png": "test",
        "test/bee/1.png": "test",
        "valid/ant/1.png": "validation",
        "valid/bee/1.png": "validation",
    }
    assert not [name for name in found if "leak" in name]
    assert (summary.excluded, counts(workspace)["excluded"]) == (3, {"duplicate": 3})


def test_validation_is_carved_from_train_where_test_is_given(workspace: Path, tmp_path: Path, change: Change) -> None:
    source = tmp_path / "source"
    fill_source(source / "train")
    fill_source(source / "val", a_class=3)
    for path in (source / "val").rglob("*.*"):
        draw_image(path.parent.name, 100 + int(path.stem)).save(path)
    run_prepare(settings_for(change, source), workspace)
    by_folder: dict[str, set[str]] = {"train": set(), "val": set()}
    for path_, split in splits(workspace).items():
        by_folder[path_.split("/")[0]].add(split)
    assert by_folder == {"train": {"train", "validation"}, "val": {"test"}}


@pytest.mark.parametrize("seed", range(3))
def test_every_class_of_few_images_is_in_every_split(
    workspace: Path, tmp_path: Path, change: Change, seed: int
) -> None:
    source = fill_source(tmp_path / "source", a_class=4, classes=("ant", "bee", "cat"))
    run_prepare(settings_for(change, source, f"prepare.split_seed={seed}"), workspace)
    assert not [label for label, found in counts(workspace)["classes"].items() if not all(found.values())]


def test_class_that_lost_its_only_training_image_is_named_with_the_cure(
    workspace: Path, tmp_path: Path, change: Change
) -> None:
    source = fill_source(tmp_path / "source", a_class=4)
    wanted = settings_for(change, source, "prepare.min_images_per_class=2")
    run_prepare(wanted, workspace)
    before = splits(workspace)
    for path, split in before.items():
        if path.startswith("ant/") and split == "train":
            (source / path).unlink()
    with pytest.raises(DataError, match=r"class 'ant': none of its .* Add images of the class .*split_seed"):
        run_prepare(wanted, workspace)
    save_image(source / "ant/new.png", "ant", 100)
    run_prepare(wanted, workspace)
    after = splits(workspace)
    assert after["ant/new.png"] == "train"
    assert before.items() >= {path: split for path, split in after.items() if path != "ant/new.png"}.items()


def test_empty_split_is_explained(workspace: Path, source: Path, change: Change) -> None:
    with pytest.raises(DataError, match=r"the test split is empty: raise prepare\.test_fraction"):
        run_prepare(settings_for(change, source, "prepare.test_fraction=0"), workspace)


@pytest.mark.parametrize("name", ["splits.parquet", "summary.json"])
@pytest.mark.parametrize("harm", ["cut", "removed"])
def test_lost_memory_of_the_splits_is_reported_and_drawn_again(
    workspace: Path, source: Path, change: Change, capsys: pytest.CaptureFixture[str], name: str, harm: str
) -> None:
    settings = settings_for(change, source)
    run_prepare(settings, workspace)
    assert "splits" not in capsys.readouterr().err  # a first run has lost nothing
    before, file = splits(workspace), workspace / PREPARED / name
    file.write_bytes(file.read_bytes()[:-20]) if harm == "cut" else file.unlink()
    run_prepare(settings, workspace)
    assert f"{PREPARED} doesn't say any more which split an image was in" in capsys.readouterr().err
    assert splits(workspace) == before  # as the contents draw them


def save_alike(folder: Path, count: int, seed: int = 0) -> None:
    """Images of one scene that differ in noise only."""
    folder.mkdir(parents=True, exist_ok=True)
    scene = np.asarray(draw_image("ant", seed, 8).resize((64, 64), Image.Resampling.BICUBIC), float)
    for number in range(count):
        pixels = scene + np.random.default_rng([seed, number]).normal(0, 2, scene.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"alike{seed}-{number:02}.png")


def test_images_that_look_alike_are_warned_of_in_the_log_and_the_report(
    workspace: Path, source: Path, change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    save_alike(source / "cat", 12)
    save_alike(source / "ant", 11, seed=1)
    (source / "ant/alike1-10.png").rename(source / "bee/alike1-10.png")
    run_prepare(settings_for(change, source), workspace)
    log = capsys.readouterr().err
    [apart, together] = [line for line in log.splitlines() if "look alike" in line or "near duplicates" in line]
    assert "12 images look alike, among them 12 of the 12 images of cat (cat/alike0-00.png, " in apart
    assert "11 images are in a set of near duplicates; the largest has 11 (ant/alike1-00.png, " in together
    assert "prepare.near_duplicate_bits=0" in together
    assert "11 accepted images look like an image with another label" in log
    report = read_json(workspace / "reports/data.json")
    assert [f"prepare: {warning}" for warning in report["warnings"]] == [apart, together, log.splitlines()[-1]]
    first = report["duplicates"]["listed"][0]
    assert {first["label"], first["of_label"]} == {"ant", "bee"}
    assert len({split for path, split in splits(workspace).items() if path.startswith("cat/")}) == 3


def test_other_bits_for_near_duplicates_draw_the_splits_again(workspace: Path, source: Path, change: Change) -> None:
    save_alike(source / "ant", 10, seed=1)
    for bits, expected in ((10, 1), (0, 3)):
        run_prepare(settings_for(change, source, f"prepare.near_duplicate_bits={bits}"), workspace)
        assert len({split for path, split in splits(workspace).items() if "alike" in path}) == expected


def test_memory_of_an_older_version_is_kept(workspace: Path, source: Path, change: Change) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    before = prepared(workspace)
    moved = {path: {"train": "test", "test": "train"}.get(split, split) for path, split in splits(workspace).items()}
    keys = {example.path: example.key for example in read_examples(workspace / PREPARED)}
    rows = [{"key": keys[path], "split": split} for path, split in moved.items()]
    write_table(
        workspace / PREPARED / "splits.parquet", rows, pa.schema([("key", pa.string()), ("split", pa.string())])
    )
    summary = counts(workspace)
    del summary["near_duplicate_bits"]
    write_json(workspace / PREPARED / "summary.json", summary)
    run_prepare(wanted, workspace)
    assert splits(workspace) == moved
    assert prepared(workspace).keys() == before.keys()


def test_what_a_table_tells_about_images_reaches_the_examples(workspace: Path, source: Path, change: Change) -> None:
    paths = sorted(str(path.relative_to(source)) for path in source.rglob("*.*"))
    rows = [f"{path},{Path(path).parent.name},{'old' if n % 2 else ''}" for n, path in enumerate(paths)]
    (source / "t.csv").write_text("\n".join(["path,label,about_camera", *rows]) + "\n")
    run_prepare(settings_for(change, source / "t.csv"), workspace)
    found = {example.path: example.about for example in read_examples(workspace / PREPARED)}
    assert found == {path: '{"camera": "old"}' if n % 2 else None for n, path in enumerate(paths)}
