"""What a row is, whatever file and line it stood in: the hash of its content, and that of its content normalized."""

import hashlib
import json
from typing import Any

from ft_assets.core.texts import normal

CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def content_id(row: dict[str, Any]) -> str:
    """A row's identity, 32 hex digits: the hash of its content, whatever file and line it stood in."""
    return _digest(CANONICAL.encode(row)).hex()


def normal_id(row: dict[str, Any]) -> bytes:
    """The hash of a row's content as :func:`normal` reads it: rows with one are repeats of each other."""
    return _digest(repr([(name, _normal_value(row[name])) for name in sorted(row)]))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


def _normal_value(value: Any) -> Any:
    if isinstance(value, str):
        return normal(value)
    if isinstance(value, int):
        return value
    return [normal(one) if isinstance(one, str) else (one["role"], normal(one["content"])) for one in value]
