"""Publishing to a folder or any fsspec URL: files first, then the pointer that makes them the champion.

Layout: ``<url>/<first 16 digits of the fingerprint>/...`` for each release, ``<url>/champion.json`` for the one in use.
A release that was cut short is finished, not repeated: files already there stay, when they have the right size and, in a
folder on this machine, the right hash. (An object store keeps checksums of its own, and reading all back costs a download.)
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ft_assets.core.canonical import sha256_file
from ft_assets.core.errors import FineTuneError

ALLOWED = (".safetensors", ".json", ".jinja", ".txt", ".md", ".html", ".model", ".yaml", ".gguf")


@dataclass(frozen=True)
class PublishedFile:
    """One file of a release: its name and where it comes from (a path) or what it says (bytes)."""

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    @property
    def sha256(self) -> str:
        content = self.content
        return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256_file(content)


def publish(url: str, fingerprint: str, files: list[PublishedFile]) -> None:
    """Writes a release and points ``champion.json`` at it.

    Raises:
        FineTuneError: a file of a kind that could hold a pickle; nothing has been written then.
    """
    for file in files:
        if not file.name.endswith(ALLOWED):
            raise FineTuneError(f"{file.name} may hold a pickle and is not published; allowed: {', '.join(ALLOWED)}")
    fs, root = fsspec.core.url_to_fs(url)
    folder = f"{root}/{fingerprint[:16]}"
    for file in files:
        target = f"{folder}/{file.name}"
        if _is_there(fs, target, file):
            continue
        fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        if isinstance(file.content, bytes):
            fs.pipe_file(f"{target}.partial", file.content)
        else:
            fs.put_file(str(file.content), f"{target}.partial")
        fs.mv(f"{target}.partial", target)
    pointer = json.dumps({"fingerprint": fingerprint, "folder": fingerprint[:16]}).encode()
    fs.pipe_file(f"{root}/champion.json.partial", pointer)
    fs.mv(f"{root}/champion.json.partial", f"{root}/champion.json")


def missing_files(url: str, fingerprint: str, files: list[PublishedFile]) -> list[str]:
    """Names of files that are absent, of another size or, in a folder on this machine, of another content."""
    fs, root = fsspec.core.url_to_fs(url)
    return [file.name for file in files if not _is_there(fs, f"{root}/{fingerprint[:16]}/{file.name}", file)]


def is_champion(url: str, fingerprint: str) -> bool:
    """Whether ``champion.json`` points at this release."""
    fs, root = fsspec.core.url_to_fs(url)
    try:
        return bool(json.loads(fs.cat_file(f"{root}/champion.json"))["fingerprint"] == fingerprint)
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # absent or damaged: it points at nothing
        return False


def _is_there(fs: fsspec.AbstractFileSystem, target: str, file: PublishedFile) -> bool:
    if not fs.exists(target) or fs.size(target) != file.size:
        return False
    return not isinstance(fs, LocalFileSystem) or sha256_file(Path(target)) == file.sha256
