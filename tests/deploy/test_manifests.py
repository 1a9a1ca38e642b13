"""The Kubernetes objects of deploy/kubernetes: valid, restricted, least in rights, closed but for what is said."""

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from conftest import ROOT
from pod_laws import restricted_faults

FOLDER = ROOT / "deploy" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
# Cluster-wide, and applied by themselves.
ASIDE = ("priorities.yaml", "kueue.yaml")
Manifest = dict[str, Any]


def manifests(*names: str) -> list[Manifest]:
    files = names or (*KUSTOMIZATION["resources"], *ASIDE)
    return [found for name in files for found in yaml.safe_load_all((FOLDER / name).read_text())]


def pods() -> Iterator[tuple[str, Manifest]]:
    """Every pod template, with its name."""
    for found in manifests():
        if found["kind"] in ("Deployment", "StatefulSet"):
            yield found["metadata"]["name"], found["spec"]["template"]


def test_every_file_has_its_place() -> None:
    placed = {*KUSTOMIZATION["resources"], *ASIDE, "kustomization.yaml", "values.yaml", "dagster.yaml"}
    assert {path.name for path in FOLDER.glob("*.yaml")} == placed
    assert [name for entry in KUSTOMIZATION["configMapGenerator"] for name in entry["files"]] == ["nginx.conf"]


def test_every_object_is_one_that_kubernetes_knows() -> None:
    for found in manifests():
        if "kueue" not in found["apiVersion"]:
            kubernetes_validate.validate(found, kubernetes_validate.latest_version(), strict=True)


def test_kustomize_builds_it() -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run([kubectl, "kustomize", str(FOLDER)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert {found["metadata"].get("namespace") for found in built if found["kind"] != "Namespace"} == {"ft-assets"}
    subjects = [subject for found in built if found["kind"] == "RoleBinding" for subject in found["subjects"]]
    assert {subject["namespace"] for subject in subjects} == {"ft-assets"}
    [generated] = [found for found in built if found["kind"] == "ConfigMap" and "nginx.conf" in found["data"]]
    [proxy] = [found for found in built if found["kind"] == "Deployment"]
    named = [
        volume["configMap"]["name"] for volume in proxy["spec"]["template"]["spec"]["volumes"] if "configMap" in volume
    ]
    assert named == [generated["metadata"]["name"]]


@pytest.mark.parametrize(("name", "template"), pods(), ids=[name for name, _ in pods()])
def test_a_pod_keeps_to_the_restricted_profile(name: str, template: Manifest) -> None:
    assert list(restricted_faults(template["spec"])) == []
    assert template["spec"]["automountServiceAccountToken"] is False
    for container in template["spec"]["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["resources"]["limits"]["memory"]


def test_the_namespace_enforces_the_restricted_profile() -> None:
    [namespace] = manifests("namespace.yaml")
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def rights(role: str) -> set[tuple[str, str]]:
    """(resource, verb) of a Role."""
    [found] = [one for one in manifests("rbac.yaml") if one["kind"] == "Role" and one["metadata"]["name"] == role]
    return {(resource, verb) for rule in found["rules"] for resource in rule["resources"] for verb in rule["verbs"]}


def test_no_role_has_more_than_it_names() -> None:
    for found in manifests("rbac.yaml"):
        for rule in found.get("rules", []):
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert not {"secrets", "configmaps", "pods/exec", "roles", "rolebindings"} & set(rule["resources"])
        assert not found["kind"].startswith("Cluster")
    bound = {one["roleRef"]["name"]: one["subjects"] for one in manifests("rbac.yaml") if one["kind"] == "RoleBinding"}
    assert {role: [subject["name"] for subject in subjects] for role, subjects in bound.items()} == {
        "ft-dagster": ["ft-dagster"],
        "ft-run": ["ft-run"],
        "ft-sweep": ["ft-dagster"],
    }


CALL = re.compile(
    r"\b(create|read|list|delete|patch|replace)_namespaced_(job|pod|event|service|custom_object)(_log|_status)?\b"
)


def test_dagsters_launcher_may_do_what_it_does_and_no_more() -> None:
    import dagster_k8s

    text = (Path(dagster_k8s.__file__).parent / "client.py").read_text()
    assert called(text) - {("pods", "get")} == rights("ft-dagster")  # a pod by its name: for debugging alone


def called(text: str) -> set[tuple[str, str]]:
    """(resource, verb) of each call of the client library in a source file; a list that is watched counts as both."""
    verbs = {"read": "get", "patch": "patch", "replace": "update"}
    found = set()
    for verb, kind, part in CALL.findall(text):
        resource = "jobsets" if kind == "custom_object" else f"{kind}s"
        found.add((resource + part.replace("_", "/"), verbs.get(verb, verb)))
    return found


# What stands for more than one kind where the launcher calls the API, by file.
KINDS = {
    ("creating.py", "manifest"): {"jobs", "jobsets"},
    ("creating.py", "kind"): {"jobs", "jobsets"},
    ("watch.py", "kind"): {"jobs", "pods"},
}
VERBS = {"create": "create", "get": "get", "list": "list", "watch": "watch", "delete": "delete", "label": "patch"}


def test_this_projects_launcher_may_do_what_it_does_and_no_more() -> None:
    sources = sorted((ROOT / "resources" / "kubernetes").glob("*.py"))
    if "orphans.py" not in {path.name for path in sources}:
        pytest.skip("no Kubernetes launcher here")
    asked = {path.name: set(calls(path)) for path in sources}
    swept = asked.pop("orphans.py")
    assert set().union(*asked.values()) == rights("ft-run")
    ends = {("jobs", "delete"), ("jobsets", "delete")}  # creating.delete_job
    assert swept | ends == rights("ft-sweep")


def calls(path: Path) -> Iterator[tuple[str, str]]:
    """(resource, verb) of each `api.VERB(KIND, ...)` in a source file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if ast.unparse(node.func.value).split(".")[-1] != "api" or not node.args:
            continue
        verb, first = node.func.attr, node.args[0]
        if verb == "log":
            yield "pods/log", "get"
        elif verb in VERBS:
            kinds = {part.value for part in ast.walk(first) if isinstance(part, ast.Constant)}
            if not kinds:
                kinds = (
                    {"services"} if ast.unparse(first).startswith("service(") else KINDS[path.name, ast.unparse(first)]
                )
            yield from ((kind, VERBS[verb]) for kind in kinds)


def policy(name: str) -> Manifest:
    [found] = [one for one in manifests("networkpolicies.yaml") if one["metadata"]["name"] == name]
    return found["spec"]


def test_the_network_is_closed_but_for_what_is_said() -> None:
    assert policy("nothing-by-default") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    worker = {"matchLabels": {"app.kubernetes.io/managed-by": "ft-assets"}}
    assert policy("ranks")["ingress"] == [{"from": [{"podSelector": worker}]}]
    assert policy("ranks")["egress"] == [{"to": [{"podSelector": worker}]}]
    [rule] = policy("webservers")["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"ft-assets.dev/part": "proxy"}}}]
    for found in manifests("networkpolicies.yaml"):
        for rule in found["spec"].get("ingress", []):
            assert rule["from"], found["metadata"]["name"]  # an empty one is everybody


def test_a_quota_covers_what_pods_ask_for() -> None:
    [queue] = [found for found in manifests("kueue.yaml") if found["kind"] == "ClusterQueue"]
    flavors = {found["metadata"]["name"] for found in manifests("kueue.yaml") if found["kind"] == "ResourceFlavor"}
    for group in queue["spec"]["resourceGroups"]:
        assert {"cpu", "memory"} <= set(group["coveredResources"])
        assert {flavor["name"] for flavor in group["flavors"]} <= flavors
        for flavor in group["flavors"]:
            assert [entry["name"] for entry in flavor["resources"]] == group["coveredResources"]


def test_the_ways_in_are_the_proxys() -> None:
    services = {found["metadata"]["name"]: found["spec"] for found in manifests() if found["kind"] == "Service"}
    assert all(spec.get("type", "ClusterIP") == "ClusterIP" for spec in services.values())
    for ingress in (found for found in manifests() if found["kind"] == "Ingress"):
        assert ingress["spec"]["tls"]
        assert set(re.findall(r'"service": {"name": "([^"]*)"', json.dumps(ingress))) == {"ft-proxy"}
    [proxy] = [template for name, template in pods() if name == "ft-proxy"]
    [login] = [one for one in proxy["spec"]["containers"] if one["name"] == "oauth2-proxy"]
    wanted = {
        "--cookie-secure=true",
        "--cookie-httponly=true",
        "--cookie-samesite=lax",
        "--http-address=127.0.0.1:4180",
    }
    assert wanted <= set(login["args"])
    assert all("valueFrom" in entry for entry in login["env"])


def test_the_pods_file_is_one_that_the_launcher_takes(tmp_path: Path) -> None:
    cluster = pytest.importorskip("resources.kubernetes.cluster")
    found = {one["metadata"]["name"]: one["data"] for one in manifests("settings.yaml")}
    file = tmp_path / "pods.yaml"
    file.write_text(found["ft-pods"]["pods.yaml"])
    taken = cluster.load_cluster(file)
    assert taken.mount == found["ft-settings"]["FT_HOME"]
    assert taken.settings("sft_adapter", {}).service_account_name == "ft-worker"
    [claim] = manifests("storage.yaml")
    assert (taken.namespace, taken.claim) == ("ft-assets", claim["metadata"]["name"])
    assert found["ft-settings"]["FT_PODS"] == "/etc/ft/pods.yaml"
    classes = {one["metadata"]["name"] for one in manifests("priorities.yaml")}
    assert taken.priority_class_name in classes
