"""One watch of a namespace for all that a process waits for: its Jobs and their pods, by who manages them.

Two streams, one of Jobs and one of Pods, go on from version to version; each change wakes whoever follows that Job. What
nobody follows is not kept. However many Jobs there are, the API server has two requests open.
"""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from resources.kubernetes.client import AWAY_SECONDS, LONGEST_PAUSE_SECONDS, Api, ClusterAway, ClusterRefused, Expired
from resources.kubernetes.objects import JOB_NAME_LABEL, MANAGED_BY

Manifest = dict[str, Any]

SELECTOR = ",".join(f"{name}={value}" for name, value in MANAGED_BY.items())
FIRST_PAUSE_SECONDS = 1.0
FIRST_LIST_SECONDS = 10.0


@dataclass
class Followed:
    """A Job and its pods as last seen; ``changed`` is set with each change. Pods that are gone stay, marked ``gone``."""

    name: str
    job: Manifest | None = None
    seen: bool = False  # the Job has been there; where it is None now, it is gone
    version: int = 0  # of what was last heard of the Job
    pods: dict[str, Manifest] = field(default_factory=dict)
    changed: threading.Event = field(default_factory=threading.Event)


class Watch:
    """Safe to share between threads. Its streams run, in threads of their own, while a Job is followed."""

    def __init__(self, api: Api):
        self.api = api
        self.lock = threading.RLock()
        self.followed: dict[str, list[Followed]] = {}
        self.threads: dict[str, threading.Thread] = {}
        self.live = {"jobs": threading.Event(), "pods": threading.Event()}
        self.away_since: dict[str, tuple[float, str]] = {}
        self.steady_since = api.clock.monotonic()
        self.refused: ClusterRefused | None = None
        self.stopped = threading.Event()

    @contextmanager
    def following(self, job: str) -> Iterator[Followed]:
        """From before it is created, so that nothing is missed."""
        entry = Followed(job)
        with self.lock:
            self.followed.setdefault(job, []).append(entry)
            self.refused = None
            self._start()
        try:
            for begun in self.live.values():
                self.api.clock.wait(begun, FIRST_LIST_SECONDS)
            yield entry
        finally:
            with self.lock:
                self.followed[job].remove(entry)
                if not self.followed[job]:
                    del self.followed[job]

    def adopt(self, entry: Followed, job: Manifest) -> None:
        """A Job that was there before it was followed, with the pods that it has already."""
        self.take("jobs", "ADDED", job)
        self.look_at_pods(entry)

    def look_at_pods(self, entry: Followed, away_seconds: float = AWAY_SECONDS) -> None:
        """The pods of a Job as they are now; the stream of Pods may be behind that of Jobs."""
        pods, _ = self.api.list("pods", f"{JOB_NAME_LABEL}={entry.name}", away_seconds=away_seconds)
        for pod in pods:
            self.take("pods", "ADDED", pod)

    def steady_seconds(self) -> float:
        """For how long all streams have come through without a break."""
        with self.lock:
            return -1.0 if self.away_since else self.api.clock.monotonic() - self.steady_since

    def away_seconds(self) -> tuple[float, str]:
        """For how long a stream has not come through, and why; 0 when all do."""
        with self.lock:
            if not self.away_since:
                return 0.0, ""
            since, why = min(self.away_since.values())
            return self.api.clock.monotonic() - since, why

    def check(self) -> None:
        """Raises ClusterRefused where a stream may not be had; begins one anew that has broken unforeseen."""
        if self.refused is not None:
            raise self.refused
        with self.lock:
            self._start()

    def take(self, kind: str, type_: str, made: Manifest) -> None:
        """What a stream says of an object; what is older than what is known says nothing."""
        name = (
            made["metadata"]["name"] if kind == "jobs" else (made["metadata"].get("labels") or {}).get(JOB_NAME_LABEL)
        )
        with self.lock:
            for entry in self.followed.get(str(name), []):
                if kind == "jobs":
                    self._take_job(entry, type_, made)
                else:
                    known = entry.pods.get(made["metadata"]["uid"])
                    if known is None or not _older(made, known):
                        entry.pods[made["metadata"]["uid"]] = self._slim(made, known or {}, type_ == "DELETED")
                        entry.changed.set()

    def _slim(self, pod: Manifest, known: Manifest, gone: bool) -> Manifest:
        """What is looked at of a pod, so that many fit in little memory; and since when it has been seen to end."""
        meta = {name: value for name, value in pod["metadata"].items() if name not in ("managedFields", "annotations")}
        slim: Manifest = {"metadata": meta, "spec": {"nodeName": pod.get("spec", {}).get("nodeName", "")}}
        slim |= {"status": pod.get("status", {}), "gone": gone or bool(known.get("gone"))}
        if "deletionTimestamp" in meta:
            slim["ending_since"] = known.get("ending_since", self.api.clock.monotonic())
        return slim

    def _take_job(self, entry: Followed, type_: str, made: Manifest) -> None:
        version = _version(made["metadata"])
        if version < entry.version:  # the answer to a create, say, after its Job has been heard to be gone
            return
        entry.job, entry.seen, entry.version = (None if type_ == "DELETED" else made), True, version
        entry.changed.set()

    def _start(self) -> None:
        for kind in ("jobs", "pods"):
            broken = kind in self.threads and not self.threads[kind].is_alive()
            if broken:
                self.away_since.setdefault(kind, (self.api.clock.monotonic(), f"the {self.threads[kind].name} broke"))
            if broken or kind not in self.threads:
                thread = threading.Thread(target=self._stream, args=(kind,), name=f"watch of {kind}", daemon=True)
                self.threads[kind] = thread
                thread.start()

    def _wanted(self, kind: str) -> bool:
        """Whether anything is followed; where not, the stream's thread is struck off, and ends."""
        with self.lock:
            if self.followed and self.refused is None:
                return True
            self.threads.pop(kind, None)
            self.live[kind].clear()
            self.away_since.pop(kind, None)
            return False

    def _stream(self, kind: str) -> None:
        version, pause = "", FIRST_PAUSE_SECONDS
        while self._wanted(kind):
            try:
                if not version:
                    items, version = self.api.list(kind, SELECTOR, away_seconds=0)
                    self._replace(kind, items, version)
                began = self.api.clock.monotonic()
                version = self._follow(kind, version)
                if self.api.clock.monotonic() - began < FIRST_PAUSE_SECONDS:  # a proxy that lets none live, say
                    self.api.clock.wait(self.stopped, pause)
                    pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
                else:
                    pause = FIRST_PAUSE_SECONDS
            except Expired:
                version = ""
            except ClusterRefused as error:
                with self.lock:
                    self.refused = error
                self._wake_all(kind)
            except ClusterAway as error:
                with self.lock:
                    self.away_since.setdefault(kind, (self.api.clock.monotonic(), str(error)))
                self._wake_all(kind)
                self.api.clock.wait(self.stopped, pause)
                pause = min(LONGEST_PAUSE_SECONDS, pause * 2)

    def _follow(self, kind: str, version: str) -> str:
        """Takes in what a stream says until it ends; the version after it."""
        with closing(self.api.watch(kind, SELECTOR, version)) as opened:
            for event in opened:
                self._through(kind)
                if event["type"] != "BOOKMARK":
                    self.take(kind, event["type"], event["object"])
                version = event["object"]["metadata"]["resourceVersion"]
                if not self.followed:
                    break
        self._through(kind)
        return version

    def _through(self, kind: str) -> None:
        with self.lock:
            if self.away_since.pop(kind, None) is not None:
                self.steady_since = self.api.clock.monotonic()

    def _replace(self, kind: str, items: list[Manifest], version: str) -> None:
        """A list says of what is not in it that it is gone, unless it is newer than the list."""
        self._through(kind)
        with self.lock:
            there = {made["metadata"]["uid"] for made in items}
            entries = [entry for group in self.followed.values() for entry in group]
            for entry in entries:
                known = list(entry.pods.values()) if kind == "pods" else [entry.job] if entry.job is not None else []
                for made in known:
                    if made["metadata"]["uid"] not in there and not _newer(made, version):
                        self.take(kind, "DELETED", made)
        for made in items:
            self.take(kind, "ADDED", made)
        self.live[kind].set()

    def _wake_all(self, kind: str) -> None:
        self.live[kind].set()  # nobody need wait for its first list
        with self.lock:
            for group in self.followed.values():
                for entry in group:
                    entry.changed.set()


def _older(made: Manifest, known: Manifest) -> bool:
    return _version(made["metadata"]) < _version(known["metadata"])


def _newer(made: Manifest, version: str) -> bool:
    return _version(made["metadata"]) > _version({"resourceVersion": version})


def _version(metadata: Manifest) -> int:
    """Versions of one kind are whole numbers that grow (KEP-5504); one that is not compares as the oldest."""
    text = str(metadata.get("resourceVersion", ""))
    return int(text) if text.isascii() and text.isdigit() else 0
