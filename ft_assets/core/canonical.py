"""Canonical JSON and the fingerprint built on it (the design's section 4)."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# After each piece a thread that hashes waits for Python's lock, 5 ms where another thread computes: longer than it takes to
# hash a small one.
PIECE_BYTES = 16 * 2**20


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, NFC left alone.

    Raises:
        TypeError: for a type without a canonical form (a path, a date, a set), naming where it stands.
        ValueError: for NaN or infinity, which JSON cannot hold.
    """
    _refuse_unknown(value, "$")
    # All that is left for ``default`` are mappings that are no dict, which json cannot write by itself.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=dict)


def _refuse_unknown(value: Any, where: str) -> None:
    if value is None or isinstance(value, (bool, int, str)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}: identity cannot hold a number that is not finite")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where} has a key of type {type(key).__name__}; only text keys have a canonical form")
            _refuse_unknown(inner, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _refuse_unknown(inner, f"{where}[{index}]")
    else:
        raise TypeError(f"{where} is a {type(value).__name__}, which has no canonical form")


def fingerprint(stage: str, code_version: str, identity: Mapping[str, Any], upstream: Mapping[str, str]) -> str:
    """The sha-256 (64 hex digits) of all that defines what a stage makes.

    Args:
        stage: the stage's name.
        code_version: raised by hand when the stage's code makes something else from the same inputs.
        identity: the scientific fields of the recipe that the stage reads.
        upstream: fingerprint of each input, by the input's role.
    """
    body = {"stage": stage, "code_version": code_version, "identity": dict(identity), "upstream": dict(upstream)}
    return hashlib.sha256(canonical_json(body).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """The sha-256 of a file, 64 hex digits, read in pieces of :data:`PIECE_BYTES`."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        piece = memoryview(bytearray(min(PIECE_BYTES, os.fstat(stream.fileno()).st_size) or 1))
        while count := stream.readinto(piece):
            digest.update(piece[:count])
    return digest.hexdigest()
