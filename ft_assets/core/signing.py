"""Signing a release, and finding what is not as it was released.

A signature is OpenSSF model-signing's (a Sigstore bundle, ``model.sig``) over the hash of every file of the release, by an
elliptic-curve key (P-256, P-384 or P-521, PEM). Without the public key, files are compared with the bill of materials: that
finds damage, but not a forger, who would write another bill. What others put beside a release (git's files, the pointer to
the champion, a download's cache) is not part of it.
"""

import base64
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ft_assets.core.bill import BILL, listed
from ft_assets.core.canonical import sha256_file
from ft_assets.core.errors import FineTuneError

SIGNATURE = "model.sig"
BESIDE = (SIGNATURE, "champion.json", ".cache", ".git", ".gitattributes", ".gitignore", ".github")
MOST_BYTES = 64 * 2**20  # of a bill or a signature
UNREADABLE = (ValueError, LookupError, TypeError, RecursionError)  # what reading JSON of another form may raise


def sign(folder: Path, key: Path) -> bytes:
    """The signature of all that ``folder`` holds.

    Args:
        key: a private key without a password.

    Raises:
        FineTuneError: the key cannot be used, or model-signing is not installed.
    """
    signing, _, hashing = _library()
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise FineTuneError(
            f"FT_SIGNING_KEY {key} cannot be used ({error}); it names a PEM file with a private key of curve P-256, P-384 or "
            "P-521, without a password: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
        ) from error
    target = folder / SIGNATURE
    config.set_hashing_config(hashing).sign(folder, target)
    content = target.read_bytes()
    target.unlink()
    return content


def public_key(key: Path, target: Path) -> Path:
    """Writes the public half of a private key to ``target``."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    half = load_pem_private_key(key.read_bytes(), None).public_key()
    target.write_bytes(half.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return target


def faults(folder: Path, key: Path | None) -> list[str]:
    """What of a release's folder is not as it was released, a line each; nothing where all is.

    Args:
        key: the public key it must be signed by; None: it is compared with its bill of materials alone.

    Raises:
        FineTuneError: it is no release, or the key cannot be used.
    """
    found = _against_bill(folder)
    if key is None:
        return found
    signature = folder / SIGNATURE
    if not signature.is_file():
        return [*found, f"{SIGNATURE} is missing: the release is not signed"]
    return found + _against_signature(folder, signature, key)


def _against_bill(folder: Path) -> list[str]:
    path = folder / BILL
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        wanted = listed(json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise FineTuneError(f"{folder} holds no {BILL}, so it is no release; name a release's folder") from error
    except UNREADABLE as error:
        return [f"{BILL} cannot be read ({error!r:.100})"]
    return _compared(folder, wanted, {BILL})


def _compared(folder: Path, wanted: Mapping[str, str], known: Collection[str]) -> list[str]:
    """How a folder's files differ from the sha-256 of each that is wanted; those that are ``known`` may be there."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not path.is_dir()]
    there = {name for name in names if _counts(name)}
    found = [f"{name} is missing" for name in sorted(set(wanted) - there)]
    found += [f"{name} is not part of the release" for name in sorted(there - set(wanted) - set(known))]
    changed = [name for name in sorted(there & set(wanted)) if _sha256(folder / name) != wanted[name]]
    return found + [f"{name} was changed" for name in changed]


def _sha256(path: Path) -> str | None:
    """None of what is no file: a pipe would be waited for."""
    return sha256_file(path) if path.is_file() else None


def _counts(name: str) -> bool:
    return name.partition("/")[0] not in BESIDE


def _against_signature(folder: Path, signature: Path, key: Path) -> list[str]:
    _, verifying, hashing = _library()
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (OSError, ValueError, AttributeError) as error:
        raise FineTuneError(f"--key {key} cannot be used ({error}); it names a PEM file with a public key") from error
    if signature.stat().st_size > MOST_BYTES:
        return [f"{SIGNATURE} is no signature ({signature.stat().st_size} bytes)"]
    from cryptography.exceptions import InvalidSignature

    try:
        config.set_hashing_config(hashing).verify(folder, signature)
    except InvalidSignature:
        return [f"{SIGNATURE} was changed, or is of another key"]
    except UNREADABLE as error:
        message = " ".join(str(error).split())
        if message.startswith("Signature mismatch"):  # it is by this key, of other files
            return [f"{SIGNATURE}: {fault}" for fault in _compared(folder, _signed(signature), ())]
        told = "it is of another key" if message.startswith("Key mismatch") else f"it cannot be read ({message[:200]})"
        return [f"{SIGNATURE}: {told}"]
    return []


def _signed(signature: Path) -> dict[str, str]:
    """The sha-256 of each file that a signature names: in-toto's statement, in the envelope of a Sigstore bundle."""
    statement = json.loads(base64.b64decode(json.loads(signature.read_bytes())["dsseEnvelope"]["payload"]))
    return {entry["name"]: entry["digest"] for entry in statement["predicate"]["resources"]}


def _library() -> tuple[Any, Any, Any]:
    """model-signing's modules to sign and to verify, and how it is to hash: every file but those beside a release."""
    try:
        import model_signing
    except ImportError as error:
        raise FineTuneError(
            "model-signing is not installed, which signs releases: pip install 'ft-assets[signing]', or unset FT_SIGNING_KEY"
        ) from error
    # A download into the Hub's cache is a folder of links.
    library: Any = model_signing
    config = library.hashing.Config().set_allow_symlinks(True).set_ignored_paths(paths=BESIDE)
    return library.signing, library.verifying, config
