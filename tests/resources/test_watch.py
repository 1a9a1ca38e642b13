"""What the shared watch holds of what it hears, whatever the order."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from waiting import until

from resources.kubernetes.client import RealClock
from resources.kubernetes.watch import Watch


class Silent:
    """An API that is never asked."""

    class clock:
        monotonic = staticmethod(lambda: 0.0)


def job(version: int, **meta: Any) -> dict[str, Any]:
    return {"metadata": {"name": "ft-x", "uid": "j", "resourceVersion": str(version), **meta}, "spec": {}, "status": {}}


def pod(version: int, uid: str = "p", **meta: Any) -> dict[str, Any]:
    labels = {"batch.kubernetes.io/job-name": "ft-x"}
    about = {
        "name": uid,
        "uid": uid,
        "resourceVersion": str(version),
        "labels": labels,
        "managedFields": ["long"],
        **meta,
    }
    return {"metadata": about, "spec": {"nodeName": "a", "containers": ["long"]}, "status": {"phase": "Running"}}


@pytest.fixture
def watch() -> Watch:
    """One that follows ft-x without streams."""
    made = Watch(Silent())  # type: ignore[arg-type]
    made._start = lambda: [event.set() for event in made.live.values()]  # type: ignore[method-assign]
    made.api.clock.wait = lambda event, _: event.is_set()  # type: ignore[method-assign]
    return made


def test_an_older_word_does_not_undo_a_newer_one(watch: Watch) -> None:
    with watch.following("ft-x") as entry:
        watch.take("jobs", "MODIFIED", job(7, labels={"new": "yes"}))
        watch.take("jobs", "ADDED", job(5))
        assert entry.job == job(7, labels={"new": "yes"})
        watch.take("jobs", "DELETED", job(9))
        watch.take("jobs", "ADDED", job(5))
        assert (entry.job, entry.seen) == (None, True)
        watch.take("jobs", "ADDED", job(12))
        assert entry.job == job(12)


def test_a_pod_that_is_gone_stays_as_it_was_last_seen_and_small(watch: Watch) -> None:
    with watch.following("ft-x") as entry:
        watch.take("pods", "ADDED", pod(3))
        watch.take("pods", "DELETED", pod(4, deletionTimestamp="x"))
        watch.take("pods", "ADDED", pod(3))
        [seen] = entry.pods.values()
        assert (seen["gone"], seen["status"], seen["ending_since"]) == (True, {"phase": "Running"}, 0.0)
        assert seen["spec"] == {"nodeName": "a"}
        assert "managedFields" not in seen["metadata"]


def test_a_list_tells_what_is_gone_but_not_of_what_is_newer(watch: Watch) -> None:
    with watch.following("ft-x") as entry:
        watch.take("jobs", "ADDED", job(5))
        watch.take("pods", "ADDED", pod(6, "old"))
        watch.take("pods", "ADDED", pod(20, "new"))
        watch._replace("pods", [], "10")
        assert {uid: seen["gone"] for uid, seen in entry.pods.items()} == {"old": True, "new": False}
        watch._replace("jobs", [], "4")
        assert entry.job is not None
        watch._replace("jobs", [], "10")
        assert entry.job is None


def test_nothing_is_kept_of_what_nobody_follows(watch: Watch) -> None:
    with watch.following("ft-x") as entry:
        watch.take("jobs", "ADDED", job(5))
    watch.take("jobs", "MODIFIED", job(6))
    assert entry.job == job(5)
    assert watch.followed == {}


def test_a_change_wakes_who_follows(watch: Watch) -> None:
    with watch.following("ft-x") as one, watch.following("ft-x") as two, watch.following("other") as other:
        watch.take("pods", "ADDED", pod(3))
        assert [entry.changed.is_set() for entry in (one, two, other)] == [True, True, False]


class Breaking(Silent):
    """Whose first list is not what the stream can read."""

    def __init__(self) -> None:
        self.clock = RealClock()  # type: ignore[assignment]
        self.lists: dict[str, int] = {"jobs": 0, "pods": 0}
        self.over = threading.Event()

    def list(self, kind: str, *_: Any, **__: Any) -> tuple[list[Any], str]:
        self.lists[kind] += 1
        if self.lists[kind] == 1:
            raise KeyError("metadata")
        return ([job(7)] if kind == "jobs" else []), "9"

    def watch(self, *_: Any) -> Iterator[Any]:
        self.over.wait(20)
        yield from ()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_stream_that_broke_for_whatever_reason_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resources.kubernetes.watch.FIRST_LIST_SECONDS", 0.0)
    api = Breaking()
    made = Watch(api)  # type: ignore[arg-type]
    with made.following("ft-x") as entry:
        until(lambda: not any(thread.is_alive() for thread in list(made.threads.values())), 90, "the break")
        made.check()
        assert made.steady_seconds() < 0 or entry.seen
        until(lambda: entry.seen and made.steady_seconds() >= 0, 90, "the Job")
    api.over.set()
