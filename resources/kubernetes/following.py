"""From a request to its artifact through one Job after another: created or taken up, followed, explained, started again."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError

from ft_assets.core.artifact import LATE_SECONDS, ArtifactStore
from ft_assets.core.errors import WorkerFailed
from ft_assets.core.location import access_errors
from resources.kubernetes.client import AWAY_SECONDS, Api, ClusterAway, ClusterRefused, away_text
from resources.kubernetes.creating import (
    ATTEMPT,
    OPEN,
    RUN,
    TAKEN_BY,
    create,
    delete,
    finished,
    memory_of,
    running,
    take_over,
)
from resources.kubernetes.explain import RESUMABLE, Manifest, State, Verdict, Wait, explain
from resources.kubernetes.objects import Workload
from resources.kubernetes.watch import Followed, Watch
from resources.launching import TAIL_LINES, PrintedLog, ProgressWords, bytes_said, failure_text, silent_text

POLL_SECONDS = 2.0
LOOK_SECONDS = 15.0
FIRST_EVENTS_SECONDS, LONGEST_EVENTS_SECONDS = 5.0, 300.0
KEPT_LOG_LINES = 2000
MOST_KEPT_LOGS = 16
LOG_SECONDS = 30.0
LAST_WORDS_POLLS = 10
MEMORY_FACTOR = 1.5
GOING_ON = (State.QUEUED, State.WAITING, State.RUNNING)
NOT_YET = Verdict(State.WAITING, "its JobSet has not made its Job yet", Wait.START)


@dataclass(frozen=True)
class Bounds:
    """Longest waits in seconds: to be scheduled, for an image, to start, in a queue; without a word; to end."""

    pending: float
    image: float
    start: float
    queue: float
    silent: float
    grace: float

    def of(self, wait: Wait) -> tuple[float, str]:
        return {
            Wait.SCHEDULE: (self.pending, "pending_seconds"),
            Wait.IMAGE: (self.image, "image_seconds"),
            Wait.START: (self.start, "start_seconds"),
            Wait.QUEUE: (self.queue, "active_deadline_seconds"),
        }[wait]


class Materialization:
    """One request of one step. ``make`` gives the pods of an attempt, with more memory where it is told to."""

    def __init__(
        self,
        api: Api,
        watch: Watch,
        context: dg.AssetExecutionContext,
        make: Callable[..., Workload],
        request: dict[str, Any],
        folder: Path,
        bounds: Bounds,
    ):
        self.api, self.watch, self.context, self.make = api, watch, context, make
        self.request, self.folder, self.bounds = request, folder, bounds

    def run(self) -> Path:
        """The folder with the worker's files.

        Raises:
            WorkerFailed: it ended without its artifact, or was ended; says why and what to do.
            ClusterAway, ClusterRefused: the API server does not answer, or says no; a Job that runs goes on.
        """
        found, load = self._found()
        left = load.settings.preemptions or 0
        while True:
            verdict, folder = self._one(load, found)
            if verdict.state is State.SUCCEEDED:
                self._until_seen()
                return folder
            if verdict.state is State.DELETED and self._made():
                self.context.log.info(f"{load.stage}: its Job is gone, and its artifact is there")
                return folder
            attempt = int(load.labels[ATTEMPT]) + 1
            others = folder != self.folder
            if (verdict.state in RESUMABLE or (others and verdict.state is State.DELETED)) and left > 0:
                left -= 1
                self.context.log.warning(
                    f"{verdict.sentence}. Started again from its last checkpoint; {left} more such starts are allowed"
                )
                if others:
                    found, load = self._found()
                    continue
                load = replace(self.make(attempt=attempt), memory_bytes=load.memory_bytes)
            elif verdict.state is State.OOM and (larger := self._larger(load, attempt)) is not None:
                self.context.log.warning(
                    f"{verdict.sentence}. Once more with {larger.memory_bytes / 2**30:.1f} GiB (replan_on_oom)"
                )
                load = larger
            else:
                raise WorkerFailed(self._failure(verdict, load, folder))
            found = None

    def _made(self) -> bool:
        store = self.request["store"]
        artifacts = ArtifactStore(store["url"], Path(store["local"]))
        try:
            return artifacts.lookup(self.request["stage"], self.request["fingerprint"]) is not None
        except access_errors():
            return False

    def _until_seen(self) -> None:
        """A network volume may show here, some time after the pod has ended, what the pod wrote; or it wrote nothing."""
        clock, never = self.api.clock, threading.Event()
        until = clock.monotonic() + LATE_SECONDS
        while not self._made() and clock.monotonic() < until:
            clock.wait(never, POLL_SECONDS)

    def _found(self) -> tuple[Manifest | None, Workload]:
        """The Job that runs for this request, whoever started it, or None; and the workload it is of, or else the next."""
        load = self.make(attempt=0)
        jobs = running(self.api, load)
        own = [int(job["metadata"]["labels"][ATTEMPT]) for job in jobs if self._own(job)]
        found = jobs[0] if jobs and not finished(jobs[0]) else None
        if found is not None and self._own(found):
            load = self.make(attempt=int(found["metadata"]["labels"][ATTEMPT]))
            return found, replace(load, memory_bytes=max(load.memory_bytes, memory_of(found)))
        return found, self.make(attempt=max(own) + 1) if own else load

    def _own(self, job: Manifest) -> bool:
        return bool(job["metadata"]["labels"][RUN] == self.context.run_id)

    def _larger(self, load: Workload, attempt: int) -> Workload | None:
        """The same with more memory, once, where the settings allow it and its node has more."""
        larger = self.make(attempt=attempt, memory_factor=MEMORY_FACTOR)
        allowed = bool(load.settings.replan_on_oom) and larger.memory_bytes > load.memory_bytes
        return larger if allowed else None

    def _one(self, load: Workload, found: Manifest | None) -> tuple[Verdict, Path]:
        """Follows one Job to its end; the folder is that of the run which started it."""
        name = found["metadata"]["name"] if found is not None else load.job
        folder = self.folder
        if found is not None and not self._own(found):
            folder = self.folder.parent.parent / found["metadata"]["labels"][RUN] / self.folder.name
        ended = False
        with self.watch.following(name) as entry:
            try:
                if found is None:
                    create(self.api, self.watch, entry, load, self.bounds, self.context.log.info)
                else:
                    self.context.log.info(f"takes up Job {name}, which runs already")
                    take_over(self.api, self.watch, entry, found, load, self.context.run_id)
                verdict = self._follow(entry, folder)
                ended = True
            finally:
                if not ended:
                    self._leave(entry, load)
            self._keep_logs(entry, verdict, folder)
            if verdict.state is State.LOST or not finished(entry.job):
                delete(self.api, entry, load)
            return verdict, folder

    def _follow(self, entry: Followed, folder: Path) -> Verdict:
        """The verdict that ends a Job: its own end, or a wait that was too long (then with what was waited for)."""
        clock, log = self.api.clock, PrintedLog(folder)
        words, events, patience = ProgressWords(folder, clock.monotonic), Events(self), Patience(self.bounds)
        said, began = "", clock.monotonic()
        looked = began - LOOK_SECONDS
        while True:
            entry.changed.clear()
            now = clock.monotonic()
            verdict = self._verdict(entry, events.found)
            if verdict.state not in GOING_ON:
                log.show()
                return verdict if verdict.state is State.SUCCEEDED else self._last_verdict(entry, events.found)
            if verdict.sentence != said:
                said = verdict.sentence
                self.context.log.info(f"{entry.name}: {said}")
            if verdict.look:
                events.look(entry, verdict, now)
            if now - looked >= LOOK_SECONDS:
                looked = now
                log.show()
                self._check_away(entry, now - began)
                if self.cancelled():
                    raise DagsterExecutionInterruptedError
            late = patience.over(verdict, now, bytes_said(folder) if verdict.state is State.RUNNING else 0, folder)
            if late is not None:
                return late
            words.say(self.context)
            clock.wait(entry.changed, POLL_SECONDS)

    def _verdict(self, entry: Followed, events: list[Manifest]) -> Verdict:
        if not entry.seen:
            return NOT_YET
        pods = list(entry.pods.values())
        return explain(entry.job, pods, events, self.api.clock.monotonic(), self.watch.steady_seconds())

    def _last_verdict(self, entry: Followed, events: list[Manifest]) -> Verdict:
        """Once more with the pods as they are: a Job may be heard to have failed before its pods are."""
        with suppress(ClusterRefused, ClusterAway):
            self.watch.look_at_pods(entry, LOG_SECONDS)
        verdict = self._verdict(entry, events)
        for _ in range(LAST_WORDS_POLLS):
            if not verdict.look:
                break
            entry.changed.clear()
            self.api.clock.wait(entry.changed, POLL_SECONDS)
            verdict = self._verdict(entry, events)
        return verdict

    def _check_away(self, entry: Followed, followed_seconds: float) -> None:
        self.watch.check()
        seconds, why = self.watch.away_seconds()
        if min(seconds, followed_seconds) >= AWAY_SECONDS:
            text = away_text(self.api.server, "has not answered", seconds, why)
            raise ClusterAway(f"{text}. Job {entry.name} is left as it is; run again to take it up")

    def cancelled(self) -> bool:
        return self._status(self.context.run_id) in ("CANCELING", "CANCELED")

    def _status(self, run_id: str) -> str:
        """A run's, as Dagster names it; nothing where it knows no such run."""
        run = self.context.instance.get_run_by_id(run_id)
        return run.status.value if run is not None else ""

    def _leave(self, entry: Followed, load: Workload) -> None:
        """Of a step that was interrupted: a Job that no run wants any more goes; any other runs on."""
        labels = entry.job["metadata"]["labels"] if entry.job is not None else {}
        others = {labels[name] for name in (RUN, TAKEN_BY) if name in labels} - {self.context.run_id}
        if self.cancelled() and not any(self._status(run) in OPEN for run in others):
            self.context.log.info(f"the run was cancelled: Job {entry.name} is deleted")
            delete(self.api, entry, load, self.bounds.grace)
        elif entry.job is not None:
            self.context.log.info(f"Job {entry.name} is left running; run again to take it up, or `ft deploy sweep`")

    def _keep_logs(self, entry: Followed, verdict: Verdict, folder: Path) -> None:
        """What failed pods printed, beside the worker's own log: they go with their Job."""
        if verdict.state not in (State.FAILED, State.OOM, State.STOPPED):
            return
        failed = [pod for pod in entry.pods.values() if pod["status"].get("phase") == "Failed" and not pod["gone"]]
        with suppress(ClusterRefused, ClusterAway, OSError):
            for pod in failed[:MOST_KEPT_LOGS]:
                name = pod["metadata"]["name"]
                if text := self.api.log(name, KEPT_LOG_LINES, LOG_SECONDS):
                    (folder / f"{name}.log").write_text(text)

    def _failure(self, verdict: Verdict, load: Workload, folder: Path) -> str:
        ended = f"{self.request['stage']}: {verdict.sentence}"
        text = [failure_text(self.request, ended, verdict.killed or verdict.state is State.OOM, folder)]
        kept = folder / f"{verdict.pod}.log"
        lines = verdict.lines.splitlines()
        if not lines and verdict.pod and kept.is_file():
            lines = kept.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        if lines:
            text += [f"The last words of pod {verdict.pod}:", *lines]
        if verdict.state in RESUMABLE:
            text.append(f"It was started again {load.settings.preemptions} times (preemptions); run again to resume")
        if verdict.state is State.DELETED:
            text.append("Run again to resume from its last checkpoint")
        return "\n".join(text)


class Events:
    """The events that may tell what a Job waits for, asked for ever more rarely while it waits."""

    def __init__(self, owner: Materialization):
        self.owner = owner
        self.found: list[Manifest] = []
        self.about, self.due, self.pause = "", 0.0, FIRST_EVENTS_SECONDS

    def look(self, entry: Followed, verdict: Verdict, now: float) -> None:
        about = next((pod for pod in entry.pods.values() if pod["metadata"]["name"] == verdict.pod), entry.job)
        if about is None:
            return
        uid = about["metadata"]["uid"]
        if uid != self.about:
            self.about, self.pause = uid, FIRST_EVENTS_SECONDS
            self.due = now + self.pause
        if now < self.due:
            return
        self.pause = min(LONGEST_EVENTS_SECONDS, self.pause * 2)
        self.due = now + self.pause
        try:
            self.found, _ = self.owner.api.list("events", fields=f"involvedObject.uid={uid}", away_seconds=0)
            entry.changed.set()
        except ClusterAway:
            return
        except ClusterRefused as error:
            self.owner.context.log.warning(f"what the pods wait for cannot be looked up: {error}")
            self.due = float("inf")


class Patience:
    """How long the present wait, or silence, has lasted."""

    def __init__(self, bounds: Bounds):
        self.bounds = bounds
        self.wait: Wait | None = None
        self.since = self.spoke = float("-inf")
        self.said = -1

    def over(self, verdict: Verdict, now: float, said: int, folder: Path) -> Verdict | None:
        """The verdict that ends it, once it has lasted too long."""
        if verdict.wait is not self.wait:
            self.wait, self.since = verdict.wait, now
        if verdict.state is not State.RUNNING or said != self.said:
            self.said, self.spoke = said, now
        if verdict.wait is None:
            if now - self.spoke < self.bounds.silent:
                return None
            return replace(verdict, state=State.FAILED, sentence=silent_text(self.bounds.silent, folder))
        bound, name = self.bounds.of(verdict.wait)
        if now - self.since < bound:
            return None
        text = f"{verdict.sentence}. It has waited {bound:.0f} s ({name}), so its Job was deleted"
        return replace(verdict, state=State.FAILED, sentence=text)
