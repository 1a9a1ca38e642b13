"""Stages in pods: whatever becomes of the cluster ends in a right state, and in a sentence a person understands."""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from cluster import Script
from cluster.kinds import JOB, POD, SERVICE, Object
from cluster.quantities import quantity
from dagster._core.errors import DagsterExecutionInterruptedError
from following import GIB, OTHER_RUN, RUN, Site, site
from waiting import until

from resources.kubernetes import following


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with site(tmp_path, monkeypatch) as found:
        yield found


def test_a_stage_runs_in_a_job_of_its_nodes_and_ends_well(here: Site) -> None:
    step = here.start()
    here.running()
    here.cluster.finish_job(here.job())
    step.ends_well()
    assert step.folder == here.folder / "home" / "runs" / step.run_id / "sft_adapter"
    [job] = here.cluster.all(JOB)
    [service] = here.cluster.all(SERVICE)
    assert service["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    assert job["metadata"]["labels"]["ft-assets.dev/run"] == step.run_id


def test_a_volume_may_show_the_artifact_late(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LATE_SECONDS", 90.0)
    step = here.start()
    here.running()
    here.cluster.finish_job(here.job())
    until(lambda: here.watch.followed == {}, 90, "the end of the Job")
    here.cluster.advance(30)
    assert step.thread is not None
    step.thread.join(0.1)
    assert step.thread.is_alive()
    here.make_artifact()
    step.ends_well()


def test_what_a_volume_cannot_show_for_a_while_ends_nothing(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server that starts anew, say: reading fails, and the Job runs on."""
    step = here.start()
    step.says("runs in 2 pods")
    output = here.folder / "home" / "runs" / step.run_id / "sft_adapter" / "output.log"
    output.write_text("a word\n")
    stale = OSError(errno.ESTALE, "Stale file handle")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", raising(output.parent, stale, Path.stat))
        patch.setattr(Path, "open", raising(output.parent, stale, Path.open))
        here.cluster.advance(60)
        asked = here.cluster.clock.now
        until(lambda: here.cluster.clock.now > asked + 20 or not step.thread.is_alive(), 90, "some looks")
    assert step.error is None
    here.cluster.finish_job(here.job())
    step.ends_well()


def raising(below: Path, error: OSError, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    def call(path: Path, *words: Any, **more: Any) -> Any:
        if path.parent == below:
            raise error
        return otherwise(path, *words, **more)

    return call


def test_a_failing_rank_is_named_with_its_last_words(here: Site) -> None:
    step = here.start()
    pods = here.running()
    here.cluster.print(pods[1], "a long story\n")
    here.cluster.finish(pods[1], 1, "ValueError: rank 1 broke\n")
    said = step.fails()
    assert f"sft_adapter: ended with exit code 1 in pod {pods[1]['metadata']['name']} (node 1 of 2)" in said
    assert "ValueError: rank 1 broke" in said
    kept = here.folder / "home" / "runs" / step.run_id / "sft_adapter" / f"{pods[1]['metadata']['name']}.log"
    assert kept.read_text() == "a long story\n"
    assert here.jobs() == [here.job()]


def test_a_users_fault_is_told_in_the_workers_words(here: Site) -> None:
    step = here.start()
    here.cluster.finish(here.running()[0], 2, "FineTuneError: the disk is full\n")
    said = step.fails()
    assert "exit code 2" in said
    assert "FineTuneError: the disk is full" in said


def test_the_same_step_again_takes_up_the_job_that_runs(here: Site) -> None:
    """A Dagster step that is retried, and another run for the same fingerprint, pay for nothing twice."""
    first = here.start()
    here.running()
    first.interrupt()
    first.ends()
    assert any("left running; run again to take it up" in line for line in first.said)
    here.api, here.watch = here.connect()  # of another process
    again, other = here.start(first.run_id), here.start(OTHER_RUN)
    again.says("takes up Job")
    other.says("takes up Job")
    here.cluster.finish_job(here.job())
    again.ends_well()
    other.ends_well()
    assert again.folder == other.folder
    [job] = here.cluster.all(JOB)
    assert job["metadata"]["labels"]["ft-assets.dev/taken-by"] == OTHER_RUN


@pytest.mark.parametrize("mebibytes", [4096, 5000])
def test_a_job_is_taken_up_in_whatever_unit_the_server_tells_its_memory(here: Site, mebibytes: int) -> None:
    """A server answers 4Gi where 4096Mi was asked for."""
    request = here.request(nodes=1)
    request["execution"]["placement"] |= {"host_bytes": 64 * GIB, "node_memory_bytes": mebibytes * 2**20}
    step = here.start(request=request)
    step.says("runs in 1 pod")
    step.interrupt()
    step.ends()
    again = here.start(step.run_id, request)
    again.says("takes up Job")
    [pod] = here.cluster.pods_of(here.job())
    assert memory(pod) == mebibytes
    here.cluster.finish_job(here.job())
    again.ends_well()


def test_two_that_begin_the_same_at_once_share_a_job(here: Site) -> None:
    first, second = here.start(), here.start()
    for step in (first, second):
        step.says("")
    here.running()
    here.cluster.finish_job(here.job())
    first.ends_well()
    second.ends_well()
    assert len(here.jobs()) == 1
    assert len(here.cluster.all(SERVICE)) == 1


def test_a_cancelled_run_leaves_no_job(here: Site) -> None:
    step = here.start()
    here.running()
    step.status = dg.DagsterRunStatus.CANCELING
    here.cluster.advance(20)
    step.ends()
    assert isinstance(step.error, DagsterExecutionInterruptedError)
    assert here.jobs() == []
    here.cluster.advance(60)
    assert here.cluster.all(POD) == []


@pytest.mark.parametrize("cancelled", [0, 1], ids=["whose it is", "who took it up"])
def test_a_job_that_another_run_wants_outlives_the_cancelled_one(here: Site, cancelled: int) -> None:
    first = here.start()
    first.says("runs in 2 pods")
    second = here.start(OTHER_RUN)
    second.says("runs in 2 pods")
    steps, [job] = (first, second), here.jobs()
    steps[cancelled].status = dg.DagsterRunStatus.CANCELING
    here.cluster.advance(20)
    steps[cancelled].ends()
    assert here.jobs() == [job]
    here.cluster.finish_job(job)
    steps[1 - cancelled].ends_well()


def test_what_is_interrupted_while_its_run_is_cancelled_leaves_no_job(here: Site) -> None:
    step = here.start()
    here.running()
    step.status = dg.DagsterRunStatus.CANCELING
    step.interrupt()
    step.ends()
    assert here.jobs() == []


def test_a_cancelled_run_leaves_no_job_of_which_it_has_not_heard_yet(
    here: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be interrupted between the request that creates the Job and the answer."""
    monkeypatch.setattr(here.watch, "take", lambda *_: None)
    step = here.start()
    here.job()
    step.status = dg.DagsterRunStatus.CANCELING
    step.interrupt()
    step.ends()
    assert here.jobs() == []


@pytest.mark.parametrize("run_id", [RUN, OTHER_RUN], ids=["the same run", "another run"])
def test_who_takes_up_a_job_without_its_service_makes_it(here: Site, run_id: str) -> None:
    """The process that created the Job died before it created the Service."""
    first = here.start()
    here.running()
    first.interrupt()
    first.ends()
    here.api.delete("services", here.job())
    here.api, here.watch = here.connect()
    again = here.start(run_id)
    again.says("runs in 2 pods")
    [job], [service] = here.cluster.all(JOB), here.cluster.all(SERVICE)
    assert service["metadata"]["name"] == job["metadata"]["name"]
    assert service["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    assert service["metadata"]["labels"]["ft-assets.dev/run"] == RUN
    pods = here.cluster.pods_of(here.job())
    assert all(service["spec"]["selector"].items() <= pod["metadata"]["labels"].items() for pod in pods)


def test_a_retry_after_a_failure_is_a_new_attempt(here: Site) -> None:
    step = here.start()
    here.cluster.finish(here.running()[0], 1)
    step.fails()
    again = here.start(step.run_id)
    here.running(attempt=1)
    here.cluster.finish_job(here.job(1))
    again.ends_well()


def taken_back(site: Site, pod: Object) -> None:
    site.cluster.cordon_node(pod["spec"]["nodeName"])
    site.cluster.shut_down_node(pod["spec"]["nodeName"])


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda site, pod: site.cluster.preempt(pod), "was preempted for a pod of higher priority"),
        (lambda site, pod: site.cluster.evict(pod), "The node was low on resource: memory"),
        (taken_back, "imminent node shutdown"),
        (lambda site, pod: site.cluster.delete(POD, pod["metadata"]["name"]), "was deleted, by hand"),
        (lambda site, pod: site.cluster.finish(pod, 75), "was asked to end and saved its work"),
    ],
    ids=["preemption", "eviction", "spot node taken back", "pod deleted by hand", "asked to end"],
)
def test_what_the_cluster_takes_is_started_again_and_counts_as_no_failure(here: Site, fault: Any, words: str) -> None:
    here.cluster.add_node("node-c", gpus=2)
    step = here.start()
    fault(here, here.running()[1])
    here.cluster.advance(40)  # more than the grace of its pods
    here.running(attempt=1)
    step.says(words)
    here.cluster.finish_job(here.job(1))
    step.ends_well()


def test_preemptions_are_bounded(here: Site) -> None:
    step = here.start()
    for attempt in range(3):
        here.cluster.preempt(here.running(attempt)[0])
    said = step.fails()
    assert "was preempted for a pod of higher priority" in said
    assert "It was started again 2 times (preemptions); run again to resume" in said
    assert len(here.jobs()) == 3


def test_a_lost_node_is_given_up_and_its_job_started_elsewhere(here: Site) -> None:
    here.cluster.add_node("node-c", gpus=2)
    step = here.start()
    lost = here.running()[1]
    here.cluster.lose_node(lost["spec"]["nodeName"])
    here.cluster.advance(45)
    step.says(f"its node {lost['spec']['nodeName']} may not answer")
    here.cluster.advance(310)
    here.until_ending(lost)
    here.cluster.advance(100)
    step.says(f"has been deleted and does not end: its node {lost['spec']['nodeName']} does not answer")
    here.running(attempt=1)
    here.cluster.finish_job(here.job(1))
    step.ends_well()


def test_a_job_deleted_by_hand_ends_the_step(here: Site) -> None:
    step = here.start()
    here.running()
    here.cluster.delete(JOB, here.job())
    said = step.fails()
    assert "its Job was deleted, by hand or by a sweep" in said
    assert "Run again to resume" in said


def test_out_of_memory_is_tried_once_more_with_more_where_the_recipe_allows(here: Site) -> None:
    step = here.start(request=here.request(pods={"replan_on_oom": True}))
    first = here.running()
    here.cluster.kill_for_memory(first[0])
    step.says("OOMKilled")
    second = here.running(attempt=1)
    sizes = [memory(pods[0]) for pods in (first, second)]
    assert 1.3 < sizes[1] / sizes[0] <= 1.5
    here.cluster.kill_for_memory(second[0])
    said = step.fails()
    assert f"its limit: {sizes[1]}Mi" in said
    assert "micro-batch 4, rows of up to 64 tokens" in said
    assert len(here.jobs()) == 2


def test_out_of_memory_ends_the_step_where_it_may_not_be_tried_again(here: Site) -> None:
    step = here.start()
    here.cluster.kill_for_memory(here.running()[0])
    assert "ran out of memory and was killed (OOMKilled" in step.fails()
    assert len(here.jobs()) == 1


def test_a_worker_that_says_nothing_is_ended(here: Site) -> None:
    step = here.start(silent_seconds=120)
    step.says("runs in 2 pods")
    here.cluster.advance(130)
    assert "the worker has said nothing for 120 s" in step.fails()
    assert here.jobs() == []


@pytest.mark.parametrize("code", [75, 143], ids=["saved their work", "ended"])
def test_a_job_that_its_queue_suspends_goes_on_when_it_is_admitted_again(here: Site, code: int) -> None:
    """The controller may look at its pods after they have ended and before they are gone."""
    here.cluster.kubelet.script = lambda _: Script(exit_code_at_term=code, term_seconds=5.0)
    here.cluster.use_kueue()
    here.deploy(queue_name="gpus")
    step = here.start()
    name = here.job()
    here.cluster.admit(name)
    before = here.running()
    here.cluster.preempt_workload(name)
    here.cluster.advance(10)
    until(lambda: step.said and "waits in Kueue's queue gpus" in step.said[-1], 90, "the wait")
    here.cluster.advance(60)
    here.cluster.admit(name)
    after = here.running()
    assert {pod["metadata"]["uid"] for pod in before}.isdisjoint(pod["metadata"]["uid"] for pod in after)
    here.cluster.finish(after[1], 1, "it broke")
    said = step.fails()
    assert f"ended with exit code 1 in pod {after[1]['metadata']['name']}" in said
    assert here.jobs() == [name]


def test_a_deadline_ends_it_with_the_setting_to_raise(here: Site) -> None:
    step = here.start(request=here.request(pods={"active_deadline_seconds": 600}))
    here.running()
    here.cluster.advance(700)
    assert "ran longer than active_deadline_seconds (600)" in step.fails()


def memory(pod: Object) -> int:
    """The limit of a pod in mebibytes."""
    return int(quantity(pod["spec"]["containers"][0]["resources"]["limits"]["memory"]) / 2**20)
