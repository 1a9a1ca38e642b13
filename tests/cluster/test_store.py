"""Objects over HTTP, through the real client: versions, conflicts, selectors, patches, pages, deletions."""

import json
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client import ApiException

from cluster import Cluster
from cluster.kinds import CONFIG_MAP, JOB, JOB_SET, POD, Object
from cluster.samples import job, pod

SPACE = Cluster.namespace


def refused(call: Any, *args: Any, **given: Any) -> tuple[int, Object]:
    with pytest.raises(ApiException) as caught:
        call(*args, **given)
    return caught.value.status, json.loads(caught.value.body)


@pytest.fixture
def core(cluster: Cluster) -> client.CoreV1Api:
    return client.CoreV1Api(cluster.client())


@pytest.fixture
def batch(cluster: Cluster) -> client.BatchV1Api:
    return client.BatchV1Api(cluster.client())


def config_map(
    core: client.CoreV1Api, name: str, labels: dict[str, str] | None = None, **data: str
) -> client.V1ConfigMap:
    return core.create_namespaced_config_map(SPACE, {"metadata": {"name": name, "labels": labels}, "data": data})


def test_a_new_object_has_a_uid_a_time_and_a_growing_version(core: client.CoreV1Api) -> None:
    first, second = config_map(core, "a").metadata, config_map(core, "b").metadata
    assert first.uid != second.uid
    assert first.creation_timestamp is not None
    assert int(first.resource_version) < int(second.resource_version)


def test_a_name_that_is_taken_is_409_already_exists(batch: client.BatchV1Api) -> None:
    batch.create_namespaced_job(SPACE, job("a"))
    code, status = refused(batch.create_namespaced_job, SPACE, job("a"))
    assert (code, status["reason"], status["message"]) == (409, "AlreadyExists", 'jobs.batch "a" already exists')
    assert status["details"] == {"name": "a", "group": "batch", "kind": "jobs"}


def test_what_is_absent_is_404(batch: client.BatchV1Api, core: client.CoreV1Api) -> None:
    code, status = refused(batch.read_namespaced_job, "a", SPACE)
    assert (code, status["reason"], status["message"]) == (404, "NotFound", 'jobs.batch "a" not found')
    assert refused(core.read_namespaced_pod, "a", SPACE)[1]["message"] == 'pods "a" not found'
    code, status = refused(batch.create_namespaced_job, "elsewhere", job("a"))
    assert (code, status["message"]) == (404, 'namespaces "elsewhere" not found')


def test_an_update_of_a_stale_version_is_409_conflict(core: client.CoreV1Api) -> None:
    made = config_map(core, "a", x="1")
    stale = core.read_namespaced_config_map("a", SPACE)
    made.data = {"x": "2"}
    assert core.replace_namespaced_config_map("a", SPACE, made).data == {"x": "2"}
    code, status = refused(core.replace_namespaced_config_map, "a", SPACE, stale)
    assert (code, status["reason"]) == (409, "Conflict")
    assert status["message"] == (
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    stale.metadata.resource_version = None  # without one the update is unconditional
    assert core.replace_namespaced_config_map("a", SPACE, stale).data == {"x": "1"}


def test_an_update_that_changes_nothing_makes_no_version(core: client.CoreV1Api) -> None:
    made = config_map(core, "a", x="1")
    same = core.replace_namespaced_config_map("a", SPACE, made)
    assert same.metadata.resource_version == made.metadata.resource_version


def test_generation_grows_with_the_spec_alone(batch: client.BatchV1Api) -> None:
    made = batch.create_namespaced_job(SPACE, job("a", suspend=True))
    labelled = batch.patch_namespaced_job("a", SPACE, {"metadata": {"labels": {"x": "y"}}})
    changed = batch.patch_namespaced_job("a", SPACE, {"spec": {"activeDeadlineSeconds": 9}})
    assert [each.metadata.generation for each in (made, labelled, changed)] == [1, 1, 2]


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("a=1", "xy"),
        ("a==1,b=2", "x"),
        ("a!=1", "zw"),
        ("a", "xyz"),
        ("!a", "w"),
        ("a in (1, 3)", "xy"),
        ("a notin (1)", "zw"),
        ("a in (1,2),!b", "yz"),
    ],
)
def test_label_selectors(core: client.CoreV1Api, selector: str, found: str) -> None:
    for name, labels in (("x", {"a": "1", "b": "2"}), ("y", {"a": "1"}), ("z", {"a": "2"}), ("w", {"c": "1"})):
        config_map(core, name, labels)
    assert "".join(sorted(found)) == "".join(
        each.metadata.name for each in core.list_namespaced_config_map(SPACE, label_selector=selector).items
    )


def test_field_selectors(cluster: Cluster, core: client.CoreV1Api) -> None:
    core.create_namespaced_pod(SPACE, pod("a"))
    core.create_namespaced_pod(SPACE, pod("b"))
    assert [each.metadata.name for each in core.list_namespaced_pod(SPACE, field_selector="metadata.name=b").items] == [
        "b"
    ]
    assert len(core.list_namespaced_pod(SPACE, field_selector="status.phase=Pending").items) == 2
    assert core.list_namespaced_pod(SPACE, field_selector="spec.nodeName!=").items == []
    events = core.list_namespaced_event(SPACE, field_selector="involvedObject.name=a,involvedObject.kind=Pod").items
    assert {each.involved_object.name for each in events} == {"a"}
    code, status = refused(core.list_namespaced_pod, SPACE, field_selector="spec.hostname=a")
    assert (code, status["message"]) == (400, 'field label not supported: "spec.hostname"')


def test_lists_of_all_namespaces_and_of_one(cluster: Cluster, core: client.CoreV1Api) -> None:
    config_map(core, "a")
    core.create_namespaced_config_map("default", {"metadata": {"name": "b"}})
    assert [each.metadata.name for each in core.list_namespaced_config_map(SPACE).items] == ["a"]
    assert {each.metadata.name for each in core.list_config_map_for_all_namespaces().items} == {"a", "b"}
    assert core.read_namespace(SPACE).status.phase == "Active"


def test_pages_show_the_state_of_the_first_and_expire(cluster: Cluster, core: client.CoreV1Api) -> None:
    for n in range(5):
        config_map(core, f"m{n}")
    first = core.list_namespaced_config_map(SPACE, limit=2)
    assert first.metadata.remaining_item_count == 3
    config_map(core, "m9")
    core.delete_namespaced_config_map("m3", SPACE)
    second = core.list_namespaced_config_map(SPACE, limit=2, _continue=first.metadata._continue)
    assert [each.metadata.name for each in second.items] == ["m2", "m3"]
    assert second.metadata.resource_version == first.metadata.resource_version
    cluster.expire_watches()
    code, status = refused(core.list_namespaced_config_map, SPACE, limit=2, _continue=second.metadata._continue)
    assert (code, status["reason"]) == (410, "Expired")


def test_merge_and_strategic_patches_differ_in_lists(cluster: Cluster, core: client.CoreV1Api) -> None:
    made = core.create_namespaced_pod(SPACE, {**pod("a"), "metadata": {"name": "a", "finalizers": ["x.example/one"]}})
    # The Python client sends a dict as a strategic merge patch: finalizers are merged.
    both = core.patch_namespaced_pod("a", SPACE, {"metadata": {"finalizers": ["x.example/two"]}})
    assert both.metadata.finalizers == ["x.example/one", "x.example/two"]
    gone = core.patch_namespaced_pod(
        "a", SPACE, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["x.example/one"]}}
    )
    assert gone.metadata.finalizers == ["x.example/two"]
    only = core.patch_namespaced_pod(
        "a", SPACE, {"metadata": {"finalizers": ["x.example/3"]}}, _content_type="application/merge-patch+json"
    )
    assert only.metadata.finalizers == ["x.example/3"]
    assert made.metadata.uid == only.metadata.uid


def test_a_json_patch_tests_and_replaces(core: client.CoreV1Api) -> None:
    config_map(core, "a", x="1")
    steps = [{"op": "test", "path": "/data/x", "value": "1"}, {"op": "replace", "path": "/data/x", "value": "2"}]
    assert core.patch_namespaced_config_map("a", SPACE, steps).data == {"x": "2"}
    code, _ = refused(core.patch_namespaced_config_map, "a", SPACE, steps)
    assert code == 422
    added = core.patch_namespaced_config_map("a", SPACE, [{"op": "add", "path": "/data/a~1b", "value": "3"}])
    assert added.data == {"x": "2", "a/b": "3"}


def test_a_patch_of_a_stale_version_is_a_conflict(core: client.CoreV1Api) -> None:
    made = config_map(core, "a", x="1")
    core.patch_namespaced_config_map("a", SPACE, {"data": {"x": "2"}})
    stale = {"metadata": {"resourceVersion": made.metadata.resource_version}, "data": {"x": "3"}}
    assert refused(core.patch_namespaced_config_map, "a", SPACE, stale)[0] == 409


def test_a_status_is_written_through_its_subresource_alone(cluster: Cluster, batch: client.BatchV1Api) -> None:
    batch.create_namespaced_job(SPACE, job("a", suspend=True))
    batch.patch_namespaced_job("a", SPACE, {"status": {"active": 7}})
    assert batch.read_namespaced_job_status("a", SPACE).status.active is None
    with cluster.loop.held():
        changed = batch.patch_namespaced_job_status("a", SPACE, {"status": {"active": 7}, "spec": {"parallelism": 5}})
        assert (changed.status.active, changed.spec.parallelism) == (7, 1)


def test_a_finalizer_holds_a_deleted_object(core: client.CoreV1Api) -> None:
    core.create_namespaced_config_map(SPACE, {"metadata": {"name": "a", "finalizers": ["x.example/hold"]}})
    core.delete_namespaced_config_map("a", SPACE)
    held = core.read_namespaced_config_map("a", SPACE)
    assert held.metadata.deletion_timestamp is not None
    code, status = refused(
        core.patch_namespaced_config_map, "a", SPACE, {"metadata": {"finalizers": ["x.example/more"]}}
    )
    assert code == 422
    assert "no new finalizers can be added if the object is being deleted" in status["message"]
    core.patch_namespaced_config_map("a", SPACE, {"metadata": {"finalizers": None}})
    assert refused(core.read_namespaced_config_map, "a", SPACE)[0] == 404


def test_a_deletion_with_a_wrong_uid_is_a_conflict(batch: client.BatchV1Api) -> None:
    batch.create_namespaced_job(SPACE, job("a"))
    wrong = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="other"))
    code, status = refused(batch.delete_namespaced_job, "a", SPACE, body=wrong)
    assert (code, status["reason"]) == (409, "Conflict")
    assert "Precondition failed: UID in precondition: other" in status["message"]


def test_background_deletes_the_job_first_and_its_pods_with_grace(cluster: Cluster, batch: client.BatchV1Api) -> None:
    cluster.add_node("n")
    batch.create_namespaced_job(SPACE, job("a", pod={"terminationGracePeriodSeconds": 20}))
    cluster.kubelet.runs()[0].script = type(cluster.kubelet.runs()[0].script)(exit_code_at_term=None)
    done = batch.delete_namespaced_job("a", SPACE, propagation_policy="Background")
    assert done.status == "Success"
    assert cluster.all(JOB) == []
    assert cluster.all(POD)[0]["metadata"]["deletionGracePeriodSeconds"] == 20
    cluster.advance(19)
    assert len(cluster.all(POD)) == 1
    cluster.advance(1)
    assert cluster.all(POD) == []


def test_foreground_keeps_the_job_until_its_pods_are_gone(cluster: Cluster, batch: client.BatchV1Api) -> None:
    cluster.add_node("n")
    batch.create_namespaced_job(SPACE, job("a"))
    cluster.lose_node("n")
    batch.delete_namespaced_job("a", SPACE, propagation_policy="Foreground")
    held = batch.read_namespaced_job("a", SPACE)
    again = refused(batch.create_namespaced_job, SPACE, job("a"))[1]["message"]
    assert again == 'object is being deleted: jobs.batch "a" already exists'
    assert held.metadata.finalizers == ["foregroundDeletion"]
    assert held.metadata.deletion_timestamp is not None
    cluster.advance(3600)
    assert len(cluster.all(POD)) == 1, "on a dead node it cannot end"
    cluster.delete_by_force(cluster.all(POD)[0])
    assert cluster.all(JOB) == cluster.all(POD) == []


def test_without_a_policy_the_pods_of_a_deleted_job_stay(cluster: Cluster, batch: client.BatchV1Api) -> None:
    """As batch/v1 has it for Jobs; kubectl and most callers say Background themselves."""
    cluster.add_node("n")
    batch.create_namespaced_job(SPACE, job("a"))
    _, _, headers = batch.delete_namespaced_job_with_http_info("a", SPACE)
    assert "child pods are preserved by default when jobs are deleted" in headers["Warning"]
    assert cluster.all(JOB) == []
    left = cluster.all(POD)
    assert [each["status"]["phase"] for each in left] == ["Running"]
    assert "ownerReferences" not in left[0]["metadata"]
    assert "finalizers" not in left[0]["metadata"]


def test_dependents_of_an_absent_owner_are_collected(cluster: Cluster, core: client.CoreV1Api) -> None:
    owner = config_map(core, "owner")
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid}
    core.create_namespaced_config_map(SPACE, {"metadata": {"name": "child", "ownerReferences": [reference]}})
    other = {**reference, "uid": "another"}
    core.create_namespaced_config_map(SPACE, {"metadata": {"name": "stray", "ownerReferences": [other]}})
    assert {each["metadata"]["name"] for each in cluster.all(CONFIG_MAP)} == {"owner", "child"}
    core.delete_namespaced_config_map("owner", SPACE)
    assert cluster.all(CONFIG_MAP) == []


def test_a_pod_that_is_on_no_node_goes_at_once_and_one_that_runs_with_grace(
    cluster: Cluster, core: client.CoreV1Api
) -> None:
    core.create_namespaced_pod(SPACE, pod("waiting", gpus=1))
    core.delete_namespaced_pod("waiting", SPACE)
    assert cluster.all(POD) == []
    cluster.add_node("n")
    core.create_namespaced_pod(SPACE, pod("running"))
    cluster.lose_node("n")
    answer = core.delete_namespaced_pod("running", SPACE)
    assert answer.metadata.deletion_timestamp is not None
    assert answer.metadata.deletion_grace_period_seconds == 30
    core.delete_namespaced_pod("running", SPACE, grace_period_seconds=5)
    assert cluster.get(POD, "running")["metadata"]["deletionGracePeriodSeconds"] == 5
    core.delete_namespaced_pod("running", SPACE, grace_period_seconds=0)
    assert cluster.all(POD) == []


def test_deleting_a_collection_takes_what_the_selector_matches(cluster: Cluster, core: client.CoreV1Api) -> None:
    config_map(core, "a", {"x": "1"})
    config_map(core, "b", {"x": "2"})
    core.delete_collection_namespaced_config_map(SPACE, label_selector="x=1")
    assert [each["metadata"]["name"] for each in cluster.all(CONFIG_MAP)] == ["b"]


def test_a_dry_run_validates_and_writes_nothing(cluster: Cluster, batch: client.BatchV1Api) -> None:
    assert batch.create_namespaced_job(SPACE, job("a"), dry_run="All").metadata.uid
    assert refused(batch.create_namespaced_job, SPACE, job("a", backoffLimit=-1), dry_run="All")[0] == 422
    assert cluster.all(JOB) == []


def test_generated_names_end_in_five_letters(core: client.CoreV1Api) -> None:
    made = core.create_namespaced_pod(SPACE, {**pod(""), "metadata": {"generateName": "a-"}})
    assert made.metadata.name.startswith("a-")
    assert len(made.metadata.name) == 7


def test_discovery_and_version(cluster: Cluster) -> None:
    assert client.VersionApi(cluster.client()).get_code().major == "1"
    assert client.CoreApi(cluster.client()).get_api_versions().versions == ["v1"]
    groups = {group.name for group in client.ApisApi(cluster.client()).get_api_versions().groups}
    assert {"batch", "jobset.x-k8s.io"} <= groups
    kinds = {each.name for each in client.BatchV1Api(cluster.client()).get_api_resources().resources}
    assert kinds == {"jobs"}


def test_a_group_that_is_not_installed_is_404_in_plain_text(cluster: Cluster, core: client.CoreV1Api) -> None:
    custom = client.CustomObjectsApi(cluster.client())
    where = ("jobset.x-k8s.io", "v1alpha2", SPACE, "jobsets")
    assert custom.list_namespaced_custom_object(*where)["items"] == []
    cluster.uninstall(JOB_SET)
    with pytest.raises(ApiException) as caught:
        custom.list_namespaced_custom_object(*where)
    assert (caught.value.status, caught.value.body) == (404, "404 page not found\n")
    assert "jobset.x-k8s.io" not in {group.name for group in client.ApisApi(cluster.client()).get_api_versions().groups}
