"""Any image classification data set of TensorFlow Datasets: `tfds:name[/config][:version]`.

A prepared data set is read from its files alone (`TFDS_DATA_DIR`, else `~/tensorflow_datasets`), without network or
builder code. Otherwise TFDS downloads and prepares it there. The bytes are the encoded ones in the records, never
decoded. Splits are kept if there is more than one and one is `train`; splits other than train, validation and test are
excluded. An image's version is the SHA-256 of its bytes.

Costs: importing tensorflow-datasets takes a second, and doesn't use the network. The first listing reads all shards
once, with TensorFlow (4 s) for the CRC of each record. Later listings cost one `stat` for each shard.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any

from tasks.errors import SourceError
from tasks.images.sources.layout import class_name, kept_splits, printable
from tasks.images.sources.listing import Excluded, SourceImage, SourceListing
from tasks.images.sources.policy import SourcePolicy
from tasks.images.sources.tfds.records import FORMATS, VERSION, Fields, Record, list_records

SCHEME = "tfds:"
_NAME = re.compile(r"(?P<name>[a-z][a-z0-9_]*)(/(?P<config>\w[\w.+-]*))?(:(?P<version>[\d*]+\.[\d*]+\.[\d*]+))?")


def check(uri: str, _policy: SourcePolicy) -> None:
    """Check the name, and that TFDS is installed; not whether TFDS knows the data set, which would take a second.

    Raises:
        SourceError: the name is malformed, or TFDS is not installed.
    """
    if not _NAME.fullmatch(uri.removeprefix(SCHEME)):
        raise SourceError(
            "A data set of TFDS is written as tfds:name, tfds:name/config or tfds:name:1.2.3, its name in small "
            f"letters with underscores: tfds:tf_flowers. Received: {uri!r}"
        )
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise SourceError(f"{uri} needs the package tensorflow-datasets. Install it: make setup")


def discover(uri: str, policy: SourcePolicy) -> SourceListing:
    """Every image of every split, as `<split>/<class>/<TFDS id>`; where labels aren't needed, some have no class.

    Raises:
        SourceError: the data set isn't known, can't be downloaded, isn't for image classification, or is damaged.
    """
    check(uri, policy)
    builder = _builder(uri.removeprefix(SCHEME), policy)
    fields = _fields(builder.info, uri)
    file_format = builder.info.file_format.value
    if file_format not in FORMATS:
        raise SourceError(
            f"{uri} is prepared as {file_format}, but only {', '.join(FORMATS)} can be read. Prepare it as one of "
            f"them: tfds build {builder.info.name} --file_format={FORMATS[1]}"
        )
    entries: list[SourceImage | Excluded] = []
    names = _class_names(builder.info.features[fields.label])
    splits = kept_splits(builder.info.splits) if policy.labelled else {}
    for name, info in sorted(builder.info.splits.items()):
        if splits and name not in splits:
            entries.append(Excluded(printable(name), "unknown_split"))
            continue
        shards = [Path(str(path)) for path in info.filepaths]
        records = list_records(shards, file_format, fields, policy)
        entries += (_entry(record, name, splits.get(name), names, policy) for record in policy.watched(records))
    return SourceListing.of(entries, _about(builder.info))


def _builder(name: str, policy: SourcePolicy) -> Any:
    """A builder that reads prepared files; missing files are prepared first."""
    import tensorflow_datasets as tfds

    folder = _data_dir(policy)
    files = tfds.core.read_only_builder
    try:
        return files.builder_from_files(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise SourceError(f"tfds:{name} in {folder} can't be read: {_said(error)}. Prepare it again.") from None
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        builder = tfds.builder(name, data_dir=folder)
        builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError:
        raise SourceError(_unknown(name, folder, tfds.list_builders(with_community_datasets=False))) from None
    except Exception as error:  # noqa: BLE001 - downloads and builders raise errors of any class
        raise SourceError(_failed(name, folder, error)) from None
    return files.builder_from_directory(builder.data_path)


def _data_dir(policy: SourcePolicy) -> Path:
    return policy.folder / Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _unknown(name: str, folder: Path, known: list[str]) -> str:
    import difflib

    wanted = name.partition(":")[0].partition("/")[0]
    near = difflib.get_close_matches(wanted, known, 5, 0.6)
    meant = f" Similar names: {', '.join(near)}." if near else ""
    return (
        f"TFDS doesn't know the data set {name!r}, and {folder} holds none prepared under this name (configuration, "
        f"version).{meant} See https://www.tensorflow.org/datasets/catalog, or set TFDS_DATA_DIR to the folder "
        "where yours is prepared."
    )


def _failed(name: str, folder: Path, error: Exception) -> str:
    return (
        f"TFDS could not download or prepare {name!r} in {folder}: {_said(error)}. Run again if the network failed. "
        f"Or prepare it on a machine with a network: `tfds build {name.replace(':', ' --version=', 1)} "
        "--data_dir=FOLDER`; then copy FOLDER here and set TFDS_DATA_DIR to it."
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _fields(info: Any, uri: str) -> Fields:
    """The features with the image and the class: the supervised keys, else the only Image and ClassLabel."""
    features = info.features if hasattr(info.features, "items") else {}
    images = [key for key, feature in features.items() if _is_image(feature)]
    labels = [key for key, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    keys: tuple[str, ...] = info.supervised_keys or ()
    if len(keys) == 2 and keys[0] in images and keys[1] in labels:
        return Fields(keys[0], keys[1])
    if len(images) == len(labels) == 1:
        return Fields(images[0], labels[0])
    found = ", ".join(f"{key}: {type(feature).__name__}" for key, feature in features.items())
    raise SourceError(
        f"{uri} is not a data set for image classification: it needs an Image of 8 or 16 bit and a ClassLabel, as "
        f"supervised keys or one of each. It has {found or 'no named features'}; supervised keys: {keys or 'none'}."
    )


def _is_image(feature: Any) -> bool:
    import numpy as np

    return type(feature).__name__ == "Image" and np.dtype(feature.np_dtype).kind == "u"


def _class_names(feature: Any) -> list[str]:
    names = feature.names or [str(number) for number in range(feature.num_classes or 0)]
    return [class_name(name) for name in names]


def _entry(
    record: Record, split: str, kept: str | None, names: list[str], policy: SourcePolicy
) -> SourceImage | Excluded:
    name = f"{record.shard.path.name}__{record.number}"  # the same as in tfds.ReadConfig(add_tfds_id=True)
    is_known = 0 <= record.label < len(names)
    if not is_known and policy.labelled:
        return Excluded(printable(f"{split}/{name}"), "no_label")
    if record.size > policy.max_image_bytes:
        return Excluded(printable(f"{split}/{name}"), "too_large")
    label, version = names[record.label] if is_known else "", f"{VERSION}{record.sha256}"
    path = "/".join(filter(None, [printable(split), label, printable(name)]))
    return SourceImage(path, label, kept, record.shard, record.place, version, size_bytes=record.size)


def _about(info: Any) -> dict[str, str]:
    said = {
        "name": info.full_name,
        "description": info.description,
        "licence": getattr(info.redistribution_info, "license", ""),
        "citation": info.citation,
        "homepage": info.homepage,
    }
    return {
        key: " ".join(value.split()) if key != "citation" else value.strip() for key, value in said.items() if value
    }
