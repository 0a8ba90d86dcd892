"""TFDS: prepared data sets are read only from their files; bytes, splits and credits are the original ones."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.errors import SourceError
from tasks.images.sources import tfds
from tasks.images.sources.tfds import records
from tests.conftest import PROJECT, draw_image
from tests.tasks.images.encoding import encode
from tests.tasks.images.sources.policies import policy

FOREIGN = "ignore::DeprecationWarning:(tensorflow|tensorflow_datasets|keras|google|etils|promise|array_record)"
pytestmark = [pytest.mark.filterwarnings(FOREIGN)]

BUILDERS = '''
import io, sys
import tensorflow_datasets as tfds
from tests.conftest import draw_image
from tests.tasks.images.encoding import encode
from tests.tasks.images.sources.policies import policy

class Beasts(tfds.core.GeneratorBasedBuilder):
    """{splits} -> numbers of the images; class = number modulo 2, or none."""
    VERSION = tfds.core.Version("1.2.0")
    SPLITS = {"train": range(10), "test": range(10, 14), "extra": range(14, 16)}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Little\\nbeasts",
            features=tfds.features.FeaturesDict({
                "image": tfds.features.Image(),
                "label": tfds.features.ClassLabel(names=["ant", "bee"]),
                "thumb": tfds.features.Image(),
            }),
            supervised_keys=("image", "label"),
            homepage="https://example.org/beasts",
            citation="@misc{beasts}",
            license="CC BY 4.0",
        )

    def _split_generators(self, _):
        return {split: self._generate_examples(numbers) for split, numbers in self.SPLITS.items()}

    def _generate_examples(self, numbers):
        for number in numbers:
            label = number % 2 if number != 5 else -1
            image = draw_image(["ant", "bee"][label], number)
            kind = "JPEG" if number % 3 else "PNG"
            thumb = io.BytesIO(encode(image.resize((4, 4))))
            yield number, {"image": io.BytesIO(encode(image, kind)), "label": label, "thumb": thumb}

class OneSplit(Beasts):
    SPLITS = {"train": range(4)}

class TwoSplits(Beasts):
    SPLITS = {"train": range(4), "validation": range(6, 10)}

for folder, kind in (("tfrecord", None), ("array", "array_record")):
    for builder in (Beasts, OneSplit, TwoSplits):
        builder(data_dir=f"{sys.argv[1]}/{folder}", file_format=kind).download_and_prepare()
'''


def python(code: str, *arguments: str, **environment: str) -> str:
    """What a fresh process prints that runs the code outside of the project's folder."""
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    variables = {**os.environ, "PYTHONPATH": str(PROJECT), "TF_CPP_MIN_LOG_LEVEL": "2", **environment}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tfds")
    python(BUILDERS, str(folder))
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=["tfrecord", "array"])
def data_dir(request: pytest.FixtureRequest, prepared: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared / request.param))
    return prepared / request.param


def expected(numbers: range | list[int]) -> set[tuple[str, str]]:
    images = {(["ant", "bee"][number % 2], number) for number in numbers if number != 5}
    return {(label, digest(encode(draw_image(label, n), "JPEG" if n % 3 else "PNG"))) for label, n in images}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


DISCOVER = """
    import json, sys, hashlib
    from tasks.images.sources import tfds
    from tests.tasks.images.sources.policies import policy
    listing = tfds.discover(sys.argv[1], policy())
    print(json.dumps({
        "items": [[i.path, i.label, i.split, hashlib.sha256(i.read()).hexdigest(), i.version] for i in listing.images],
        "excluded": {entry.path: entry.reason for entry in listing.excluded},
        "about": listing.about,
        "imported": [name for name in ("tensorflow", "tensorflow_datasets") if name in sys.modules],
    }))
"""


def discover_afresh(uri: str, cwd: Path, data_dir: Path) -> dict[str, Any]:
    variables = {"TFDS_DATA_DIR": str(data_dir)}
    code = f"import os; os.chdir({str(cwd)!r})\n" + textwrap.dedent(DISCOVER)
    found: dict[str, Any] = json.loads(python(code, uri, **variables).splitlines()[-1])
    return found


@pytest.mark.slow
def test_tfds_reads_prepared_files_in_a_fresh_process_without_the_builder(data_dir: Path, here: Path) -> None:
    found = discover_afresh("tfds:beasts", here, data_dir)
    by_split = {
        split: {(item[1], item[3]) for item in found["items"] if item[2] == split} for split in ("train", "test")
    }
    assert by_split == {"train": expected(range(10)), "test": expected(range(10, 14))}
    assert all(version == f"sha256:{sha}" for *_, sha, version in found["items"])
    assert sorted(found["excluded"].values()) == ["no_label", "unknown_split"]
    assert found["excluded"]["extra"] == "unknown_split"
    assert found["about"] == {
        "name": "beasts/1.2.0",
        "description": "Little beasts",
        "licence": "CC BY 4.0",
        "citation": "@misc{beasts}",
        "homepage": "https://example.org/beasts",
    }


@pytest.mark.slow
def test_tfds_that_did_not_change_is_listed_without_tensorflow(prepared: Path, here: Path) -> None:
    first = discover_afresh("tfds:beasts:1.2.0", here, prepared / "tfrecord")
    second = discover_afresh("tfds:beasts:1.2.0", here, prepared / "tfrecord")
    assert first["imported"] == ["tensorflow", "tensorflow_datasets"]
    assert second["imported"] == ["tensorflow_datasets"]
    assert second["items"] == first["items"]


@pytest.mark.slow
def test_tfds_paths_are_named_as_tfds_names_examples(data_dir: Path) -> None:
    paths = [item.path for item in tfds.discover("tfds:one_split", policy()).images]
    shard = "one_split-train." + ("tfrecord" if data_dir.name == "tfrecord" else "array_record") + "-00000-of-00001"
    assert {path.rsplit("/", 1)[0] for path in paths} == {"train/ant", "train/bee"}
    assert {path.rsplit("/", 1)[1] for path in paths} == {f"{shard}__{number}" for number in range(4)}


@pytest.mark.slow
def test_tfds_with_train_only_leaves_the_splits_to_be_carved(data_dir: Path) -> None:
    assert {item.split for item in tfds.discover("tfds:one_split", policy()).images} == {None}


@pytest.mark.slow
def test_tfds_with_train_and_validation_only_holds_validation_out_as_test(data_dir: Path) -> None:
    items = tfds.discover("tfds:two_splits", policy()).images
    assert {item.path.split("/")[0]: item.split for item in items} == {"train": "train", "validation": "test"}


@pytest.mark.slow
def test_tfds_for_scoring_gives_every_image_of_every_split_with_a_label_or_without(data_dir: Path) -> None:
    listing = tfds.discover("tfds:beasts", policy(labelled=False))
    assert listing.excluded == ()
    splits = [item.path.split("/")[0] for item in listing.images]
    assert {split: splits.count(split) for split in splits} == {"extra": 2, "test": 4, "train": 10}
    assert [item.path.count("/") for item in listing.images if item.label == ""] == [1]


@pytest.mark.slow
def test_tfds_is_read_by_many_threads(data_dir: Path) -> None:
    items = [*tfds.discover("tfds:beasts", policy()).images] * 20
    with ThreadPoolExecutor(8) as pool:
        assert [f"sha256:{digest(data)}" for data in pool.map(lambda item: item.read(), items)] == [
            item.version for item in items
        ]


@pytest.fixture
def copied(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The train shard of a copy that may be damaged."""
    shutil.copytree(data_dir / "one_split", tmp_path / "copy" / "one_split")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "copy"))
    [shard] = (tmp_path / "copy").rglob("*00000-of-00001")
    return shard


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.slow
def test_tfds_shard_with_a_flipped_bit_is_named(copied: Path) -> None:
    flip(copied, copied.stat().st_size // 2)
    with pytest.raises(SourceError, match=f"{copied.name} is damaged") as caught:
        [item.read() for item in tfds.discover("tfds:one_split", policy()).images]
    assert "Prepare the data set again: remove" in str(caught.value)


@pytest.mark.slow
def test_tfds_shard_that_changes_after_the_listing_is_noticed(copied: Path) -> None:
    items = tfds.discover("tfds:one_split", policy()).images
    if copied.suffix.startswith(".tfrecord"):
        flip(copied, copied.read_bytes().index(items[0].read()) + 10)
    else:
        copied.write_bytes(b"other")
    with pytest.raises(SourceError, match="is damaged"):
        items[0].read()


@pytest.mark.slow
def test_tfds_shard_that_is_missing_is_named(copied: Path) -> None:
    copied.unlink()
    with pytest.raises(SourceError, match="A shard is missing"):
        tfds.discover("tfds:one_split", policy())


@pytest.mark.slow
def test_case_38_tfds_shard_with_new_bytes_is_listed_again(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tfds.discover("tfds:one_split", policy())
    times = (copied.stat().st_atime_ns, copied.stat().st_mtime_ns)
    copied.write_bytes(copied.read_bytes())
    os.utime(copied, ns=times)
    monkeypatch.setattr(records, "_parse", None)
    with pytest.raises(SourceError, match="is damaged"):  # it was read, and that failed
        tfds.discover("tfds:one_split", policy())


@pytest.mark.slow
def test_tfds_that_can_not_be_downloaded_says_how_to_prepare_it(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
        code = """
            import os, sys
            from tensorflow_datasets.core.download import downloader
            downloader.MAX_RETRIES = 0  # ten, with pauses, take three minutes
            from tasks.errors import SourceError
            from tasks.images.sources import tfds
            from tests.tasks.images.sources.policies import policy
            os.chdir(sys.argv[1])
            try:
                tfds.discover("tfds:mnist:3.0.1", policy())
            except SourceError as error:
                print(error)
        """
        variables = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), proxy)
        variables |= {"no_proxy": "", "NO_PROXY": "", "TFDS_DATA_DIR": str(tmp_path / "data"), "TFDS_RETRY_TRIES": "1"}
        said = python(code, str(tmp_path), **variables)
    assert "could not download or prepare 'mnist:3.0.1'" in said
    assert "ProxyError" in said or "Connection" in said
    assert "tfds build mnist --version=3.0.1 --data_dir=FOLDER" in said
    assert "TFDS_DATA_DIR" in said


@pytest.mark.slow
def test_importing_tfds_and_listing_tries_no_network(prepared: Path, here: Path) -> None:
    code = """
        import os, socket
        def refuse(*_):
            os._exit(99)  # an exception might be swallowed
        socket.socket.connect = socket.getaddrinfo = refuse
    """
    variables = {"TFDS_DATA_DIR": str(prepared / "array")}
    listing = f"import os; os.chdir({str(here)!r})\n" + textwrap.dedent(DISCOVER)
    assert "beasts/1.2.0" in python(textwrap.dedent(code) + listing, "tfds:beasts", **variables)


def test_tfds_of_an_unknown_name_names_near_ones(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(here / "data"))
    with pytest.raises(
        SourceError, match=r"doesn't know the data set 'tf_flower'.*Similar names: tf_flowers"
    ) as caught:
        tfds.discover("tfds:tf_flower", policy())
    assert "TFDS_DATA_DIR" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", "Mnist", "../x", "a/../b", "a/..", "huggingface:x", "a:1", "a/b=1,c=2", "a b", "a:1.0.0/b"]
)
def test_malformed_tfds_name_is_explained(name: str) -> None:
    with pytest.raises(SourceError, match="is written as tfds:name"):
        tfds.check(f"tfds:{name}", policy())


@pytest.mark.parametrize("name", ["mnist", "mnist:3.0.1", "cifar10_corrupted/brightness_1:1.*.*", "a/b-c.d+e"])
def test_tfds_name_may_have_a_configuration_and_a_version(name: str) -> None:
    tfds.check(f"tfds:{name}", policy())


def info(features: dict[str, Any], keys: tuple[Any, ...] | None = None) -> Any:
    return SimpleNamespace(features=features, supervised_keys=keys)


def test_tfds_features_are_the_supervised_ones_else_the_only_ones() -> None:
    import tensorflow_datasets as library

    image, label, text = library.features.Image(), library.features.ClassLabel(num_classes=2), library.features.Text()
    two = {"a": image, "b": image, "c": label, "d": text}
    assert tfds._fields(info(two, ("b", "c")), "x") == records.Fields("b", "c")
    assert tfds._fields(info({"a": image, "c": label, "d": text}), "x") == records.Fields("a", "c")
    assert tfds._fields(info({"a": image, "c": label, "d": text}, ("d", "c")), "x") == records.Fields("a", "c")


def test_tfds_that_is_not_image_classification_lists_its_features() -> None:
    import numpy as np
    import tensorflow_datasets as library

    image, label, text = library.features.Image(), library.features.ClassLabel(num_classes=2), library.features.Text()
    depth = library.features.Image(shape=(None, None, 1), dtype=np.float32)
    for features, keys in [
        ({"a": image, "b": image, "c": label}, None),
        ({"a": text, "c": label}, ("a", "c")),
        ({"a": image, "b": image}, ("a", "b")),
        ({"a": depth, "c": label}, ("a", "c")),
    ]:
        with pytest.raises(SourceError, match="is not a data set for image classification") as caught:
            tfds._fields(info(features, keys), "tfds:x")
        assert all(f"{key}: {type(feature).__name__}" in str(caught.value) for key, feature in features.items())


def test_tfds_class_names_are_printable() -> None:
    import tensorflow_datasets as library

    assert tfds._class_names(library.features.ClassLabel(names=["a\tb", "c/d"])) == [r"a\tb", "c/d"]
    assert tfds._class_names(library.features.ClassLabel(num_classes=3)) == ["0", "1", "2"]
