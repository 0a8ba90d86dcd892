"""The same images through every kind of source give the same examples, splits and features.

An example is known by the SHA-256 of its encoded bytes. So a TFDS data set gives the same examples only where the very
files went into it: `tfds.features.Image` stores the bytes of a file as they are, but encodes an array anew, as PNG.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks import features
from tasks.images.manifest import read_examples
from tasks.images.shards import open_shards
from tasks.vgg.boundaries import BOTTLENECK
from tasks.workspace import FEATURES, PREPARED, Workspace
from tests.conftest import PROJECT
from tests.tasks.images.sources.making import files_of, make_csv, make_tar, make_zip, split_source
from tests.tasks.images.sources.storing import Bucket
from tests.tasks.steps import Change, run_prepare, settings_for, use_tiny_extractor

Known = set[tuple[str, str, str]]

BUILDER = '''
import sys
from pathlib import Path
import tensorflow_datasets as tfds

class Beasts(tfds.core.GeneratorBasedBuilder):
    """The folder's files, stored as they are."""
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        names = tfds.features.ClassLabel(names=["ant", "bee"])
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "label": names})
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

    def _split_generators(self, _):
        return {split: self._generate_examples(Path(sys.argv[1], name)) for split, name in
                (("train", "train"), ("validation", "val"))}

    def _generate_examples(self, folder):
        for file in sorted(folder.glob("*/*")):
            yield f"{file.parent.name}/{file.name}", {"image": str(file), "label": file.parent.name}

Beasts(data_dir=sys.argv[2]).download_and_prepare()
'''


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return split_source(tmp_path / "images")


def examples_of(source: Path | str, workspace: Path, change: Change) -> Known:
    """What `prepare` accepts of a source: content, class and split of each image."""
    summary = run_prepare(settings_for(change, source), workspace)
    found = {(row.key, row.label, row.split) for row in read_examples(workspace / PREPARED)}
    assert len(found) == summary.accepted
    return found


def test_archives_and_tables_give_the_same_examples_as_the_folder(
    images: Path, tmp_path: Path, workspace: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    wanted = examples_of(images, workspace, change)
    assert {split for _, _, split in wanted} == {"train", "validation", "test"}
    files = files_of(images)
    rows = [(name, name.split("/")[1], {"train": "train", "val": "test"}[name.split("/")[0]]) for name in files]
    sources = (
        make_zip(tmp_path / "images.zip", files.items()),
        make_tar(tmp_path / "images.tar.gz", files.items()),
        make_csv(images / "images.csv", [("path", "label", "split"), *rows]),
    )
    for source in sources:
        assert examples_of(source, workspace, change) == wanted, source


def test_bucket_gives_the_same_examples_as_the_folder_and_is_not_downloaded_twice(
    images: Path, bucket: Bucket, workspace: Path, change: Change
) -> None:
    wanted = examples_of(images, workspace, change)
    for name, body in files_of(images).items():
        bucket.put(f"set/{name}", body=body)
    uri = bucket.uri("set")
    assert examples_of(uri, workspace, change) == wanted
    before = bucket.proxy.count("GET", "/set/train/")
    assert before > 0
    assert examples_of(uri, workspace, change) == wanted
    assert bucket.proxy.count("GET", "/set/train/") == before


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:(tensorflow|tensorflow_datasets|keras|google|etils|promise|array_record)"
)
def test_every_kind_of_source_gives_the_same_examples_splits_and_features(
    images: Path, tmp_path: Path, bucket: Bucket, workspace: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    use_tiny_extractor(monkeypatch)
    files = files_of(images)
    for name, body in files.items():
        bucket.put(f"set/{name}", body=body)
    prepare_tfds(images, tmp_path / "data_dir")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data_dir"))
    rows = [(name, name.split("/")[1], name.split("/")[0]) for name in files]
    sources = {
        "folder": images,
        "archive": make_zip(tmp_path / "images.zip", files.items()),
        "table": make_csv(tmp_path / "images" / "table.csv", [("path", "label", "split"), *rows]),
        "s3": bucket.uri("set"),
        "tfds": "tfds:beasts",
    }
    found = {}
    for kind, source in sources.items():
        fresh = tmp_path / kind
        fresh.mkdir()
        settings = settings_for(change, source)
        run_prepare(settings, fresh)
        features.run(settings, Workspace.at(fresh))
        examples = read_examples(fresh / PREPARED)
        keys = sorted(example.key for example in examples)
        numbers = open_shards(fresh / FEATURES / BOTTLENECK).read(keys)
        found[kind] = {(one.key, one.label, one.split) for one in examples}, numbers
    wanted, expected = found["folder"]
    assert {split for _, _, split in wanted} == {"train", "validation", "test"}
    for kind, (examples, numbers) in found.items():
        assert examples == wanted, kind
        assert np.array_equal(numbers, expected), kind


def prepare_tfds(images: Path, data_dir: Path) -> None:
    variables = {**os.environ, "PYTHONPATH": str(PROJECT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, "-c", BUILDER, str(images), str(data_dir)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
