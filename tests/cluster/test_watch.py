"""Watches: what they tell, how they end, and when a version is too old to go on from."""

import json
import socket
import threading
from typing import Any

import pytest
import urllib3
from kubernetes import client, watch
from kubernetes.client import ApiException
from waiting import until

from cluster import Cluster
from cluster.kinds import POD, Object
from cluster.samples import job, pod

SPACE = Cluster.namespace


class Watching:
    """Reads a watch in a thread of its own; ``events`` grows, ``error`` is what it ended with."""

    def __init__(self, call: Any, *args: Any, **given: Any) -> None:
        self.events: list[Object] = []
        self.error: Exception | None = None
        self.over = False
        self._watch = watch.Watch()
        self._thread = threading.Thread(target=self._read, args=(call, args, given), daemon=True)
        self._thread.start()

    def _read(self, call: Any, args: Any, given: Any) -> None:
        try:
            for event in self._watch.stream(call, *args, **given):
                self.events.append(event["raw_object"] | {"event": event["type"]})
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            self.error = error
        self.over = True

    def names(self) -> list[str]:
        return [f"{event['event']} {event['metadata'].get('name')}" for event in self.events]


@pytest.fixture
def core(cluster: Cluster) -> client.CoreV1Api:
    return client.CoreV1Api(cluster.client())


@pytest.fixture
def maps(core: client.CoreV1Api) -> Any:
    """Makes ConfigMaps by name, with one label."""

    def make(name: str, label: str = "1") -> str:
        made = core.create_namespaced_config_map(SPACE, {"metadata": {"name": name, "labels": {"x": label}}})
        return str(made.metadata.resource_version)

    return make


def watching(core: client.CoreV1Api, cluster: Cluster, **given: Any) -> Watching:
    """One that has begun, so that a clock that is moved next moves for it too."""
    before = cluster.server.watches
    made = Watching(core.list_namespaced_config_map, SPACE, timeout_seconds=600, **given)
    until(lambda: cluster.server.watches > before or made.over, 90, "the watch")
    return made


def test_without_a_version_the_present_objects_come_first(cluster: Cluster, core: client.CoreV1Api, maps: Any) -> None:
    maps("a")
    seen = watching(core, cluster)
    maps("b")
    core.patch_namespaced_config_map("a", SPACE, {"data": {"k": "v"}})
    core.delete_namespaced_config_map("b", SPACE)
    until(lambda: len(seen.events) == 4, 90, "four events")
    assert seen.names() == ["ADDED a", "ADDED b", "MODIFIED a", "DELETED b"]
    versions = [int(event["metadata"]["resourceVersion"]) for event in seen.events]
    assert versions == sorted(versions)


def test_from_a_version_only_what_came_later(cluster: Cluster, core: client.CoreV1Api, maps: Any) -> None:
    maps("a")
    listed = core.list_namespaced_config_map(SPACE)
    maps("b")
    seen = watching(core, cluster, resource_version=listed.metadata.resource_version)
    until(lambda: seen.events, 90, "an event")
    assert seen.names() == ["ADDED b"]


def test_what_ceases_to_match_is_deleted_for_that_watch(cluster: Cluster, core: client.CoreV1Api, maps: Any) -> None:
    maps("a")
    seen = watching(core, cluster, label_selector="x=1")
    core.patch_namespaced_config_map("a", SPACE, {"metadata": {"labels": {"x": "2"}}})
    core.patch_namespaced_config_map("a", SPACE, {"metadata": {"labels": {"x": "1"}}})
    until(lambda: len(seen.events) == 3, 90, "three events")
    assert seen.names() == ["ADDED a", "DELETED a", "ADDED a"]


def test_it_ends_after_its_timeout_and_marks_where_it_is(cluster: Cluster, core: client.CoreV1Api, maps: Any) -> None:
    seen = watching(core, cluster, allow_watch_bookmarks=True)
    version = maps("a")
    until(lambda: seen.events, 90, "an event")
    cluster.advance(61)
    until(lambda: len(seen.events) == 2, 90, "a bookmark")
    assert (seen.events[1]["event"], seen.events[1]["metadata"]["resourceVersion"]) == ("BOOKMARK", version)
    assert not seen.over
    cluster.advance(600)
    until(lambda: seen.over, 90, "its end")
    assert seen.error is None


def test_a_version_that_is_too_old_is_an_error_event(cluster: Cluster, core: client.CoreV1Api, maps: Any) -> None:
    old = maps("a")
    seen = watching(core, cluster)
    until(lambda: seen.events, 90, "an event")
    cluster.expire_watches()
    until(lambda: seen.over, 90, "its end")
    assert isinstance(seen.error, ApiException)
    assert seen.error.status == 410
    late = watching(core, cluster, resource_version=old)
    until(lambda: late.over, 90, "its end")
    assert isinstance(late.error, ApiException)
    assert str(late.error.reason).startswith(f"Expired: too old resource version: {old} (")
    maps("b")
    fresh = watching(core, cluster, resource_version=core.list_namespaced_config_map(SPACE).metadata.resource_version)
    maps("c")
    until(lambda: fresh.names() == ["ADDED c"], 90, "only what is new")


def test_the_log_of_changes_is_bounded(core: client.CoreV1Api) -> None:
    with Cluster(history=20) as small:
        api = client.CoreV1Api(small.client())
        old = api.list_namespaced_config_map(SPACE).metadata.resource_version
        for n in range(30):
            api.create_namespaced_config_map(SPACE, {"metadata": {"name": f"m{n}"}})
        late = Watching(api.list_namespaced_config_map, SPACE, resource_version=old, timeout_seconds=5)
        until(lambda: late.over, 90, "its end")
        assert isinstance(late.error, ApiException)
        assert late.error.status == 410
        assert len(small.store.log) == 20


def test_a_watch_can_break_and_be_taken_up_again(cluster: Cluster, core: client.CoreV1Api, maps: Any) -> None:
    seen = watching(core, cluster)
    last = maps("a")
    until(lambda: seen.events, 90, "an event")
    cluster.cut_watches()
    until(lambda: seen.over, 90, "its end")
    assert isinstance(seen.error, urllib3.exceptions.HTTPError)
    maps("b")
    again = watching(core, cluster, resource_version=last)
    until(lambda: again.names() == ["ADDED b"], 90, "what was missed")


def test_a_client_that_goes_ends_its_watch(cluster: Cluster) -> None:
    with socket.create_connection(("127.0.0.1", int(cluster.url.rsplit(":", 1)[1]))) as raw:
        raw.sendall(b"GET /api/v1/pods?watch=true HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: cluster.server.watches == 1, 90, "the watch")
    until(lambda: cluster.server.watches == 0, 90, "its end")


def test_one_object_can_be_watched_by_its_name(cluster: Cluster, core: client.CoreV1Api) -> None:
    core.create_namespaced_pod(SPACE, pod("a"))
    core.create_namespaced_pod(SPACE, pod("b"))
    seen = Watching(core.list_namespaced_pod, SPACE, field_selector="metadata.name=b", timeout_seconds=60)
    until(lambda: seen.events, 90, "an event")
    cluster.delete(POD, "a")
    cluster.delete(POD, "b")
    until(lambda: any(event["event"] == "DELETED" for event in seen.events), 90, "its deletion")
    assert {event["metadata"]["name"] for event in seen.events} == {"b"}


def test_every_event_of_a_job_is_told_in_order(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("n")
    batch = client.BatchV1Api(cluster.client())
    seen = Watching(batch.list_namespaced_job, SPACE, timeout_seconds=60)
    until(lambda: cluster.server.watches == 1, 90, "the watch")
    batch.create_namespaced_job(SPACE, job("a", nodes=2))
    cluster.finish_job("a")
    batch.delete_namespaced_job("a", SPACE, propagation_policy="Foreground")
    until(lambda: seen.events and seen.events[-1]["event"] == "DELETED", 90, "its deletion")
    assert json.dumps(seen.events).count('"event": "ADDED"') == 1
    assert [each["type"] for each in seen.events[-1]["status"]["conditions"]] == ["SuccessCriteriaMet", "Complete"]
