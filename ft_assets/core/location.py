"""What lies at a source's location: its batches, their files, and a signature that tells when a batch has changed.

A location is a file (one batch), a folder (each file or sub-folder a batch) or a glob (each match a batch), on a disk or
at any fsspec URL. Names of files that are still being written (hidden, ``.tmp``, ``.part``, ``._COPYING_``, ...) never
count. Links may lead to files of the same source only.
"""

import glob
import hashlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import fsspec

from ft_assets.core.canonical import canonical_json
from ft_assets.core.errors import FineTuneError

MAX_BATCHES = 10_000
MAX_FILES = 10_000
MAX_KEY_BYTES = 170  # percent-encoded: with the source's name it is the name of a file in the store
COMPLETE = "_SUCCESS"
TEMPORARY_STARTS = (".", "_", "~")
TEMPORARY_ENDS = (
    "~",
    ".tmp",
    ".temp",
    ".part",
    ".partial",
    ".filepart",
    ".crdownload",
    ".download",
    ".swp",
    "._copying_",
)
FORMAT_ENDS = (".gz", ".jsonl", ".json", ".md", ".txt")
CHANGE_FIELDS = ("mtime", "ETag", "etag", "LastModified", "last_modified", "updated", "blob_id", "created")
# Errors of the clients behind fsspec that are no OSError; they count only where the client has been imported.
CLIENT_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("aiohttp", "ClientError"),
    ("httpx", "HTTPError"),
    ("httpx2", "HTTPError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)


@dataclass(frozen=True)
class File:
    """One file as it is listed: ``changed`` is its modification time, or the tag a store gives each version."""

    path: str
    size: int
    changed: str


@dataclass(frozen=True)
class Found:
    """Batches by key, a file or (None) a folder at a path; and what cannot be one, by path, with the reason."""

    batches: dict[str, tuple[str, File | None]]
    refused: dict[str, str]


@dataclass(frozen=True)
class Files:
    """The files of one batch by their path inside it; ``complete``: its writer has left a ``_SUCCESS`` marker."""

    files: dict[str, File]
    complete: bool

    @property
    def signature(self) -> str:
        """16 hex digits that change with a file's name, size or modification time."""
        body = {name: [file.size, file.changed] for name, file in self.files.items()}
        return hashlib.sha256(canonical_json(body).encode()).hexdigest()[:16]


def access_errors() -> tuple[type[Exception], ...]:
    """What reading a location may raise; :func:`in_words` says it plainly."""
    clients = [getattr(sys.modules[module], name) for module, name in CLIENT_ERRORS if module in sys.modules]
    return (FineTuneError, OSError, ValueError, ImportError, *clients)


def in_words(error: Exception) -> str:
    """An access error in plain words; a network that is not there is named as such."""
    text = str(error) or type(error).__name__
    if isinstance(error, FineTuneError):
        return text
    if isinstance(error, FileNotFoundError):
        return f"not there: {text}"
    network = ("ConnectError", "EndpointConnectionError", "ConnectTimeout", "ClientConnectorError", "NetworkError")
    if isinstance(error, (ConnectionError, TimeoutError)) or type(error).__name__ in network:
        return f"no network, or its server does not answer: {text}. Check the network and offline settings, then retry"
    return text


def is_temporary(name: str) -> bool:
    """Whether a name is that of a file in the making, or hidden."""
    return name.startswith(TEMPORARY_STARTS) or name.lower().endswith(TEMPORARY_ENDS)


def find_batches(url: str) -> Found:
    """The batches at a location now, in key order.

    Raises:
        FineTuneError: it holds more than :data:`MAX_BATCHES`.
        OSError, or another of :func:`access_errors`: it cannot be read.
    """
    fs, root = _open(url)
    fixed = _fixed_part(fs, root)
    entries = _entries(fs, root, is_glob=fixed != root)
    if len(entries) > MAX_BATCHES:
        found = f"{url} holds {len(entries):,} files and folders, {MAX_BATCHES:,} batches are allowed"
        raise FineTuneError(f"{found}; put files that belong together into sub-folders, each a batch")
    source = _source_folder(root)
    claims: dict[str, list[tuple[str, File | None]]] = {}
    refused: dict[str, str] = {}
    for path in sorted(entries):
        try:
            file = _local_file(Path(path), source) if is_local(fs) else _remote_file(path, entries[path])
        except FineTuneError as error:
            refused[path] = str(error)
            continue
        except FileNotFoundError:  # taken away since it was listed
            continue
        key = _batch_key(path.removeprefix(fixed).lstrip("/") if fixed != root else PurePosixPath(path).name)
        if fault := _key_fault(key):
            refused[path] = f"{path!r} cannot name a batch: {fault}; rename it"
        else:
            claims.setdefault(key, []).append((path, file))
    for key, claimed in claims.items():
        if len(claimed) > 1:
            paths = " and ".join(path for path, _ in claimed)
            refused[claimed[0][0]] = f"{paths}, both batch {key!r}; one file for each batch"
    return Found({key: claimed[0] for key, claimed in sorted(claims.items()) if len(claimed) == 1}, refused)


def files_of(url: str, path: str) -> Files:
    """The files of the batch at ``path``, fresh from the disk or server.

    Raises:
        FineTuneError: it holds more than :data:`MAX_FILES`, a link that leads out of the source or in a circle, a
            name that leads out of the batch, or something that is no file; or one goes while it is listed.
        OSError, or another of :func:`access_errors`: it cannot be read.
    """
    fs, root = _open(url)
    found = _local_files(Path(path), _source_folder(root)) if is_local(fs) else _remote_files(fs, path)
    files: dict[str, File] = {}
    complete = False
    for name, file in found:
        complete = complete or name == COMPLETE
        if file.path != path and any(is_temporary(part) for part in name.split("/")):
            continue
        files[name] = file
        if len(files) > MAX_FILES:
            raise FineTuneError(f"{path} holds more than {MAX_FILES:,} files; join them, or make several batches")
    return Files(dict(sorted(files.items())), complete)


def difference(before: Files, after: Files) -> str:
    """What happened to the first file that differs between two listings; empty where none does."""
    for name in sorted({*before.files, *after.files}):
        old, new = before.files.get(name), after.files.get(name)
        if old is None or new is None:
            return f"{name} {'appeared' if old is None else 'disappeared'}"
        if old.size != new.size:
            return f"{name} {'grew' if new.size > old.size else 'shrank'} from {old.size:,} to {new.size:,} bytes"
        if old != new:
            return f"{name} was written again"
    return ""


def is_local(fs: Any) -> bool:
    return "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))


def _open(url: str) -> tuple[Any, str]:
    fs, root = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()  # remote file systems remember listings for as long as the process lives
    return fs, str(root).rstrip("/") or "/"


def _fixed_part(fs: Any, root: str) -> str:
    """The folder before the first wildcard of a glob; the root itself where it is no glob."""
    if not glob.has_magic(root) or (is_local(fs) and os.path.lexists(root)):
        return root
    parts = root.split("/")
    return "/".join(parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])


def _source_folder(root: str) -> Path:
    """The real folder that links of a source on a disk may not leave."""
    if os.path.isdir(root):
        return Path(os.path.realpath(root))
    fixed = Path(root).parent
    while glob.has_magic(str(fixed)) and not fixed.exists():
        fixed = fixed.parent
    return Path(os.path.realpath(fixed))


def _entries(fs: Any, root: str, is_glob: bool) -> dict[str, dict[str, Any]]:
    """What a location lists, by path: without names in the making, and without a bucket's folder markers."""
    if is_local(fs) and not is_glob:
        if not os.path.isdir(root):
            os.stat(root)
            return {root: {}}
        return {f"{root.rstrip('/')}/{name}": {} for name in os.listdir(root) if not is_temporary(name)}
    if is_glob:
        listed = list(fs.glob(root, detail=True).values())
    else:
        about = fs.info(root)
        if about["type"] != "directory":
            return {root: about}
        listed = fs.ls(root, detail=True)
    names = {str(info["name"]).rstrip("/"): info for info in listed}
    names.pop(root, None)  # a bucket's marker of the folder itself
    return {path: info for path, info in names.items() if not is_temporary(PurePosixPath(path).name)}


def _local_file(path: Path, source: Path) -> File | None:
    """The file at a path, or None for a folder."""
    _refuse_link(path, source)
    about = path.stat()
    if stat.S_ISDIR(about.st_mode):
        return None
    if not stat.S_ISREG(about.st_mode):
        raise FineTuneError(f"{path} is neither a file nor a folder; take it out of the source")
    return File(str(path), about.st_size, str(about.st_mtime_ns))


def _refuse_link(path: Path, source: Path) -> None:
    try:
        target = Path(os.path.realpath(path, strict=True))
    except FileNotFoundError as error:
        if path.is_symlink():
            raise FineTuneError(f"{path} links to nothing; take it out of the source") from error
        raise
    except OSError as error:  # ELOOP
        raise FineTuneError(f"{path} is a link that leads in a circle; take it out of the source") from error
    if not target.is_relative_to(source):
        raise FineTuneError(f"{path} links to {target}, outside its source; copy the file into the source instead")
    if path.is_symlink() and target.is_dir():
        raise FineTuneError(f"{path} links to the folder {target}; copy the folder into the source instead")


def _local_files(batch: Path, source: Path) -> Iterator[tuple[str, File]]:
    file = _local_file(batch, source)
    if file is not None:
        yield batch.name, file
        return
    folders = [batch]
    while folders:
        for path in _children(folders.pop()):
            if is_temporary(path.name) and path != batch / COMPLETE:
                continue
            try:
                file = _local_file(path, source)
            except FileNotFoundError as error:
                raise FineTuneError(f"{path} disappeared while its batch was read; retry") from error
            if file is None:
                folders.append(path)
            else:
                yield path.relative_to(batch).as_posix(), file


def _children(folder: Path) -> Iterable[Path]:
    with os.scandir(folder) as entries:
        return [folder / entry.name for entry in entries]


def _remote_file(path: str, info: dict[str, Any]) -> File | None:
    if info["type"] == "directory":
        return None
    changed = " ".join(f"{name}={info[name]}" for name in CHANGE_FIELDS if info.get(name))
    return File(path, int(info.get("size") or 0), changed)


def _remote_files(fs: Any, batch: str) -> Iterator[tuple[str, File]]:
    about = fs.info(batch)
    if about["type"] != "directory":
        file = _remote_file(batch, about)
        assert file is not None, "it is no folder"
        yield PurePosixPath(batch).name, file
        return
    for path, info in fs.find(batch, detail=True).items():
        name = str(path)[len(batch) :].removeprefix("/")
        if not name or name.endswith("/"):  # a bucket's marker of a folder
            continue
        if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in name.split("/")):
            raise FineTuneError(f"{path}: the name {name!r} leads out of its batch, or nowhere; rename it")
        file = _remote_file(str(path), info)
        if file is not None:
            yield name, file


def _batch_key(name: str) -> str:
    for ending in FORMAT_ENDS:
        name = name.removesuffix(ending)
    return name


def _key_fault(key: str) -> str:
    """Why a text can be no partition key and name of a file; empty where it can."""
    if not key.isprintable():
        return "it holds a character that cannot be shown"
    if "..." in key or any(part in ("", ".", "..") for part in key.split("/")):
        return "it is empty or holds dots that mean a path"
    if len(quote(key, safe="@")) > MAX_KEY_BYTES:
        return f"it is longer than {MAX_KEY_BYTES} bytes as part of a URL"
    return ""
