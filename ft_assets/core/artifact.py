"""Artifacts and the store that holds them: a folder with a ``manifest.json`` is complete, anything else is not.

Commit protocol: files go to a staging folder and are flushed to disk, the manifest (hash and size of each file) is
written last, then the folder is renamed into place. On an object store, which has no rename, each writer uploads its
files below a prefix of its own and the manifest, which names that prefix, last; readers look for the manifest alone, so
they never see files of two writers mixed. Readers verify every file against it.

Layout below the store's root (any fsspec URL)::

    artifacts/<stage>/<fingerprint>/manifest.json, ...   (object store: manifest.json, <attempt>/...)
    refs/<kind>/<key>.json          which fingerprint a name stands for now
    corrupt/<stage>/<fingerprint>/  what failed verification, kept to look at
    .scratch/<fingerprint>/         checkpoints and partial work (always on a local or shared disk)
    .staging/                       what is being written
"""

import json
import math
import os
import shutil
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from ft_assets.core.canonical import sha256_file
from ft_assets.core.durable import sync, write_durably
from ft_assets.core.errors import CorruptArtifact
from ft_assets.core.refs import Refs

MANIFEST = "manifest.json"
STAGING_DAYS = 1  # what a writer left in staging for longer is debris of a killed one
LATE_SECONDS = (
    90.0  # a network volume may show an artifact so much later to others: NFS clients ask again after 60 at most
)


@dataclass(frozen=True)
class Manifest:
    """What an artifact is, what it was made from and what it cost.

    ``files`` gives ``sha256`` and ``bytes`` of each file, and ``at`` where it lies elsewhere below the artifact's folder.
    ``seconds`` is wall-clock time of the making (over all attempts), ``cost_usd`` is that time at the recipe's price.
    """

    stage: str
    fingerprint: str
    code_version: str
    identity: dict[str, Any]
    upstream: dict[str, str]
    files: dict[str, dict[str, Any]]
    metrics: dict[str, Any] = field(default_factory=dict)
    execution: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    cost_usd: float = 0.0
    created_at: float = 0.0

    @property
    def size_bytes(self) -> int:
        return sum(int(entry["bytes"]) for entry in self.files.values())


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: its manifest and the local folder that holds its files."""

    manifest: Manifest
    folder: Path

    def file(self, name: str) -> Path:
        return self.folder / name

    def json(self, name: str) -> Any:
        return json.loads(self.file(name).read_text(encoding="utf-8"))

    def below(self, folder: str) -> list[Path]:
        """Its files below a folder of it, in name order."""
        return [self.file(name) for name in sorted(self.manifest.files) if name.startswith(f"{folder}/")]


class Staging:
    """A folder under construction; ``finish`` says what the manifest will say beside the file hashes."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.linked: dict[str, dict[str, Any]] = {}
        self.metrics: dict[str, Any] = {}
        self.execution: dict[str, Any] = {}
        self.versions: dict[str, str] = {}
        self.seconds_before = 0.0
        self.usd_per_hour = 0.0

    def file(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_json(self, name: str, value: Any) -> None:
        self.file(name).write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")

    def link(self, name: str, artifact: Artifact, file: str) -> None:
        """Takes over a verified file of another artifact: one file on disk under two names, where the disk can do that."""
        source, target = artifact.file(file), self.file(name)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
            return
        entry = artifact.manifest.files[file]
        self.linked[name] = {"sha256": entry["sha256"], "bytes": entry["bytes"]}


class ArtifactStore(Refs):
    """Finds, verifies and commits artifacts under one root.

    Args:
        root: an fsspec URL or a local path.
        local: folder on this machine for staging, scratch and downloads; a local root uses itself.
    """

    # What this process has hashed, in whatever store: path, size, hash and time of change.
    _verified: ClassVar[set[tuple[str, int]]] = set()
    # A file that one thread hashes or fetches, another that wants it waits for.
    _busy: ClassVar[dict[Path, threading.Lock]] = {}

    def __init__(self, root: str, local: Path | None = None):
        super().__init__(root)
        if not self.is_local and local is None:
            raise ValueError(f"a store at {root} needs a local folder for staging and scratch")
        self.local = Path(self.base) if self.is_local else Path(local or "")

    def scratch(self, fingerprint: str) -> Path:
        """Where partial work of this fingerprint lives; it outlives a killed run and goes when the artifact is made."""
        folder = self.local / ".scratch" / fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def has_partial(self, fingerprint: str) -> bool:
        """Whether a run of this fingerprint was cut short and left work to go on from."""
        folder = self.local / ".scratch" / fingerprint
        return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())

    def lookup(self, stage: str, fingerprint: str) -> Manifest | None:
        """The manifest of a finished artifact, or None where there is none."""
        try:
            text = self.fs.cat_file(self._key("artifacts", stage, fingerprint, MANIFEST))
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return Manifest(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise CorruptArtifact(f"{stage} {fingerprint[:12]}: {MANIFEST} cannot be read ({error})") from error

    def manifests(self, stage: str) -> Iterator[Manifest]:
        """Those of every finished artifact of a stage, in the order of their fingerprints."""
        self.fs.invalidate_cache()
        try:
            paths = self.fs.ls(self._key("artifacts", stage), detail=False)
        except FileNotFoundError:
            return
        for path in sorted(paths):
            manifest = self.lookup(stage, os.path.basename(path))
            if manifest is not None:
                yield manifest

    def open(self, stage: str, fingerprint: str, only: Collection[str] | None = None) -> Artifact | None:
        """The artifact with its files on local disk and verified against its manifest; None where there is none.

        Args:
            only: the files that are wanted, all where None.

        Raises:
            CorruptArtifact: a file is missing, cut or changed; names the file.
        """
        manifest = self.lookup(stage, fingerprint)
        if manifest is None:
            return None
        for name in manifest.files if only is None else only:
            self.file(manifest, name)
        return Artifact(manifest, self.local / "artifacts" / stage / fingerprint)

    def file(self, manifest: Manifest, name: str) -> Path:
        """One file of a finished artifact, on local disk and verified.

        Raises:
            CorruptArtifact: it is missing, cut or changed.
        """
        path = self.local / "artifacts" / manifest.stage / manifest.fingerprint / name
        with self._busy.setdefault(path, threading.Lock()):
            self._provide(manifest, name, path)
        return path

    def _provide(self, manifest: Manifest, name: str, path: Path) -> None:
        """Verifies one file on local disk. A copy that is not good is fetched, twice at most, before it is judged."""
        downloads = 0 if self.is_local else 2
        while fault := self._fault(manifest.files[name], path):
            if not downloads:
                raise CorruptArtifact(f"{manifest.stage} {manifest.fingerprint[:12]}: {name} at {path} {fault}")
            downloads -= 1
            self._download(manifest, name, path)

    def _fault(self, entry: dict[str, Any], path: Path) -> str | None:
        if not path.is_file():
            return "is missing"
        stat = path.stat()
        if stat.st_size != entry["bytes"]:
            return f"has {stat.st_size} bytes, the manifest says {entry['bytes']}"
        seen = (f"{path}:{stat.st_size}:{entry['sha256']}", stat.st_mtime_ns)
        if seen not in self._verified:
            found = sha256_file(path)
            if found != entry["sha256"]:
                return f"hashes to {found[:12]}, the manifest says {entry['sha256'][:12]}"
            self._verified.add(seen)
        return None

    def _download(self, manifest: Manifest, name: str, path: Path) -> None:
        at = manifest.files[name].get("at", name)
        remote = self._key("artifacts", manifest.stage, manifest.fingerprint, at)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{uuid.uuid4().hex[:8]}.partial")
        try:
            self.fs.get_file(remote, str(partial))
            os.replace(partial, path)
        except FileNotFoundError as error:
            where = f"{manifest.stage} {manifest.fingerprint[:12]}: {name}"
            raise CorruptArtifact(f"{where} is missing at {remote}") from error
        finally:
            partial.unlink(missing_ok=True)

    def set_aside(self, stage: str, fingerprint: str) -> str:
        """Moves a corrupt artifact out of the way so that it can be made again; returns where it went."""
        target = self._key("corrupt", stage, f"{fingerprint}-{uuid.uuid4().hex[:8]}")
        self.fs.makedirs(os.path.dirname(target), exist_ok=True)
        self.fs.mv(self._key("artifacts", stage, fingerprint), target, recursive=True)
        if not self.is_local:
            shutil.rmtree(self.local / "artifacts" / stage / fingerprint, ignore_errors=True)
        return target

    @contextmanager
    def write(
        self, stage: str, fingerprint: str, *, code_version: str, identity: dict[str, Any], upstream: dict[str, str]
    ) -> Iterator[Staging]:
        """Stages an artifact and commits it when the block ends without an error.

        A second writer of the same fingerprint that finishes later drops its copy: the first stays.
        """
        started = time.monotonic()
        _sweep(self.local / ".staging")
        folder = self.local / ".staging" / f"{fingerprint[:16]}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        staging = Staging(folder)
        try:
            yield staging
            seconds = staging.seconds_before + time.monotonic() - started
            manifest = Manifest(
                stage=stage,
                fingerprint=fingerprint,
                code_version=code_version,
                identity=identity,
                upstream=upstream,
                files=_hash_files(folder, staging.linked),
                metrics=staging.metrics,
                execution=staging.execution,
                versions=staging.versions,
                seconds=round(seconds, 3),
                cost_usd=round(seconds / 3600 * staging.usd_per_hour, 6),
                created_at=time.time(),
            )
            self._commit(folder, manifest)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _commit(self, folder: Path, manifest: Manifest) -> None:
        text = _manifest_text(manifest)
        target = self._key("artifacts", manifest.stage, manifest.fingerprint)
        if self.lookup(manifest.stage, manifest.fingerprint) is not None:
            return
        if self.is_local:
            write_durably(folder / MANIFEST, text)
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(folder, target)
            except OSError:
                # Another writer may have renamed first (then its artifact stands). A folder without a manifest
                # cannot come from this protocol: take it away and try once more.
                if self.lookup(manifest.stage, manifest.fingerprint) is not None:
                    return
                shutil.rmtree(target)
                os.rename(folder, target)
            sync(Path(target).parent)
        else:
            attempt = uuid.uuid4().hex[:8]
            files = {name: {**entry, "at": f"{attempt}/{name}"} for name, entry in manifest.files.items()}
            for name, entry in files.items():
                remote = f"{target}/{entry['at']}"
                self.fs.makedirs(os.path.dirname(remote), exist_ok=True)
                self.fs.put_file(str(folder / name), remote)
            if self.lookup(manifest.stage, manifest.fingerprint) is None:
                self.fs.pipe_file(f"{target}/{MANIFEST}", _manifest_text(replace(manifest, files=files)).encode())
            elif files:
                self.fs.rm(f"{target}/{attempt}", recursive=True)

    def clear_staging(self, fingerprint: str) -> None:
        """Removes what killed writers of this fingerprint left. For one that knows that no other is writing it."""
        for folder in (self.local / ".staging").glob(f"{fingerprint[:16]}-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def clear_scratch(self, fingerprint: str) -> None:
        shutil.rmtree(self.local / ".scratch" / fingerprint, ignore_errors=True)


def _manifest_text(manifest: Manifest) -> str:
    faults = list(_not_finite(asdict(manifest), "manifest"))
    if faults:
        where = f"{manifest.stage} {manifest.fingerprint[:12]}"
        raise ValueError(f"{where}: {', '.join(faults)}; JSON holds finite numbers only")
    return json.dumps(asdict(manifest), ensure_ascii=False, indent=1, allow_nan=False)


def _not_finite(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{where} is {value}"
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, entry in inner:
        yield from _not_finite(entry, f"{where}.{key}")


def _sweep(staging: Path) -> None:
    """Removes folders in which nothing has been written for longer than any writer pauses."""
    oldest = time.time() - STAGING_DAYS * 86_400
    for folder in staging.glob("*"):
        with suppress(FileNotFoundError):  # its writer ended just now
            if max(path.stat().st_mtime for path in [folder, *folder.rglob("*")]) < oldest:
                shutil.rmtree(folder, ignore_errors=True)


def _hash_files(folder: Path, known: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    if gone := [name for name in known if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder}: {', '.join(gone)} went while the artifact was made; make it again")
    files = dict(known)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in known:
            sync(path)
            files[name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    return files
