"""A folder is used only if it is an export that nobody changed; and signed, if the reader has a key."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tasks import predict
from tasks.errors import ExportError, PredictError
from tasks.files import file_sha256, read_json, write_bytes, write_json
from tasks.vgg.exports.model_folder import check_model, write_digests
from tasks.vgg.exports.signature import SIGNATURE, sign_model
from tests.tasks.vgg.exports.test_safe_graphs import litert, model


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """The files of an export, as small as can be."""
    folder = tmp_path / "export"
    files = {
        "MODEL_CARD.md": b"# A model\n",
        "labels.txt": b"ant\nbee\n",
        "model.onnx": model().SerializeToString(),
        "model.tflite": litert(None, 3),
        "saved_model/saved_model.pb": b"",
        "saved_model/variables/variables.index": b"index",
    }
    for name, content in files.items():
        write_bytes(folder / name, content)
    write_json(folder / "export.json", {"classes": ["ant", "bee"]})
    write_digests(folder)
    return folder


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """The files of a private key and of its public key."""
    return new_keys(tmp_path / "keys", ec.SECP256R1())


def new_keys(folder: Path, curve: ec.EllipticCurve) -> tuple[Path, Path]:
    key = ec.generate_private_key(curve)
    pem, public = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    private, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    write_bytes(folder / "key.pem", key.private_bytes(pem, private, plain))
    write_bytes(folder / "public.pem", key.public_key().public_bytes(pem, public))
    return folder / "key.pem", folder / "public.pem"


def flips(path: Path) -> list[bytes]:
    """The file with one bit changed: in its first byte, its last, and some between."""
    content = path.read_bytes()
    places = {round(share * (len(content) - 1)) for share in (0, 0.2, 0.4, 0.6, 0.8, 1)} if content else set()
    return [bytes([*content[:at], content[at] ^ 1, *content[at + 1 :]]) for at in sorted(places)]


def test_one_changed_byte_in_any_file_is_refused(export: Path) -> None:
    assert set(check_model(export)) == {"export.json", "model.onnx"}
    for path in [path for path in export.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        for changed in flips(path):
            path.write_bytes(changed)
            with pytest.raises(PredictError, match=r"export") as refused:
                check_model(export)
            if path.name != "digests.json":
                assert str(path) in str(refused.value)
                assert "its SHA-256 differs" in str(refused.value)
        path.write_bytes(content)
    check_model(export)


def add(name: str, content: bytes = b"x") -> Callable[[Path], None]:
    return lambda folder: write_bytes(folder / name, content)


def add_space(folder: Path) -> None:
    with (folder / "digests.json").open("ab") as file:
        file.write(b" ")


def link(folder: Path) -> None:
    (folder / "labels.txt").rename(folder.parent / "labels.txt")
    (folder / "labels.txt").symlink_to(folder.parent / "labels.txt")


def link_folder(folder: Path) -> None:
    (folder / "saved_model").rename(folder.parent / "elsewhere")
    (folder / "saved_model").symlink_to(folder.parent / "elsewhere")


def replace_with_loop(folder: Path) -> None:
    """Whoever changes a file can change the list, too."""
    from tests.tasks.vgg.exports.test_safe_graphs import add_loop

    proto = model()
    add_loop(proto)
    write_bytes(folder / "model.onnx", proto.SerializeToString())
    list_all(folder)


def add_keras(folder: Path) -> None:
    write_bytes(folder / "model.keras", b"a Lambda layer")
    list_all(folder)


def list_all(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("digests.json", SIGNATURE)]
    write_json(folder / "digests.json", {path.relative_to(folder).as_posix(): file_sha256(path) for path in files})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (add("more.txt"), r"more\.txt is refused: no export has such a file\. Remove it"),
        (add("sbom.json"), r"sbom\.json is refused: digests\.json doesn't list it"),
        (add("head.pkl", pickle.dumps(os.getcwd)), r"head\.pkl is refused: .*; such a file can run code"),
        (add_keras, r"model\.keras is refused: .*; such a file can run code"),
        (replace_with_loop, r'model\.onnx is refused: it has the operation "Loop"'),
        (lambda folder: (folder / "labels.txt").unlink(), r"labels\.txt is missing"),
        (lambda folder: shutil.rmtree(folder / "saved_model"), r"saved_model\.pb is missing"),
        (lambda folder: shutil.rmtree(folder), "not a complete exported model"),
        (add("digests.json", b"[]\n"), "not a complete exported model"),
        (add_space, r"digests\.json is not the file that was exported"),
        (link, r"labels\.txt is refused: it is a link"),
        (link_folder, r"saved_model is refused: it is a link"),
        (lambda folder: os.mkfifo(folder / "pipe"), r"pipe is refused: it is not a file"),
    ],
)
def test_folder_that_is_no_export_is_refused(export: Path, change: Callable[[Path], object], reason: str) -> None:
    change(export)
    with pytest.raises(PredictError, match=reason):
        check_model(export)


def test_export_of_an_older_version_is_checked_by_its_own_list(export: Path) -> None:
    digests = read_json(export / "digests.json")
    (export / "digests.json").unlink()
    del digests["export.json"]
    write_json(export / "export.json", {"classes": [], "sha256": digests})
    check_model(export)
    write_bytes(export / "labels.txt", b"bee\nant\n")
    with pytest.raises(PredictError, match=r"labels\.txt is not the file that was exported"):
        check_model(export)


def test_export_writes_no_file_that_would_be_refused(export: Path) -> None:
    write_bytes(export / "model.int8.onnx", b"\x08")
    with pytest.raises(ExportError, match=r"model\.int8\.onnx would be refused by tasks\.predict: it is cut off"):
        write_digests(export)


def test_signed_model_is_accepted_wherever_it_lies(export: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    sign_model(export, keys[0])
    signature = (export / SIGNATURE).read_bytes()
    sign_model(export, keys[0])
    assert (export / SIGNATURE).read_bytes() == signature, "else DVC takes the same model for a new one"
    moved = export.rename(tmp_path / "elsewhere")
    check_model(moved, keys[1])
    check_model(moved)


def test_one_changed_byte_in_the_signature_is_refused(export: Path, keys: tuple[Path, Path]) -> None:
    sign_model(export, keys[0])
    signature = (export / SIGNATURE).read_bytes()
    for at in range(0, len(signature), 9):
        write_bytes(export / SIGNATURE, bytes([*signature[:at], signature[at] ^ 1, *signature[at + 1 :]]))
        with pytest.raises(PredictError, match="isn't signed by the owner of"):
            check_model(export, keys[1])


def test_signature_with_bits_that_base64_ignores_is_refused(export: Path, tmp_path: Path) -> None:
    for number in range(20):  # the length of a signature is left to chance
        private, public = new_keys(tmp_path / str(number), ec.SECP256R1())
        sign_model(export, private)
        bundle = json.loads((export / SIGNATURE).read_bytes())
        [signature] = bundle["dsseEnvelope"]["signatures"]
        if signature["sig"].endswith("="):
            break
    text = signature["sig"].rstrip("=")
    signature["sig"] = signature["sig"].replace(text, text[:-1] + chr(ord(text[-1]) + 1))
    check_model(export, public)
    write_bytes(export / SIGNATURE, json.dumps(bundle).encode())
    with pytest.raises(PredictError, match="the signature was changed"):
        check_model(export, public)


def test_model_that_the_owner_of_the_key_has_not_signed_is_refused(
    export: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(PredictError, match=r"isn't signed by .*public\.pem \(it has no signature\)"):
        check_model(export, keys[1])
    sign_model(export, new_keys(tmp_path / "others", ec.SECP256R1())[0])
    with pytest.raises(PredictError, match=r"isn't signed by .*Key mismatch"):
        check_model(export, keys[1])
    sign_model(export, keys[0])
    write_bytes(export / "labels.txt", b"bee\nant\n")
    list_all(export)
    with pytest.raises(PredictError, match=r"isn't signed by .*a file was changed"):
        check_model(export, keys[1])
    with pytest.raises(PredictError, match="isn't signed by"):
        check_model(export, tmp_path / "missing.pem")


def test_signature_is_one_that_model_signing_accepts(export: Path, keys: tuple[Path, Path]) -> None:
    sign_model(export, keys[0])
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(export), "--signature"]
    command += [str(export / SIGNATURE), "--public_key", str(keys[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "Verification succeeded\n"), done.stderr
    write_bytes(export / "labels.txt", b"bee\nant\n")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "labels.txt" in done.stdout + done.stderr) == (1, True)


def test_key_that_cannot_sign_is_named(export: Path, tmp_path: Path) -> None:
    wrong = new_keys(tmp_path / "p384", ec.SECP384R1())[0]
    for key, reason in ((wrong, "no key of the elliptic curve P-256"), (tmp_path / "missing", "No such file")):
        with pytest.raises(ExportError, match=f"can't be signed by the key at ROOTSTOCK_SIGNING_KEY=.*{reason}"):
            sign_model(export, key)
    assert not (export / SIGNATURE).exists()


def test_predict_asks_for_a_signature_if_a_key_is_given(
    export: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--model", str(export), "image.png"]
    assert predict.main([*arguments, "--public-key", str(keys[1])]) == 2
    assert "(it has no signature)" in capsys.readouterr().err
    monkeypatch.setenv("ROOTSTOCK_PUBLIC_KEY", str(keys[1]))
    assert predict.main(arguments) == 2
    assert "(it has no signature)" in capsys.readouterr().err
