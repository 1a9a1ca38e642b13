"""A pod without a shared volume: its request comes from a bucket, and what it says and keeps goes there.

The work itself is done on a local folder (the request's ``store.local``). While it goes on, ``progress.jsonl`` and
``output.log`` are written anew beside the request, and each signed checkpoint to ``.scratch/<fingerprint>/`` below the artifact
store's root, its signature last. A pod that begins with an empty folder takes them from there; the worker verifies each file
against the signature, as it does with its own.

Two pods of one fingerprint do not see each other here, as there is no lock: the first artifact stays.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.errors import FineTuneError
from ft_assets.core.location import access_errors, in_words
from ft_assets.worker.checkpoints import SIGNATURE, step_of

EVERY_SECONDS = 5.0
MOST_BYTES = 4 * 2**20  # of a file that grows; what comes before that stays in the pod
LAST_TRIES = 5
GROWING = ("progress.jsonl", "output.log")


@contextmanager
def mirrored(url: str) -> Iterator[Path]:
    """The request at ``url`` as a local file, beside which the worker reports; a mirror is kept while the block runs.

    Raises:
        FineTuneError: the request or what an earlier pod kept cannot be fetched.
    """
    try:
        mirror = Mirror(url)
        mirror.restore()
    except access_errors() as error:
        raise FineTuneError(f"{url}: {in_words(error)}") from error
    over = threading.Event()
    thread = threading.Thread(target=mirror.keep_up, args=(over,), daemon=True)
    thread.start()
    try:
        yield mirror.folder / "request.json"
    finally:
        over.set()
        thread.join()
        mirror.finish()


class Mirror:
    """One run and stage: its local ``folder`` and ``scratch``, and where both are kept in the bucket."""

    def __init__(self, url: str):
        self.fs, at = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self.remote = at.rpartition("/")[0]
        body = json.loads(self.fs.cat_file(at))
        self.store = ArtifactStore(body["store"]["url"], Path(body["store"]["local"]))
        self.stage, self.fingerprint = body["stage"], body["fingerprint"]
        self.folder = self.store.local.joinpath("runs", *self.remote.split("/")[-2:])
        self.folder.mkdir(parents=True, exist_ok=True)
        body["progress"] = str(self.folder / "progress.jsonl")
        (self.folder / "request.json").write_text(json.dumps(body, indent=1))
        self.scratch = self.store.scratch(self.fingerprint)
        self.kept_scratch = f"{self.store.base.rstrip('/')}/.scratch/{self.fingerprint}"
        self.sizes: dict[str, int] = {}
        self.kept: set[str] = set()

    def restore(self) -> None:
        """Takes what an earlier pod of this run said, and of this fingerprint kept, where there is nothing here."""
        for name in GROWING:
            if not (self.folder / name).exists() and self.fs.exists(f"{self.remote}/{name}"):
                self.fs.get_file(f"{self.remote}/{name}", str(self.folder / name))
        if any(self.scratch.rglob(SIGNATURE)):
            return
        found = {str(path)[len(self.kept_scratch) + 1 :] for path in self.store.fs.find(self.kept_scratch)}
        for signature in sorted(name for name in found if name.endswith(f"/{SIGNATURE}")):
            checkpoint = signature.removesuffix(f"/{SIGNATURE}")
            for name in sorted(each for each in found if each.startswith(f"{checkpoint}/")):
                self._fetch(name)
            self.kept.add(checkpoint)

    def _fetch(self, name: str) -> None:
        path = self.scratch / name
        if ".." in Path(name).parts:
            raise FineTuneError(f"{self.kept_scratch}/{name} leads out of its folder; delete it")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.store.fs.get_file(f"{self.kept_scratch}/{name}", str(path))

    def keep_up(self, over: threading.Event) -> None:
        """Until ``over``. What cannot be written now may be the next time."""
        while not over.wait(EVERY_SECONDS):
            try:
                self.push()
            except access_errors() as error:
                print(f"not kept in the bucket yet: {in_words(error)}", flush=True)

    def finish(self) -> None:
        """Keeps what is there now; of an artifact that is made, no partial work. Where that fails the worker's end stands."""
        for left in reversed(range(LAST_TRIES)):
            try:
                self.push()
                if self.store.lookup(self.stage, self.fingerprint) is not None:
                    self._forget("")
                return
            except access_errors() as error:
                print(f"not kept in the bucket at the end: {in_words(error)}", flush=True)
                time.sleep(1 if left else 0)

    def push(self) -> None:
        for name in GROWING:
            path = self.folder / name
            size = path.stat().st_size if path.is_file() else 0
            if size != self.sizes.get(name, 0):
                self.fs.pipe_file(f"{self.remote}/{name}", _end_of(path))
                self.sizes[name] = size
        for folder in {path.parent.parent for path in self.scratch.rglob(SIGNATURE)}:
            self._push_newest(folder)

    def _push_newest(self, folder: Path) -> None:
        """Keeps the newest checkpoint, with the best one that it refers to and the newest one before it."""
        newest = max((path.parent for path in folder.glob(f"*/{SIGNATURE}")), key=step_of)
        best = json.loads((newest / SIGNATURE).read_text())["best"]
        needed = [newest] if best is None else [newest.with_name(f"checkpoint-{best}"), newest]
        for each in needed:
            if self._name(each) not in self.kept and not self._keep(each):
                return
        of_folder = {self.scratch / name for name in self.kept if (self.scratch / name).parent == folder}
        for gone in sorted(of_folder - set(needed), key=step_of)[:-1]:
            self._forget(self._name(gone))
            self.kept.discard(self._name(gone))

    def _name(self, checkpoint: Path) -> str:
        return checkpoint.relative_to(self.scratch).as_posix()

    def _keep(self, checkpoint: Path) -> bool:
        """Whether it is kept now. It may be rotated away meanwhile: its files are uploaded under names of our own."""
        own = self.store.local / ".mirrored"
        shutil.rmtree(own, ignore_errors=True)
        try:
            files = [*json.loads((checkpoint / SIGNATURE).read_text())["files"], SIGNATURE]
            for file in files:
                (own / file).parent.mkdir(parents=True, exist_ok=True)
                os.link(checkpoint / file, own / file)
        except FileNotFoundError:
            return False
        for file in files:
            self.store.fs.put_file(str(own / file), f"{self.kept_scratch}/{self._name(checkpoint)}/{file}")
        self.kept.add(self._name(checkpoint))
        shutil.rmtree(own)
        return True

    def _forget(self, name: str) -> None:
        remote = f"{self.kept_scratch}/{name}".rstrip("/")
        if self.store.fs.exists(remote):
            self.store.fs.rm(remote, recursive=True)


def _end_of(path: Path) -> bytes:
    """A file's last bytes, from the beginning of a line."""
    with path.open("rb") as stream:
        skipped = max(0, path.stat().st_size - MOST_BYTES)
        stream.seek(skipped)
        if skipped:
            stream.readline()
        return stream.read(MOST_BYTES)
