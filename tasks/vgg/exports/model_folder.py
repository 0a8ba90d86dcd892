"""The folder of an exported model: its list of files, and the check that a folder is an export that nobody changed.

A model file is code, so a folder is checked before any library loads a file of it: the list of files and their SHA-256
(`digests.json`), the signature, if the reader has a public key, and the operations inside each model.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from tasks.errors import ExportError, PredictError
from tasks.files import file_sha256, json_bytes, read_json, sha256_hex, write_json
from tasks.parallel import on_all_cores
from tasks.vgg.exports.safe_graphs import CHECKS
from tasks.vgg.exports.signature import SIGNATURE, check_signature

DIGESTS, ABOUT, MODEL, DETECTOR = "digests.json", "export.json", "model.onnx", "foreign.safetensors"
_KNOWN = {
    DIGESTS,
    SIGNATURE,
    ABOUT,
    *CHECKS,
    "MODEL_CARD.md",
    DETECTOR,
    "labels.txt",
    "parity.json",
    "saved_model/assets.extra/rootstock.json",
    "saved_model/variables/variables.data-00000-of-00001",
    "saved_model/variables/variables.index",
    "sbom.json",
}
_CAN_RUN_CODE = {".keras", ".h5", ".hdf5", ".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".npy", ".npz"}
_HERE = "tasks/vgg/exports/model_folder.py and safe_graphs.py"
_AGAIN = "so it is not used. Get it again: dvc checkout --force export"


def write_digests(folder: Path) -> None:
    """List the SHA-256 of every file of a new export.

    Raises:
        ExportError: `check_model` would refuse a file.
    """

    def digest(name: str) -> str:
        content = (folder / name).read_bytes()
        if refusal := _refusal(name, content):
            raise ExportError(f"{name} would be refused by tasks.predict: {refusal}. Adapt {_HERE}.")
        return sha256_hex(content)

    names = sorted(_files(folder))
    write_json(folder / DIGESTS, dict(zip(names, on_all_cores(digest, names), strict=True)))


def model_version(folder: Path) -> str:
    """The SHA-256 of the list of files, so it differs if any file does.

    Raises:
        FileNotFoundError: the folder is no export.
    """
    return file_sha256(folder / (DIGESTS if (folder / DIGESTS).exists() else ABOUT))


def check_model(folder: Path, public_key: Path | None = None) -> dict[str, bytes]:
    """Check a folder before it is used.

    Args:
        folder: of the export.
        public_key: a PEM file: the model must be signed by its private key. None: the signature isn't checked.

    Returns:
        What was checked of `export.json`, `model.onnx` and, if the model has it, `foreign.safetensors`.

    Raises:
        PredictError: says which file is refused, and why.
    """
    try:
        contents = _check_files(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PredictError(
            f"{folder} is not a complete exported model ({type(error).__name__}: {error}). Name the folder that "
            "the pipeline exports (--model models/export), or make it: dvc pull export, or make run"
        ) from None
    if public_key:
        check_signature(folder, public_key)
    return contents


def _check_files(folder: Path) -> dict[str, bytes]:
    found, digests = set(_files(folder)) - {SIGNATURE}, _read_digests(folder)
    for name in sorted(found | digests.keys()):
        _check_listed(folder, name, found, digests)
    contents = {}
    for name in sorted(digests):
        content = (folder / name).read_bytes()
        if sha256_hex(content) != digests[name]:
            raise PredictError(
                f"{folder / name} is not the file that was exported: its SHA-256 differs. "
                f"It is damaged or was changed, {_AGAIN}"
            )
        if refusal := _refusal(name, content):
            raise PredictError(f"{folder / name} is refused: {refusal}. Use only models that this project exported.")
        if name in (ABOUT, MODEL, DETECTOR):
            contents[name] = content
    return contents


def _check_listed(folder: Path, name: str, found: set[str], digests: Mapping[str, str]) -> None:
    if name not in digests:
        reason = _refusal(name, b"") if name not in _KNOWN else f"{DIGESTS} doesn't list it"
        raise PredictError(f"{folder / name} is refused: {reason}. Remove it.")
    if name not in found:
        raise PredictError(f"{folder} is not a complete exported model: {name} is missing, {_AGAIN}")


def _refusal(name: str, content: bytes) -> str | None:
    """Why the file can't be one of an export, in words; None if it can."""
    if name not in _KNOWN:
        risk = "; such a file can run code when it is loaded" if Path(name).suffix in _CAN_RUN_CODE else ""
        return f"no export has such a file{risk}"
    try:
        return CHECKS[name](content) if name in CHECKS else None
    except ValueError as error:
        return str(error)


def _read_digests(folder: Path) -> dict[str, str]:
    """The list of files; an export of an older version has it, but for one file, in its description."""
    if not (folder / DIGESTS).exists():
        digests: dict[str, str] = {**read_json(folder / ABOUT)["sha256"], ABOUT: file_sha256(folder / ABOUT)}
        return digests
    content = (folder / DIGESTS).read_bytes()
    digests = json.loads(content)
    if json_bytes(digests) != content:
        raise PredictError(f"{folder / DIGESTS} is not the file that was exported, {_AGAIN}")
    return {**digests, DIGESTS: sha256_hex(content)}


def _files(folder: Path) -> Iterator[str]:
    """The paths of all files in the folder.

    Raises:
        PredictError: something is neither a file nor a folder; links would lead to files that nobody has checked.
    """
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as found:
            entries = list(found)
        for entry in entries:
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                pending.append(Path(entry.path))
            elif stat.S_ISREG(mode):
                yield Path(entry.path).relative_to(folder).as_posix()
            else:
                kind = "a link" if stat.S_ISLNK(mode) else "not a file"
                raise PredictError(f"{entry.path} is refused: it is {kind}. Copy the exported model again.")
