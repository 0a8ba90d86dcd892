"""Signs an exported model, and checks a signature, in the format of OpenSSF Model Signing (`model-signing`).

The signature holds the SHA-256 of every file beside it, so it belongs to the folder wherever it lies. It is a Sigstore
bundle: a DSSE envelope (https://github.com/secure-systems-lab/dsse) around an in-toto statement. `model-signing` writes
such files, too, but each time with other bytes, and then DVC would take the same model for a new one. So the few lines
that write it are here, and `model-signing` checks it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from tasks.errors import ExportError, PredictError
from tasks.files import file_sha256, write_bytes

SIGNATURE = "model.sig"
SIGNING_KEY, PUBLIC_KEY = "ROOTSTOCK_SIGNING_KEY", "ROOTSTOCK_PUBLIC_KEY"
"""Environment variables: the paths of a private key, for the export, and of its public key, for those who use it."""
_PAYLOAD = "application/vnd.in-toto+json"
_HOW = "Make a key: openssl ecparam -name prime256v1 -genkey -noout -out model-key.pem"


def configured_key() -> Path | None:
    """The public key that the environment names; None: models needn't be signed."""
    return Path(os.environ[PUBLIC_KEY]) if os.environ.get(PUBLIC_KEY) else None


def sign_model(folder: Path, private_key: Path) -> None:
    """Write the signature into the folder; the same files and key give the same bytes.

    Args:
        folder: of the export; `export` is its name in the signature, which nobody checks.
        private_key: PEM, an elliptic curve P-256, without a password.

    Raises:
        ExportError: the key can't be read, or is of another kind.
    """
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(private_key.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise ValueError("it is no key of the elliptic curve P-256")
    except (OSError, ValueError, TypeError) as error:
        raise ExportError(
            f"The model can't be signed by the key at {SIGNING_KEY}={private_key}: {error}. {_HOW}"
        ) from None
    payload = json.dumps(_statement(folder), sort_keys=True).encode()
    signed = key.sign(_envelope(payload), ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": hashlib.sha256(public).hexdigest()}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD,
            "signatures": [{"sig": base64.b64encode(signed).decode(), "keyid": ""}],
        },
    }
    write_bytes(folder / SIGNATURE, json.dumps(bundle, separators=(",", ":")).encode())


def check_signature(folder: Path, public_key: Path) -> None:
    """Check that the folder holds exactly the files that were signed by the key's owner.

    Raises:
        PredictError: the signature is missing, damaged or another key's, or a file was changed, added or removed.
    """
    from model_signing import verifying

    signature = folder / SIGNATURE
    try:
        verifying.Config().use_elliptic_key_verifier(public_key=public_key).verify(folder, signature)
        _require_one_spelling(signature)
    except Exception as error:  # noqa: BLE001 - a damaged signature raises whatever its parsers raise
        reason = _reason(error) if signature.exists() else "it has no signature"
        raise PredictError(
            f"{folder} is refused: it isn't signed by the owner of {public_key} ({reason}). "
            "Get the model again from the people who signed it."
        ) from None


def _require_one_spelling(signature: Path) -> None:
    """Refuse Base64 whose last character has bits that decoding ignores: nobody may change a byte unnoticed."""
    envelope = json.loads(signature.read_bytes())["dsseEnvelope"]
    for text in (envelope["payload"], *(one["sig"] for one in envelope["signatures"])):
        if base64.b64encode(base64.b64decode(text)).decode() != text:
            raise ValueError("the signature was changed")


def _reason(error: Exception) -> str:
    if str(error).startswith("Signature mismatch"):
        return "a file was changed, added or removed after it was signed"
    return str(error) or type(error).__name__


def _statement(folder: Path) -> dict[str, Any]:
    """What is signed: an in-toto statement with the SHA-256 of every file, in the order of their paths."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    sums = {path.as_posix(): file_sha256(folder / path) for path in paths if path.name != SIGNATURE}
    everything = hashlib.sha256(b"".join(map(bytes.fromhex, sums.values()))).hexdigest()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "export", "digest": {"sha256": everything}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE],
            },
            "resources": [{"name": name, "algorithm": "sha256", "digest": value} for name, value in sums.items()],
        },
    }


def _envelope(payload: bytes) -> bytes:
    """The bytes that are signed: the payload with its type and lengths (DSSE's pre-authentication encoding)."""
    return b"DSSEv1 %d %b %d %b" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)
