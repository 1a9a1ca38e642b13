"""The API server: busy, broken, away, forgetful, or unwilling."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from cluster.kinds import JOB, SERVICE
from following import OTHER_RUN, Site, site
from waiting import until

from resources.kubernetes.client import ClusterAway


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with site(tmp_path, monkeypatch) as found:
        yield found


@pytest.mark.parametrize("status", [429, 500, 503, 504])
def test_a_server_that_is_busy_or_broken_is_asked_again(here: Site, status: int) -> None:
    here.cluster.faults.fail(3, status, "create", "jobs")
    here.cluster.faults.fail(2, status, "list")
    here.cluster.faults.fail(2, status, "watch")
    step = here.start()
    here.running()
    here.cluster.finish_job(here.job())
    step.ends_well()
    assert len(here.jobs()) == 1


def test_a_server_that_says_when_to_come_back_is_left_alone_until_then(here: Site) -> None:
    here.cluster.faults.fail(1, 429, "create", "jobs", retry_after=300)
    step = here.start()
    until(lambda: here.cluster.requests.get(("create", "jobs")), 90, "the first try")
    refused = here.cluster.clock.now
    until(lambda: here.cluster.advance(5) or here.jobs(), 90, "the second try")
    assert here.cluster.clock.now - refused > 295
    assert here.cluster.requests[("create", "jobs")] == 2
    here.running()
    here.cluster.finish_job(here.job())
    step.ends_well()


def test_a_server_that_says_to_come_back_tomorrow_is_asked_before_it_is_given_up(here: Site) -> None:
    here.cluster.faults.fail(1, 429, "create", "jobs", retry_after=86_400)
    step = here.start()
    until(lambda: here.cluster.requests.get(("create", "jobs")), 90, "the first try")
    refused = here.cluster.clock.now
    until(lambda: here.cluster.advance(50) or here.jobs() or here.cluster.clock.now > refused + 2000, 90, "a try")
    assert here.jobs() != []
    here.running()
    here.cluster.finish_job(here.job())
    step.ends_well()


@pytest.mark.parametrize("resource", ["jobs", "services"])
def test_what_was_created_although_the_answer_was_lost_is_adopted(here: Site, resource: str) -> None:
    here.cluster.faults.lose_answers(1, "create", resource)
    step = here.start()
    here.running()
    here.cluster.finish_job(here.job())
    step.ends_well()
    assert len(here.jobs()) == 1
    assert len(here.cluster.all(SERVICE)) == 1


@pytest.mark.parametrize("resource", ["jobs", "services"])
def test_a_conflict_that_is_none_of_names_is_tried_again(here: Site, resource: str) -> None:
    """As a quota that is changed by two at once makes it."""
    here.cluster.faults.fail(3, 409, "create", resource)
    step = here.start()
    here.running()
    until(lambda: here.cluster.all(SERVICE), 90, "the Service")
    here.cluster.finish_job(here.job())
    step.ends_well()


def test_a_job_that_others_change_is_taken_up_and_deleted_all_the_same(here: Site) -> None:
    first = here.start()
    here.running()
    here.cluster.faults.fail(2, 409, "patch", "jobs")
    here.cluster.faults.fail(2, 409, "delete", "jobs")
    other = here.start(OTHER_RUN)
    other.says("runs in 2 pods")
    first.status = other.status = dg.DagsterRunStatus.CANCELED
    here.cluster.advance(20)
    first.ends()
    other.ends()
    assert here.jobs() == []


def test_a_job_of_the_same_name_that_is_not_ours_is_left_alone(here: Site) -> None:
    step = here.start()
    here.running()
    name = here.job()
    step.interrupt()
    step.ends()
    again = here.start(step.run_id, here.request(fingerprint="cd" * 32))
    assert f"{name} is there already and is not for this fingerprint" in again.fails()
    assert here.jobs() == [name]


def test_five_minutes_without_the_server_cost_nothing(here: Site) -> None:
    step = here.start()
    step.says("runs in 2 pods")
    here.cluster.unreach()
    here.cluster.advance(300)
    here.cluster.finish_job(here.job())
    here.cluster.reach()
    here.cluster.advance(60)
    step.ends_well()


def test_a_server_that_stays_away_ends_the_step_and_leaves_the_job(here: Site) -> None:
    step = here.start()
    step.says("runs in 2 pods")
    here.cluster.unreach()
    until(lambda: here.watch.away_seconds()[1], 90, "the loss of the watch")
    here.cluster.advance(920)
    said = step.fails()
    assert f"the API server at {here.cluster.url} has not answered for 15 minutes" in said
    assert "is left as it is; run again to take it up" in said
    assert len(here.jobs()) == 1
    here.cluster.reach()
    again = here.start(step.run_id)
    again.says("takes up Job")
    here.cluster.finish_job(here.job())
    again.ends_well()


def test_a_server_that_is_away_from_the_start_ends_the_step(here: Site) -> None:
    here.cluster.unreach()
    step = here.start()
    until(lambda: here.cluster.advance(20) or step.error, 90, "the end of patience")
    assert "could not list jobs for 15 minutes" in step.fails()


@pytest.mark.parametrize("fault", ["expired", "cut"])
def test_a_watch_that_expires_or_breaks_goes_on(here: Site, fault: str) -> None:
    step = here.start()
    here.running()
    if fault == "expired":
        here.cluster.expire_watches()
    else:
        here.cluster.cut_watches()
    here.cluster.finish_job(here.job())
    here.cluster.advance(60)
    step.ends_well()


def test_a_job_that_went_while_the_watch_was_away_is_missed(here: Site) -> None:
    step = here.start()
    step.says("runs in 2 pods")
    here.cluster.unreach()
    until(lambda: here.watch.away_seconds()[1], 90, "the loss of the watch")
    here.cluster.delete(JOB, here.job())
    with here.cluster.store.changed:
        here.cluster.store.compact()
    here.cluster.reach()
    here.cluster.advance(60)
    assert "its Job was deleted" in step.fails()


def test_a_job_that_ended_well_and_was_removed_before_anybody_looked_has_ended_well(here: Site) -> None:
    """``ttl_seconds_after_finished`` were over while the server could not be asked."""
    here.deploy(ttl_seconds_after_finished=60)
    step = here.start()
    step.says("runs in 2 pods")
    here.cluster.unreach()
    until(lambda: here.watch.away_seconds()[1], 90, "the loss of the watch")
    here.make_artifact()
    here.cluster.finish_job(here.job())
    here.cluster.advance(100)
    with here.cluster.store.changed:
        here.cluster.store.compact()
    assert here.jobs() == []
    here.cluster.reach()
    here.cluster.advance(60)
    step.ends_well()


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("create", "jobs"),
        ("create", "services"),
        ("list", "jobs"),
        ("watch", "jobs"),
        ("watch", "pods"),
        ("list", "pods"),
    ],
)
def test_a_role_that_lacks_a_verb_is_told_which(here: Site, verb: str, resource: str) -> None:
    here.cluster.access.forbid(verb, resource)
    said = here.start().fails()
    assert f"add the verb `{verb}` on `{resource}` to the launcher's Role" in said


@pytest.mark.parametrize(("verb", "resource"), [("get", "pods/log"), ("list", "events")])
def test_what_only_helps_to_explain_may_be_forbidden(here: Site, verb: str, resource: str) -> None:
    here.cluster.access.forbid(verb, resource)
    here.cluster.kubelet.missing_images.add(here.deployment["image"])
    step = here.start()
    step.says("cannot be pulled")
    here.cluster.kubelet.missing_images.clear()
    here.cluster.advance(300)
    pods = here.running()
    here.cluster.finish(pods[0], 1, "it broke")
    assert "it broke" in step.fails()


@pytest.mark.parametrize("line", [b"<html>busy</html>", b'{"kind": "Busy"}', b"[1]"])
def test_a_stream_of_something_else_is_no_answer(here: Site, line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a proxy says while the API server is away, with status 200."""
    answer = SimpleNamespace(stream=lambda **_: iter([line + b"\n"]), close=lambda: None)
    monkeypatch.setattr(here.api, "_send", lambda *_: answer)
    with pytest.raises(ClusterAway):
        list(here.api.watch("jobs", "", "1"))


@pytest.mark.parametrize("found", [[], {}, {"items": []}, {"metadata": []}, "busy"])
def test_a_list_of_something_else_is_no_answer(here: Site, found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = SimpleNamespace(data=json.dumps(found).encode())
    monkeypatch.setattr(
        here.api,
        "_client",
        SimpleNamespace(call_api=lambda *_, **__: answer, configuration=SimpleNamespace(host="there")),
    )
    with pytest.raises(ClusterAway):
        here.api.list("jobs", away_seconds=0)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ({"runs": "/elsewhere/runs"}, "FT_HOME: /elsewhere/runs is not on the volume"),
        ({"cache": "/root/.cache/ft-assets"}, "FT_CACHE: /root/.cache/ft-assets is not on the volume"),
        ({"url": "/artifacts"}, "FT_STORE: /artifacts is not on the volume"),
        ({"url": "file:///artifacts"}, "FT_STORE: /artifacts is not on the volume"),
        ({"url": "store"}, "FT_STORE: store is not on the volume"),
        ({"url": "VOLUME/../artifacts"}, "FT_STORE: VOLUME/../artifacts is not on the volume"),
        ({"url": "memory://bucket/ft", "local": "/elsewhere/local"}, "FT_HOME: /elsewhere/local is not on the volume"),
    ],
)
def test_what_pods_could_not_reach_is_refused_before_they_start(here: Site, place: dict[str, str], said: str) -> None:
    home = str(here.folder / "home")
    request = here.request()
    request["store"] |= {name: place[name].replace("VOLUME", home) for name in ("url", "local") if name in place}
    fields = {name: place[name] for name in ("runs", "cache") if name in place}
    assert said.replace("VOLUME", home) in here.start(request=request, **fields).fails()
    assert here.jobs() == []


def test_of_a_log_without_line_breaks_a_part_is_read(here: Site) -> None:
    here.start()
    pod = here.running()[0]
    here.cluster.print(pod, "x" * 6 * 2**20)
    assert len(here.api.log(pod["metadata"]["name"], 10)) == 4 * 2**20


def test_what_a_server_would_drop_without_a_word_is_refused(here: Site) -> None:
    """A misspelt affinity would train anywhere."""
    here.deploy(affinity={"nodeAfinity": {}})
    said = here.start().fails()
    assert 'unknown field "spec.template.spec.affinity.nodeAfinity"' in said
    assert here.jobs() == []


def test_a_job_sets_service_is_its_controllers(here: Site) -> None:
    """Although the deployment's file asks for plain Jobs by now."""
    here.deploy(job_api="jobset")
    first = here.start()
    first.says("runs in 2 pods")
    [before] = here.cluster.all(SERVICE)
    first.interrupt()
    first.ends()
    here.deploy(job_api="job")
    again = here.start()
    again.says("runs in 2 pods")
    assert here.cluster.all(SERVICE) == [before]


def test_a_job_set_is_deleted_whole(here: Site) -> None:
    here.deploy(job_api="jobset")
    step = here.start()
    here.running()
    here.cluster.finish_job(here.job())
    step.ends_well()
    silent = here.start(OTHER_RUN, here.request(fingerprint="cd" * 32), silent_seconds=60)
    silent.says("runs in 2 pods")
    here.cluster.advance(70)
    assert "said nothing" in silent.fails()
    assert len(here.jobs()) == 1
