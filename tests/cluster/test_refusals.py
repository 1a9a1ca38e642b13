"""What a server refuses, in its words: fields, Pod Security, quotas, access."""

import json
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client import ApiException

from cluster import Cluster
from cluster.kinds import JOB, Object
from cluster.samples import DISRUPTED, container, job, pod

SPACE = Cluster.namespace
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
SAFE = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
SAFE_POD = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def refused(call: Any, *args: Any, **given: Any) -> tuple[int, Object]:
    with pytest.raises(ApiException) as caught:
        call(*args, **given)
    return caught.value.status, json.loads(caught.value.body)


@pytest.fixture
def batch(cluster: Cluster) -> client.BatchV1Api:
    return client.BatchV1Api(cluster.client())


@pytest.fixture
def core(cluster: Cluster) -> client.CoreV1Api:
    return client.CoreV1Api(cluster.client())


def changed(made: Object, path: str, value: Any) -> Object:
    """A manifest with one field set; None leaves the field out."""
    *above, last = path.split(".")
    under: Any = made
    for part in above:
        under = under[int(part)] if part.isdigit() else under.setdefault(part, {})
    under[last] = value
    return made


POD_SPEC = "spec.template.spec"
EXIT = {"operator": "In", "values": [1]}


@pytest.mark.parametrize(
    ("path", "value", "field", "words"),
    [
        ("metadata.name", "A_b", "metadata.name", "a lowercase RFC 1123 subdomain must consist of"),
        ("metadata.name", "a" * 62, "metadata.name", "will not able to create pod with invalid DNS label"),
        ("metadata.name", "a" * 64, "spec.template.labels", "must be no more than 63 bytes"),
        ("metadata.labels", {"a": "b c"}, "metadata.labels", "a valid label must be an empty string or consist of"),
        ("metadata.labels", {"a": "x" * 64}, "metadata.labels", "must be no more than 63 bytes"),
        ("metadata.labels", {"a b": "c"}, "metadata.labels", "name part must consist of"),
        ("metadata.annotations", {"-a": "c"}, "metadata.annotations", "name part must consist of"),
        ("spec.backoffLimit", -1, "spec.backoffLimit", "must be greater than or equal to 0"),
        ("spec.parallelism", -1, "spec.parallelism", "must be greater than or equal to 0"),
        ("spec.completions", None, "spec.completions", "Required value: when completion mode is Indexed"),
        ("spec.completionMode", "Any", "spec.completionMode", 'supported values: "Indexed", "NonIndexed"'),
        ("spec.backoffLimitPerIndex", -1, "spec.backoffLimitPerIndex", "must be greater than or equal to 0"),
        ("spec.ttlSecondsAfterFinished", -1, "spec.ttlSecondsAfterFinished", "must be greater than or equal to 0"),
        ("spec.podReplacementPolicy", "Never", "spec.podReplacementPolicy", 'supported values: "Failed", "TerminatingOrFailed"'),
        (f"{POD_SPEC}.restartPolicy", "Always", f"{POD_SPEC}.restartPolicy", 'Required value: valid values: "OnFailure", "Never"'),
        (f"{POD_SPEC}.containers", [], f"{POD_SPEC}.containers", "Required value"),
        (f"{POD_SPEC}.containers.0.image", "", f"{POD_SPEC}.containers[0].image", "Required value"),
        (f"{POD_SPEC}.containers.0.name", "A", f"{POD_SPEC}.containers[0].name", "a lowercase RFC 1123 label must consist of"),
        (
            f"{POD_SPEC}.containers.0.resources.limits",
            {"memory": "1 GB"},
            f"{POD_SPEC}.containers[0].resources.limits[memory]",
            "quantities must match the regular expression",
        ),
        (f"{POD_SPEC}.containers.0.resources.limits", {"nvidia.com/gpu": "0.5"}, f"{POD_SPEC}.containers[0].resources.limits[nvidia.com/gpu]", "must be an integer"),
        (f"{POD_SPEC}.containers.0.resources.requests", {"nvidia.com/gpu": "1"}, f"{POD_SPEC}.containers[0].resources.limits", "Limit must be set for non overcommitable resources"),
        (f"{POD_SPEC}.containers.0.volumeMounts", [{"name": "x", "mountPath": "/x"}], f"{POD_SPEC}.containers[0].volumeMounts[0].name", 'Not found: "x"'),
        (f"{POD_SPEC}.volumes", [{"name": "x"}], f"{POD_SPEC}.volumes[0]", "Required value: must specify a volume type"),
        (f"{POD_SPEC}.tolerations", [{"operator": "Equal"}], f"{POD_SPEC}.tolerations[0].operator", "operator must be Exists when `key` is empty"),
        ("spec.podFailurePolicy", {"rules": [{"action": "Stop", "onExitCodes": EXIT}]}, "spec.podFailurePolicy.rules[0].action", 'Unsupported value: "Stop"'),
        ("spec.podFailurePolicy", {"rules": [{"action": "FailIndex", "onExitCodes": EXIT}]}, "spec.podFailurePolicy.rules[0].action", "requires the backoffLimitPerIndex to be set"),
        ("spec.podFailurePolicy", {"rules": [{"action": "Count"}]}, "spec.podFailurePolicy.rules[0]", "specifying one of OnExitCodes and OnPodConditions is required"),
        (
            "spec.podFailurePolicy",
            {"rules": [{"action": "Count", "onExitCodes": {"operator": "In", "values": [3, 0]}}]},
            "spec.podFailurePolicy.rules[0].onExitCodes.values[1]",
            "must not be 0 for the In operator",
        ),
        (
            "spec.podFailurePolicy",
            {"rules": [{"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [3, 1]}}]},
            "spec.podFailurePolicy.rules[0].onExitCodes.values",
            "must be ordered",
        ),
        (
            "spec.podFailurePolicy",
            {"rules": [{"action": "Count", "onExitCodes": {**EXIT, "containerName": "other"}}]},
            "spec.podFailurePolicy.rules[0].onExitCodes.containerName",
            "must be one of the container or initContainer names in the pod template",
        ),
    ],
)  # fmt: skip
def test_a_job_with_a_bad_field_is_422_and_names_it(
    batch: client.BatchV1Api, path: str, value: Any, field: str, words: str
) -> None:
    code, status = refused(batch.create_namespaced_job, SPACE, changed(job("a"), path, value))
    assert (code, status["reason"]) == (422, "Invalid")
    found = [(cause["field"], cause["message"]) for cause in status["details"]["causes"]]
    assert any(field == where and words in message for where, message in found), found
    assert f"{field}: " in status["message"]


def test_the_message_names_the_kind_and_every_fault(batch: client.BatchV1Api) -> None:
    bad = job("a", backoffLimit=-1)
    assert refused(batch.create_namespaced_job, SPACE, bad)[1]["message"] == (
        'Job.batch "a" is invalid: spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0'
    )
    bad["spec"]["parallelism"] = -2
    message = refused(batch.create_namespaced_job, SPACE, bad)[1]["message"]
    assert message.startswith('Job.batch "a" is invalid: [spec.parallelism: ')
    assert message.endswith("]")


def test_a_failure_policy_needs_pods_that_are_never_restarted(batch: client.BatchV1Api) -> None:
    bad = job("a", podFailurePolicy={"rules": [DISRUPTED]}, pod={"restartPolicy": "OnFailure"})
    assert (
        'only "Never" is supported when podFailurePolicy is specified'
        in refused(batch.create_namespaced_job, SPACE, bad)[1]["message"]
    )
    bad = job("a", podFailurePolicy={"rules": [DISRUPTED]}, podReplacementPolicy="TerminatingOrFailed")
    assert (
        'Unsupported value: "TerminatingOrFailed": supported values: "Failed"'
        in refused(batch.create_namespaced_job, SPACE, bad)[1]["message"]
    )


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({"template": {"metadata": {"labels": {"x": "y"}}}}, "spec.template"),
        ({"completions": 3}, "spec.completions"),
        ({"completionMode": "NonIndexed"}, "spec.completionMode"),
        ({"podFailurePolicy": {"rules": [DISRUPTED]}}, "spec.podFailurePolicy"),
        ({"selector": {"matchLabels": {"job-name": "a"}}}, "spec.selector"),
    ],
)
def test_what_of_a_job_cannot_be_changed(cluster: Cluster, batch: client.BatchV1Api, patch: Object, field: str) -> None:
    batch.create_namespaced_job(SPACE, job("a", nodes=2))
    code, status = refused(batch.patch_namespaced_job, "a", SPACE, {"spec": patch})
    assert code == 422
    assert field in {cause["field"] for cause in status["details"]["causes"]}


def test_a_suspended_job_that_never_started_may_be_placed_elsewhere(batch: client.BatchV1Api) -> None:
    batch.create_namespaced_job(SPACE, job("a", suspend=True))
    where = {"spec": {"template": {"spec": {"nodeSelector": {"pool": "spot"}}}}}
    assert batch.patch_namespaced_job("a", SPACE, where).spec.template.spec.node_selector == {"pool": "spot"}
    batch.patch_namespaced_job("a", SPACE, {"spec": {"suspend": False}})
    elsewhere = {"spec": {"template": {"spec": {"nodeSelector": {"pool": "other"}}}}}
    assert refused(batch.patch_namespaced_job, "a", SPACE, elsewhere)[0] == 422


def test_of_a_pod_little_can_be_changed(core: client.CoreV1Api) -> None:
    core.create_namespaced_pod(SPACE, pod("a"))
    assert (
        core.patch_namespaced_pod("a", SPACE, {"spec": {"activeDeadlineSeconds": 5}}).spec.active_deadline_seconds == 5
    )
    code, status = refused(core.patch_namespaced_pod, "a", SPACE, {"spec": {"hostname": "x"}})
    assert (code, status["details"]["causes"][0]["reason"]) == (422, "FieldValueForbidden")
    assert "pod updates may not change fields other than" in status["message"]


def test_unknown_fields_are_dropped_warned_of_or_refused(cluster: Cluster, batch: client.BatchV1Api) -> None:
    bad = changed(job("a"), f"{POD_SPEC}.containers.0.imagePolicy", "Always")
    path = f"{POD_SPEC}.containers[0].imagePolicy"
    code, status = refused(batch.create_namespaced_job, SPACE, bad, field_validation="Strict")
    assert (code, status["reason"]) == (400, "BadRequest")
    assert f'strict decoding error: unknown field "{path}"' in status["message"]
    _, _, headers = batch.create_namespaced_job_with_http_info(SPACE, bad)
    assert "unknown field" in headers["Warning"]
    assert "imagePolicy" not in json.dumps(cluster.get(JOB, "a"))
    _, _, headers = batch.create_namespaced_job_with_http_info(
        SPACE, changed(bad, "metadata.name", "b"), field_validation="Ignore"
    )
    assert "Warning" not in headers


def test_a_value_of_another_type_is_400(batch: client.BatchV1Api) -> None:
    code, status = refused(batch.create_namespaced_job, SPACE, job("a", backoffLimit="none"))
    assert code == 400
    assert "json: cannot unmarshal string into Go struct field Job.spec.backoffLimit of type int32" in status["message"]
    bad = job("a", worker={"env": [{"name": "X", "value": 1}]})
    assert "cannot unmarshal number" in refused(batch.create_namespaced_job, SPACE, bad)[1]["message"]


def test_services(core: client.CoreV1Api) -> None:
    headless = {"metadata": {"name": "a"}, "spec": {"clusterIP": "None", "selector": {"x": "y"}}}
    assert core.create_namespaced_service(SPACE, headless).spec.cluster_ip == "None"
    code, status = refused(
        core.create_namespaced_service, SPACE, {"metadata": {"name": "1a"}, "spec": headless["spec"]}
    )
    assert code == 422
    assert "a DNS-1035 label must consist of" in status["message"]
    assert (
        refused(core.create_namespaced_service, SPACE, {"metadata": {"name": "b"}, "spec": {}})[1]["details"]["causes"][
            0
        ]["field"]
        == "spec.ports"
    )


def test_the_restricted_profile_refuses_pods_not_jobs(
    cluster: Cluster, batch: client.BatchV1Api, core: client.CoreV1Api
) -> None:
    cluster.label_namespace(RESTRICTED)
    code, status = refused(core.create_namespaced_pod, SPACE, pod("a"))
    words = (
        'violates PodSecurity "restricted:latest": '
        'allowPrivilegeEscalation != false (container "worker" must set securityContext.allowPrivilegeEscalation=false), '
        'unrestricted capabilities (container "worker" must set securityContext.capabilities.drop=["ALL"]), '
        'runAsNonRoot != true (pod or container "worker" must set securityContext.runAsNonRoot=true), '
        'seccompProfile (pod or container "worker" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")'
    )
    assert (code, status["message"]) == (403, f'pods "a" is forbidden: {words}')
    batch.create_namespaced_job(SPACE, job("a"))
    (event,) = cluster.events("a", "FailedCreate")
    assert event["type"] == "Warning"
    assert event["message"].startswith('Error creating: pods "a-0-')
    assert event["message"].endswith(words)
    assert cluster.pods_of("a") == []
    core.create_namespaced_pod(SPACE, pod("b", worker={"securityContext": SAFE}, securityContext=SAFE_POD))


def test_a_profile_that_warns_refuses_nothing(cluster: Cluster, batch: client.BatchV1Api) -> None:
    cluster.label_namespace({"pod-security.kubernetes.io/warn": "restricted"})
    _, _, headers = batch.create_namespaced_job_with_http_info(SPACE, job("a"))
    assert "would violate PodSecurity" in headers["Warning"]
    assert len(cluster.pods_of("a")) == 1


def test_a_quota_refuses_pods_and_the_job_tries_again(cluster: Cluster, batch: client.BatchV1Api) -> None:
    cluster.add_node("n", gpus=8)
    cluster.add_quota("gpus", {"requests.nvidia.com/gpu": "4"})
    batch.create_namespaced_job(SPACE, job("a", gpus=3))
    batch.create_namespaced_job(SPACE, job("b", gpus=2))
    (event,) = cluster.events("b", "FailedCreate")
    assert event["message"].endswith(
        "is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=2, used: requests.nvidia.com/gpu=3, "
        "limited: requests.nvidia.com/gpu=4"
    )
    cluster.finish_job("a")
    cluster.advance(60)
    assert len(cluster.pods_of("b")) == 1


def test_a_quota_of_memory_wants_every_container_to_name_it(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_quota("compute", {"limits.memory": "10Gi", "count/jobs.batch": "1"})
    code, status = refused(core.create_namespaced_pod, SPACE, pod("a"))
    assert (code, status["message"]) == (
        403,
        'pods "a" is forbidden: failed quota: compute: must specify limits.memory for: worker',
    )
    batch = client.BatchV1Api(cluster.client())
    batch.create_namespaced_job(SPACE, job("a"))
    message = refused(batch.create_namespaced_job, SPACE, job("b"))[1]["message"]
    assert (
        message
        == 'jobs.batch "b" is forbidden: exceeded quota: compute, requested: count/jobs.batch=1, used: count/jobs.batch=1, limited: count/jobs.batch=1'
    )


def test_absent_classes_and_accounts(core: client.CoreV1Api) -> None:
    code, status = refused(core.create_namespaced_pod, SPACE, pod("a", priorityClassName="high"))
    assert (code, status["message"]) == (403, 'pods "a" is forbidden: no PriorityClass with name high was found')
    code, status = refused(core.create_namespaced_pod, SPACE, pod("a", serviceAccountName="trainer"))
    assert code == 403
    assert f'error looking up service account {SPACE}/trainer: serviceaccount "trainer" not found' in status["message"]


def test_a_verb_that_is_taken_away_is_403(cluster: Cluster, batch: client.BatchV1Api, core: client.CoreV1Api) -> None:
    cluster.access.forbid("list", "pods")
    cluster.access.forbid("delete", "jobs")
    user = cluster.access.user
    code, status = refused(core.list_namespaced_pod, SPACE)
    assert (code, status["reason"]) == (403, "Forbidden")
    assert (
        status["message"]
        == f'pods is forbidden: User "{user}" cannot list resource "pods" in API group "" in the namespace "{SPACE}"'
    )
    assert refused(batch.delete_namespaced_job, "a", SPACE)[1]["message"] == (
        f'jobs.batch "a" is forbidden: User "{user}" cannot delete resource "jobs" in API group "batch" in the namespace "{SPACE}"'
    )
    review = client.AuthorizationV1Api(cluster.client()).create_self_subject_access_review(
        {"spec": {"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": SPACE}}}
    )
    assert review.status.allowed is False
    cluster.access.permit("list", "pods")
    assert core.list_namespaced_pod(SPACE).items == []


def test_a_role_is_all_that_is_allowed(cluster: Cluster, batch: client.BatchV1Api, core: client.CoreV1Api) -> None:
    cluster.access.grant(
        SPACE,
        [
            {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "get"]},
            {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["token"], "verbs": ["get"]},
        ],
    )
    batch.create_namespaced_job(SPACE, job("a"))
    assert refused(batch.list_namespaced_job, SPACE)[0] == 403
    assert refused(batch.list_job_for_all_namespaces)[1]["message"].endswith("at the cluster scope")
    assert refused(core.read_namespaced_pod, "a", SPACE)[0] == 403
    assert refused(core.read_namespaced_pod_log, "a", SPACE)[0] == 404
    assert refused(core.read_namespaced_secret, "token", SPACE)[0] == 404
    assert refused(core.read_namespaced_secret, "other", SPACE)[0] == 403
    assert refused(batch.read_namespaced_job, "a", "default")[0] == 403, "a Role is of one namespace"


def test_sidecars_and_mounts_of_one_pod_have_names_of_their_own(core: client.CoreV1Api) -> None:
    twice = pod("a", containers=[container(), container()])
    causes = refused(core.create_namespaced_pod, SPACE, twice)[1]["details"]["causes"]
    assert [(cause["field"], cause["reason"]) for cause in causes] == [
        ("spec.containers[1].name", "FieldValueDuplicate")
    ]
