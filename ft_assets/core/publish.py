"""Publishing: a release's files first, then the pointer that makes it the champion.

A :class:`Target` is where releases go. This module has the one that is a folder or any fsspec URL; the Hugging Face Hub's is in
``resources/hub.py``. Layout of a folder: ``<url>/<folder>/...`` for each release, ``<url>/champion.json`` for the one in use,
``<url>/.partial/`` for what is being written. A release that was cut short is finished, not repeated: files already there
stay, when they have the right size and, in a folder on this machine, the right hash. (An object store keeps checksums of its
own, and reading all back costs a download.)
"""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ft_assets.core.canonical import sha256_file
from ft_assets.core.errors import FineTuneError
from ft_assets.core.location import access_errors, in_words
from ft_assets.core.shape import read_safetensors_header

ALLOWED = (".safetensors", ".gguf", ".json", ".jinja", ".txt", ".md", ".html", ".model", ".yaml", ".sig")
GGUF = b"GGUF"  # how such a file begins
FOLDER_DIGITS = 16  # of a release's fingerprint; they name its folder
PARTIAL_DAYS = 1  # what a writer left half-written for longer is debris of a killed one
BLOB_BYTES = 16 * 2**20  # git keeps larger files by their sha-256 (LFS), so that no other hash of them is wanted


class Listed(Protocol):
    """What is known of a release's file: its name in the release, its size in bytes, its sha-256, and of small ones git's
    own hash (``git_blob``, sha-1), None of others.
    """

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    @property
    def git_blob(self) -> str | None: ...


@dataclass(frozen=True)
class PublishedFile:
    """One file of a release: its name and where it comes from (a path) or what it says (bytes)."""

    name: str
    content: Path | bytes

    @cached_property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    @cached_property
    def sha256(self) -> str:
        content = self.content
        return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256_file(content)

    @cached_property
    def git_blob(self) -> str | None:
        if self.size > BLOB_BYTES:
            return None
        content = self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class ListedFile:
    """A file of a release as ``release.json`` lists it; see :class:`Listed`."""

    name: str
    size: int
    sha256: str
    git_blob: str | None


class Target(Protocol):
    """Where releases go. Nothing of a release is seen as the champion before :meth:`write_pointer`, which is atomic."""

    @property
    def url(self) -> str:
        """Which target it is, as a recipe's ``publish.to`` names one."""

    def at(self, folder: str) -> str:
        """Where people find a release."""

    def put(self, folder: str, files: Sequence[PublishedFile], say: Callable[[str], None]) -> None:
        """Writes a release's files; what is there already, and whole, is not written again. ``say`` is told of each step.

        Raises:
            FineTuneError: the place cannot be written; what is there already stays.
        """

    def missing(self, folder: str, files: Iterable[Listed]) -> list[str]:
        """Names of a release's files that are absent or not what they should be."""

    def read_pointer(self) -> dict[str, Any] | None:
        """What :meth:`write_pointer` wrote last; None where nothing, or nothing readable, is there."""

    def write_pointer(self, body: dict[str, Any]) -> None:
        """Makes the release in ``body["folder"]`` the champion, at once; ``body`` also has its whole ``fingerprint``.

        Raises:
            FineTuneError: there is no such release, or the place cannot be written.
        """


def folder_of(fingerprint: str) -> str:
    return fingerprint[:FOLDER_DIGITS]


def pointer_to(fingerprint: str) -> dict[str, Any]:
    return {"fingerprint": fingerprint, "folder": folder_of(fingerprint)}


def is_champion(target: Target, fingerprint: str) -> bool:
    pointer = target.read_pointer()
    return pointer is not None and pointer.get("fingerprint") == fingerprint


def refuse_pickles(files: Iterable[PublishedFile]) -> None:
    """
    Raises:
        FineTuneError: a file of a kind that could hold a pickle, or weights that are not of the format they are named for.
    """
    for file in files:
        if not file.name.endswith(ALLOWED):
            raise FineTuneError(f"{file.name} may hold a pickle and is not published; allowed: {', '.join(ALLOWED)}")
        if isinstance(file.content, Path) and file.name.endswith(".safetensors"):
            read_safetensors_header(file.content)
        elif isinstance(file.content, Path) and file.name.endswith(".gguf"):
            with file.content.open("rb") as stream:
                if stream.read(len(GGUF)) != GGUF:
                    raise FineTuneError(f"{file.name} is no GGUF file and is not published; make the model again")


class FolderTarget:
    """A folder on this machine, or any fsspec URL; see the module's layout.

    Raises:
        FineTuneError: ``url`` is of a kind that nothing installed knows.
    """

    def __init__(self, url: str):
        self._url = url
        with self._reached("cannot be opened"):
            # Without a memory of listings: what another machine writes or damages is seen.
            self.fs, self.root = fsspec.core.url_to_fs(url, use_listings_cache=False)

    @property
    def url(self) -> str:
        return self._url

    def at(self, folder: str) -> str:
        return f"{self._url}/{folder}"

    def put(self, folder: str, files: Sequence[PublishedFile], say: Callable[[str], None]) -> None:
        self._sweep()
        for file in files:
            if self._is_there(folder, file):
                continue
            say(f"writing {file.name} ({file.size / 1e6:.1f} MB)")
            self._write(f"{folder}/{file.name}", file.content)

    def missing(self, folder: str, files: Iterable[Listed]) -> list[str]:
        return [file.name for file in files if not self._is_there(folder, file)]

    def read_pointer(self) -> dict[str, Any] | None:
        with self._reached("champion.json cannot be read"):
            try:
                content = self.fs.cat_file(f"{self.root}/champion.json")
            except FileNotFoundError:
                return None
        try:
            found = json.loads(content)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def write_pointer(self, body: dict[str, Any]) -> None:
        with self._reached(f"release {body['folder']} cannot be read"):
            there = self.fs.exists(f"{self.root}/{body['folder']}/README.md")
        if not there:
            raise FineTuneError(
                f"{self.url} has no release {body['folder']}, so it cannot be the champion; publish it again"
            )
        self._write("champion.json", json.dumps(body).encode())

    def _is_there(self, folder: str, file: Listed) -> bool:
        target, size = f"{self.root}/{folder}/{file.name}", file.size
        with self._reached(f"{folder}/{file.name} cannot be read"):
            if not self.fs.isfile(target) or self.fs.size(target) != size:
                return False
            found = sha256_file(Path(target)) if isinstance(self.fs, LocalFileSystem) else None
        return found is None or found == file.sha256

    def _write(self, name: str, content: Path | bytes) -> None:
        """One file, whole or not at all. Two writers of one file do not meet: each has a name of its own until it is whole."""
        target, partial = f"{self.root}/{name}", f"{self.root}/.partial/{uuid.uuid4().hex}"
        with self._reached(f"{name} cannot be written"):
            self.fs.makedirs(f"{self.root}/.partial", exist_ok=True)
            self.fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            if isinstance(content, bytes):
                self.fs.pipe_file(partial, content)
            else:
                self.fs.put_file(str(content), partial)
            self.fs.mv(partial, target)

    @contextmanager
    def _reached(self, fault: str) -> Iterator[None]:
        """
        Raises:
            FineTuneError: what is done at the place failed; ``fault`` says what that was.
        """
        try:
            yield
        except access_errors() as error:
            raise FineTuneError(
                f"{self._url}: {fault} ({in_words(error)}). What is written stays, and running again goes on from there"
            ) from error

    def _sweep(self) -> None:
        """Removes what killed writers left."""
        oldest = time.time() - PARTIAL_DAYS * 86_400
        with suppress(FileNotFoundError, NotADirectoryError, NotImplementedError):  # none there, or no times kept
            for path in self.fs.ls(f"{self.root}/.partial", detail=False):
                if self.fs.modified(path).timestamp() < oldest:
                    self.fs.rm_file(path)
