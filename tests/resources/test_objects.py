"""The objects of a materialization: as they were recorded, what Kubernetes accepts, and what a platform engineer allows.

``pytest tests/resources/test_objects.py --write-golden`` records them anew.
"""

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pod_laws import restricted_faults, server_faults
from podmaking import GIB, IMAGE, PLACEMENT, RUN, cluster, made, request
from pydantic import TypeAdapter, ValidationError

from ft_assets.core.errors import FineTuneError
from ft_assets.recipes import pods
from ft_assets.recipes.schema import NAME
from resources.kubernetes.names import MAX_NAME, job_name, label_value, master_port
from resources.kubernetes.objects import JOB_NAME_LABEL, job, objects, pod_template, service, variables

GOLDEN = Path(__file__).parent.parent / "golden" / "kubernetes"
# The oldest that knows all fields for good, and the newest whose schema is at hand.
VERSIONS = ("1.31", kubernetes_validate.latest_version())
UID = "6f1de1a2-51a7-4b3e-8f0f-1d2c3b4a5968"

EVERYTHING = {
    "image": IMAGE.replace("ab", "cd"),
    "image_pull_secrets": ["registry"],
    "service_account_name": "training",
    "node_selector": {"pool": "reserved"},
    "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}],
    "affinity": {
        "podAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 1,
                    "podAffinityTerm": {
                        "topologyKey": "topology.kubernetes.io/zone",
                        "labelSelector": {"matchLabels": {"ft-assets.dev/recipe": "support"}},
                    },
                }
            ]
        }
    },
    "priority_class_name": "training",
    "runtime_class_name": "nvidia",
    "env_from_secrets": {"HF_TOKEN": {"secret": "hub", "key": "token"}},
    "labels": {"cost-centre": "42"},
    "annotations": {"example.com/owner": "ml, second floor"},
    "active_deadline_seconds": 86_400,
}
TWO_NODES = PLACEMENT | {
    "nodes": 2,
    "gpus_per_node": 8,
    "cpus": 86.4,
    "host_bytes": 700 * GIB,
    "node_memory_bytes": 2000 * GIB,
}
TRAINS = {"device": "cuda", "placement": TWO_NODES}

CASES = {
    "evaluation": lambda: made(request("evaluation")),
    "one-gpu": lambda: made(request(placement=PLACEMENT), processes=1),
    "two-nodes": lambda: made(
        request(**TRAINS, pods=EVERYTHING), cluster(env={"NCCL_SOCKET_IFNAME": "eth0"}), processes=16
    ),
    "kueue": lambda: made(request(**TRAINS, pods={"queue_name": "gpus"}), processes=16),
    "jobset": lambda: made(request(**TRAINS, pods={"queue_name": "gpus", "job_api": "jobset"}), processes=16),
}


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def manifests(case):
    return objects(CASES[case](), UID)


def as_job(manifest):
    """A Job, also that of a JobSet, whose own schema is at hand nowhere."""
    if manifest["kind"] == "Job":
        return manifest
    template = manifest["spec"]["replicatedJobs"][0]["template"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": template["spec"]}


def pod_of(workload):
    return pod_template(workload)["spec"]


def test_they_are_as_recorded(request, case, manifests):
    path = GOLDEN / f"{case}.yaml"
    text = yaml.safe_dump_all(manifests, sort_keys=False)
    if request.config.getoption("--write-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas_of_kubernetes_take_them(manifests, version):
    for manifest in manifests:
        checked = manifest if manifest["kind"] == "Service" else as_job(manifest)
        assert kubernetes_validate.validate(checked, version, strict=True)


def test_a_server_takes_them(manifests):
    assert [fault for manifest in manifests for fault in server_faults(manifest)] == []


def test_pods_pass_the_restricted_pod_security_standard(manifests):
    assert list(restricted_faults(as_job(manifests[0])["spec"]["template"]["spec"])) == []


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("hostNetwork",), True),
        (("volumes", 0), {"name": "home", "hostPath": {"path": "/"}}),
        (("securityContext", "runAsNonRoot"), False),
        (("securityContext", "runAsUser"), 0),
        (("securityContext", "seccompProfile"), {"type": "Unconfined"}),
        (("containers", 0, "securityContext", "capabilities"), {"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
        (("containers", 0, "securityContext", "allowPrivilegeEscalation"), True),
        (("containers", 0, "securityContext", "privileged"), True),
    ],
)
def test_the_check_of_that_standard_sees(where, value):
    spec = pod_of(CASES["one-gpu"]())
    part = spec
    for step in where[:-1]:
        part = part[step]
    part[where[-1]] = value
    assert len(list(restricted_faults(spec))) == 1


def test_pods_write_only_to_their_volumes_and_hold_no_token():
    spec = pod_of(CASES["two-nodes"]())
    [container] = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert spec["automountServiceAccountToken"] is False
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/ft", "/tmp", "/home/ft", "/dev/shm"}
    assert variables(CASES["two-nodes"]())["HOME"] == "/home/ft"
    open_root = pod_of(made(request(), cluster(read_only_root=False)))
    assert open_root["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is False


def test_secrets_come_by_reference_alone():
    env = {entry["name"]: entry for entry in pod_of(CASES["two-nodes"]())["containers"][0]["env"]}
    assert env["HF_TOKEN"] == {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    by_key = {"secret": "hub", "key": "endpoint"}
    deployment = cluster(env={"HF_ENDPOINT": "plain"}, env_from_secrets={"HF_ENDPOINT": by_key})
    both = [
        entry for entry in pod_of(made(request(), deployment))["containers"][0]["env"] if entry["name"] == "HF_ENDPOINT"
    ]
    assert [set(entry) for entry in both] == [{"name", "valueFrom"}]


def test_no_end_of_a_pod_starts_another_one_alone():
    spec = job(CASES["two-nodes"]())["spec"]
    assert spec["backoffLimit"] == 0
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    rules = spec["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["FailJob"] * 3
    # The condition first: a pod that is preempted and saves its state ends with 75, too.
    assert [sorted(rule)[1] for rule in rules] == ["onPodConditions", "onExitCodes", "onExitCodes"]
    assert [rule["onExitCodes"]["values"] for rule in rules[1:]] == [[75], [2]]


def test_the_service_belongs_to_the_job_and_finds_its_pods():
    workload = CASES["two-nodes"]()
    found, owned = job(workload), service(workload, UID)
    [owner] = owned["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "batch/v1", "kind": "Job", "name": found["metadata"]["name"], "uid": UID}
    assert owned["spec"]["selector"] == {JOB_NAME_LABEL: found["metadata"]["name"]}
    assert owned["spec"]["clusterIP"] == "None"
    assert owned["spec"]["publishNotReadyAddresses"] is True
    assert found["spec"]["template"]["spec"]["subdomain"] == owned["metadata"]["name"]
    # The Job's controller calls its first pod so.
    assert variables(workload)["MASTER_ADDR"] == f"{found['metadata']['name']}-0.{owned['metadata']['name']}"
    assert "ownerReferences" not in service(workload)["metadata"]


def test_a_jobset_makes_the_same_pods_under_its_own_names():
    workload, plain = CASES["jobset"](), CASES["kueue"]()
    [jobset] = objects(workload)
    [child] = jobset["spec"]["replicatedJobs"]
    name = jobset["metadata"]["name"]
    assert variables(workload)["MASTER_ADDR"] == f"{name}-{child['name']}-0-0.{jobset['spec']['network']['subdomain']}"
    assert workload.pod_selector == f"{JOB_NAME_LABEL}={name}-{child['name']}-0"
    assert jobset["spec"]["suspend"] is True
    assert "suspend" not in child["template"]["spec"]
    of_jobset, of_job = child["template"]["spec"]["template"], job(plain)["spec"]["template"]
    for entry in (*of_jobset["spec"]["containers"][0]["env"], *of_job["spec"]["containers"][0]["env"]):
        if entry["name"] == "MASTER_ADDR":
            entry["value"] = ""
    assert of_jobset == of_job


def test_a_queue_gets_a_suspended_job():
    queued, plain = job(CASES["kueue"]()), job(CASES["two-nodes"]())
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert queued["spec"]["suspend"] is True
    assert "kueue.x-k8s.io/queue-name" not in plain["metadata"]["labels"]
    assert "suspend" not in plain["spec"]


def test_memory_is_the_plans_and_shared_memory_counts():
    def limits(workload):
        return pod_of(workload)["containers"][0]["resources"]["limits"]

    placed = made(request(placement=PLACEMENT), processes=1)
    assert limits(placed)["memory"] == f"{22 * 1024 + 1024}Mi"
    assert limits(placed)["nvidia.com/gpu"] == "1"
    assert limits(placed)["cpu"] == "7200m"
    larger = made(request(placement=PLACEMENT), processes=1, memory_factor=10.0)
    assert larger.memory_bytes == PLACEMENT["node_memory_bytes"]
    unplanned = made(request("evaluation", pods={"memory_gib": 30}))
    assert unplanned.memory_bytes == 30 * GIB + unplanned.shm_bytes
    assert made(request("evaluation")).memory_bytes == 8 * GIB + unplanned.shm_bytes
    resources = pod_of(placed)["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"]


@pytest.mark.parametrize(
    ("execution", "gpus"),
    [({}, 0), ({"device": "cuda"}, 1), ({"device": "cuda", "pods": {"gpus": 0}}, 0), ({"pods": {"gpus": 2}}, 2)],
)
def test_a_stage_that_does_not_train_has_the_gpus_it_asks_for(execution, gpus):
    workload = made(request("evaluation", **execution))
    assert workload.gpus == gpus
    assert bool(pod_of(workload).get("tolerations")) == bool(gpus)


def test_a_rank_has_a_gpu_where_the_plan_counts_none():
    without = {name: value for name, value in TWO_NODES.items() if name != "gpus_per_node"}
    assert made(request(placement=without), processes=8).gpus == 4
    assert made(request(placement={**without, "gpu_resource": ""}), processes=8).gpus == 0


def test_cores_are_shared_out_among_the_ranks():
    assert variables(CASES["two-nodes"]())["OMP_NUM_THREADS"] == str(86 // 8)
    assert variables(made(request(), processes=2, threads=3))["OMP_NUM_THREADS"] == "3"
    assert made(request(), processes=2, threads=3).cpus == 6
    assert variables(CASES["two-nodes"]())["FT_PROCESSES_PER_NODE"] == "8"
    assert variables(CASES["evaluation"]())["FT_PROCESSES_PER_NODE"] == ""


def test_settings_of_the_recipe_stand_above_the_deployments():
    deployment = cluster(
        priority_class_name="batch",
        runtime_class_name="nvidia",
        labels={"team": "ml", "site": "a"},
        stages={"evaluation": {"priority_class_name": "low"}},
    )
    told = request("evaluation", pods={"labels": {"team": "nlp"}})
    spec, labels = pod_of(made(told, deployment)), pod_template(made(told, deployment))["metadata"]["labels"]
    assert (spec["priorityClassName"], spec["runtimeClassName"]) == ("low", "nvidia")
    assert (labels["team"], labels["site"]) == ("nlp", "a")
    assert pod_of(made(request(), deployment))["priorityClassName"] == "batch"
    assert pod_of(made(request(pods={"priority_class_name": "high"}), deployment))["priorityClassName"] == "high"
    placed = made(request(placement=PLACEMENT, pods={"node_selector": {"gpu": "any", "pool": "b"}}), processes=1)
    assert pod_of(placed)["nodeSelector"] == {"gpu": "l4", "pool": "b"}


def test_trials_of_a_sweep_are_processes_of_one_pod():
    with pytest.raises(FineTuneError, match=r"sft_sweep is planned on 2 nodes.*per_node"):
        made(request("sft_sweep", **TRAINS))
    workload = made(request("sft_sweep", **TRAINS | {"placement": TWO_NODES | {"nodes": 1}}))
    assert (workload.gpus, workload.processes_per_node) == (8, None)


def test_an_image_that_can_change_is_refused():
    with pytest.raises(FineTuneError, match=r"worker:latest.*allow_mutable_images"):
        made(request(pods={"image": "worker:latest"}))
    assert made(request(pods={"image": "worker:latest"}), cluster(allow_mutable_images=True)).settings.image
    with pytest.raises(FineTuneError, match=r"no image for sft_adapter.*FT_PODS"):
        made(request(), cluster(image=None))


STEPS = st.sampled_from(["sft_adapter", "validated_dataset", "a" * 60, "", "--"])
PARTITIONS = st.one_of(st.from_regex(NAME, fullmatch=True), st.text(max_size=100))
RUNS = st.one_of(st.uuids().map(str), st.text(max_size=80))
IDENTITY = st.tuples(RUNS, STEPS, PARTITIONS, st.integers(1, 10**6))


@given(IDENTITY, st.integers(1, 1024), st.sampled_from(["job", "jobset"]))
@settings(max_examples=40, deadline=None)
def test_whatever_they_are_called_a_server_takes_them(identity, nodes, api):
    run_id, step, partition, attempt = identity
    asked = request(step, partition, placement=PLACEMENT | {"nodes": nodes}, pods={"job_api": api})
    workload = made(asked, processes=nodes, run_id=run_id, attempt=attempt)
    assert [fault for manifest in objects(workload, UID) for fault in server_faults(manifest)] == []


TRICKY = ("a..b/c", "a.-b/c", "a.b/c", "A/b", "a/b/c", "/a", "a/", "a" * 64, "a." * 120 + "a/b", "a" * 254, "a\n")


def of(kind):
    """Short texts of the letters that rules are about, as far as the schema takes them."""
    takes = TypeAdapter(kind)

    def taken(text):
        try:
            takes.validate_python(text)
        except ValidationError:
            return False
        return True

    return st.one_of(st.text("a.-/A_", min_size=1, max_size=6), st.sampled_from(TRICKY)).filter(taken)


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "labels": st.dictionaries(of(pods.OwnKey), of(pods.LabelValue), max_size=3),
        "annotations": st.dictionaries(of(pods.OwnKey), st.text(max_size=20), max_size=3),
        "node_selector": st.dictionaries(of(pods.Key), of(pods.LabelValue), max_size=3),
        "env_from_secrets": st.dictionaries(
            of(pods.EnvironmentName),
            st.fixed_dictionaries({"secret": of(pods.DnsName), "key": st.just("k")}),
            max_size=3,
        ),
        "queue_name": of(pods.QueueName),
        "cpu": st.floats(0.001, 1024),
        "memory_gib": st.floats(0.01, 65_536),
    },
)


@given(SETTINGS, st.sampled_from(["nvidia.com/gpu", "nvidia.com/mig-1g.10gb", "amd.com/gpu"]))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_what_a_recipe_may_say_of_pods_a_server_takes(said, resource):
    asked = request(pods=said, placement=PLACEMENT | {"gpu_resource": resource})
    for manifest in objects(made(asked, processes=1), UID):
        assert server_faults(manifest) == []


@given(IDENTITY, IDENTITY)
@settings(max_examples=100, deadline=None)
def test_a_name_tells_one_materialization_from_another(one, other):
    assert (job_name(*one) == job_name(*other)) == (one == other)
    assert len(job_name(*one)) <= MAX_NAME
    assert 20_000 <= master_port(job_name(*one)) < 30_000


def test_a_name_can_be_read_and_does_not_change():
    name = job_name(RUN, "sft_adapter", "support", 2)
    assert re.fullmatch(r"ft-sft-adapter-support-2-[0-9a-f]{12}", name)
    assert name == "ft-sft-adapter-support-2-a6f823983027"
    assert len({job_name(RUN, "sft_adapter", "support", attempt) for attempt in range(50)}) == 50
    longest = job_name(RUN, "validated_dataset", "0" * 63, 1000)
    assert len(longest) == MAX_NAME
    # What differs only where it is cut, or in what no name can hold.
    assert job_name(RUN, "s", "a" * 62 + "b", 1) != job_name(RUN, "s", "a" * 62 + "c", 1)
    assert job_name(RUN, "s", "a_b", 1) != job_name(RUN, "s", "a-b", 1)


@given(st.text(max_size=120), st.text(max_size=120))
@settings(max_examples=100, deadline=None)
def test_a_label_tells_texts_apart(one, other):
    assert (label_value(one) == label_value(other)) == (one == other)


def test_labels_say_what_it_is():
    labels = job(CASES["one-gpu"]())["metadata"]["labels"]
    assert labels == {
        "app.kubernetes.io/managed-by": "ft-assets",
        "ft-assets.dev/run": RUN,
        "ft-assets.dev/recipe": "support",
        "ft-assets.dev/asset": "sft_adapter",
        "ft-assets.dev/stage": "sft_adapter",
        "ft-assets.dev/attempt": "1",
        "ft-assets.dev/fingerprint": ("5c" * 32)[:63],
    }
