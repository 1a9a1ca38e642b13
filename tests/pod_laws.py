"""What a Kubernetes API server refuses beyond its OpenAPI schema, and the restricted Pod Security Standard, as checks.

Each function returns what is wrong, in words; nothing where all is well. After the validation that the API reference and the
concept pages of Job, Pod, Service and Pod Security Standards describe.
"""

import re
from collections.abc import Iterator
from decimal import Decimal

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
KEY = re.compile(r"(?:(?P<domain>[^/]{1,253})/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
VARIABLE = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")
QUANTITY = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>m|k|M|G|T|Ki|Mi|Gi|Ti)?")
UNITS = {"m": Decimal("0.001"), "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
MAX_INT32 = 2**31 - 1
RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def server_faults(manifest: dict) -> list[str]:
    """What the server would say of a Job, a JobSet or a Service."""
    of_kind = {"Job": job_faults, "JobSet": jobset_faults, "Service": service_faults}[manifest["kind"]]
    return [*metadata_faults(manifest["metadata"]), *of_kind(manifest)]


def metadata_faults(metadata: dict) -> Iterator[str]:
    if "name" in metadata and not (len(metadata["name"]) <= 253 and SUBDOMAIN.fullmatch(metadata["name"])):
        yield f"the name {metadata['name']!r}"
    if "namespace" in metadata and not LABEL.fullmatch(metadata["namespace"]):
        yield f"the namespace {metadata['namespace']!r}"
    for key, value in metadata.get("labels", {}).items():
        if not is_key(key) or not VALUE.fullmatch(value):
            yield f"the label {key}: {value!r}"
    annotations = metadata.get("annotations", {})
    yield from (f"the annotation {key}" for key in annotations if not is_key(key.lower()))
    if sum(len(f"{key}{value}".encode()) for key, value in annotations.items()) > 256 * 1024:
        yield "annotations of more than 256 KiB"
    for owner in metadata.get("ownerReferences", []):
        if not all(owner.get(part) for part in ("apiVersion", "kind", "name", "uid")):
            yield f"the owner {owner}"


def is_key(key: str) -> bool:
    found = KEY.fullmatch(key)
    return found is not None and (found["domain"] is None or SUBDOMAIN.fullmatch(found["domain"]) is not None)


def service_faults(service: dict) -> Iterator[str]:
    spec = service["spec"]
    if not LABEL_1035.fullmatch(service["metadata"]["name"]):
        yield f"the name {service['metadata']['name']!r} of a Service"
    for port in spec["ports"]:
        if not (LABEL.fullmatch(port["name"]) and len(port["name"]) <= 15 and 1 <= port["port"] <= 65_535):
            yield f"the port {port}"
    yield from (f"the selector {key}: {value!r}" for key, value in spec["selector"].items() if not _pair(key, value))


def job_faults(job: dict) -> list[str]:
    return list(job_spec_faults(job["metadata"]["name"], job["spec"]))


def jobset_faults(jobset: dict) -> Iterator[str]:
    name, spec = jobset["metadata"]["name"], jobset["spec"]
    if not LABEL_1035.fullmatch(spec["network"]["subdomain"]):
        yield f"the subdomain {spec['network']['subdomain']!r}"
    for part in spec["replicatedJobs"]:
        child = f"{name}-{part['name']}-{part['replicas'] - 1}"
        last = f"{child}-{part['template']['spec']['completions'] - 1}-abcde"
        yield from (
            f"{generated!r}, a name it makes" for generated in (child, last) if not LABEL_1035.fullmatch(generated)
        )
        yield from metadata_faults(part["template"].get("metadata", {}))
        yield from job_spec_faults(child, part["template"]["spec"])


def job_spec_faults(name: str, spec: dict) -> Iterator[str]:
    template = spec["template"]
    if spec.get("completionMode") == "Indexed":
        if not 1 <= spec.get("completions", 0) <= MAX_INT32 or spec["parallelism"] > 100_000:
            yield "an Indexed Job wants completions, and parallelism of 100000 at most"
        if not LABEL.fullmatch(f"{name}-{spec.get('completions', 1) - 1}"):
            yield f"{name} makes a hostname that is too long"
    for field in ("backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "backoffLimitPerIndex"):
        if not 0 <= spec.get(field, 0) <= MAX_INT32:
            yield f"{field} {spec[field]}"
    if "selector" in spec:
        yield "the selector is generated"
    if "podFailurePolicy" in spec:
        yield from policy_faults(spec)
    yield from metadata_faults(template["metadata"])
    yield from pod_faults(template["spec"])


def policy_faults(spec: dict) -> Iterator[str]:
    rules = spec["podFailurePolicy"]["rules"]
    if spec["template"]["spec"].get("restartPolicy") != "Never":
        yield "a podFailurePolicy wants restartPolicy Never"
    if spec.get("podReplacementPolicy", "Failed") != "Failed":
        yield "a podFailurePolicy wants podReplacementPolicy Failed"
    if len(rules) > 20:
        yield "more than 20 rules"
    containers = {container["name"] for container in spec["template"]["spec"]["containers"]}
    for rule in rules:
        if rule["action"] not in ("FailJob", "FailIndex", "Ignore", "Count"):
            yield f"the action {rule['action']}"
        if ("onExitCodes" in rule) == ("onPodConditions" in rule):
            yield "a rule wants one of onExitCodes and onPodConditions"
        for pattern in rule.get("onPodConditions", []):
            if pattern.get("status") not in ("True", "False", "Unknown"):
                yield f"the condition {pattern}"
        codes = rule.get("onExitCodes", {"values": [1], "operator": "In"})
        values = codes["values"]
        if values != sorted(set(values)) or not 1 <= len(values) <= 255 or (codes["operator"] == "In" and 0 in values):
            yield f"the exit codes {values}"
        if codes.get("containerName") not in (None, *containers):
            yield f"no container {codes['containerName']}"


def pod_faults(spec: dict) -> Iterator[str]:
    volumes = [volume["name"] for volume in spec.get("volumes", [])]
    names = [container["name"] for container in spec["containers"]]
    if len(set(volumes)) < len(volumes) or len(set(names)) < len(names):
        yield "a name that is there twice"
    yield from (f"the name {name!r}" for name in (*volumes, *names) if not LABEL.fullmatch(name))
    if "subdomain" in spec and not LABEL.fullmatch(spec["subdomain"]):
        yield f"the subdomain {spec['subdomain']!r}"
    if spec.get("terminationGracePeriodSeconds", 1) < 0:
        yield "a negative grace"
    yield from (f"node selector {item}" for item in spec.get("nodeSelector", {}).items() if not _pair(*item))
    for toleration in spec.get("tolerations", []):
        if toleration.get("operator") == "Exists" and toleration.get("value"):
            yield "a toleration with operator Exists has no value"
        if not toleration.get("key") and toleration.get("operator") != "Exists":
            yield "a toleration without a key has operator Exists"
        if "tolerationSeconds" in toleration and toleration.get("effect") != "NoExecute":
            yield "tolerationSeconds wants effect NoExecute"
    for volume in spec.get("volumes", []):
        size = volume.get("emptyDir", {}).get("sizeLimit")
        if size is not None and not _whole(size):
            yield f"the size {size}"
    for container in spec["containers"]:
        yield from container_faults(container, volumes)


def container_faults(container: dict, volumes: list[str]) -> Iterator[str]:
    if not container["image"] or container["image"] != container["image"].strip():
        yield f"the image {container['image']!r}"
    variables = [variable["name"] for variable in container.get("env", [])]
    yield from (f"the variable {name!r}" for name in variables if not VARIABLE.fullmatch(name))
    if len(set(variables)) < len(variables):
        yield "a variable that is there twice"
    for variable in container.get("env", []):
        if ("value" in variable) == ("valueFrom" in variable):
            yield f"{variable['name']} has one of value and valueFrom"
    paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
    if len(set(paths)) < len(paths) or any(":" in path for path in paths):
        yield f"the mount paths {paths}"
    yield from (f"no volume {m['name']}" for m in container.get("volumeMounts", []) if m["name"] not in volumes)
    requests, limits = container["resources"].get("requests", {}), container["resources"].get("limits", {})
    for name, size in {**requests, **limits}.items():
        if not QUANTITY.fullmatch(size) or (name != "cpu" and not _whole(size)):
            yield f"{name} {size!r}"
        elif _size(requests.get(name, size)) > _size(limits.get(name, size)):
            yield f"more {name} requested than allowed"
        if name not in ("cpu", "memory", "ephemeral-storage"):
            if "/" not in name or not is_key(name):
                yield f"the resource {name!r}"
            if requests.get(name, size) != limits.get(name):
                yield f"{name} is requested as it is allowed"


def _pair(key: str, value: str) -> bool:
    return is_key(key) and VALUE.fullmatch(value) is not None


def _size(quantity: str) -> Decimal:
    found = QUANTITY.fullmatch(quantity)
    return Decimal(found["number"]) * (UNITS[found["unit"]] if found["unit"] else 1)


def _whole(quantity: str) -> bool:
    return QUANTITY.fullmatch(quantity) is not None and _size(quantity) % 1 == 0


def restricted_faults(spec: dict) -> Iterator[str]:
    """What the restricted Pod Security Standard refuses of a pod; it holds the baseline's controls, too."""
    of_pod = spec.get("securityContext", {})
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield name
    for volume in spec.get("volumes", []):
        if kinds := set(volume) - {"name"} - RESTRICTED_VOLUMES:
            yield f"a volume of type {', '.join(kinds)}"
    if of_pod.get("sysctls"):
        yield "sysctls"
    for container in (*spec["containers"], *spec.get("initContainers", []), *spec.get("ephemeralContainers", [])):
        own = container.get("securityContext", {})
        both = {**of_pod, **own}
        capabilities = own.get("capabilities", {})
        wanted = {
            "privileged": not own.get("privileged", False),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities": "ALL" in capabilities.get("drop", [])
            and set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
            "runAsNonRoot": both.get("runAsNonRoot") is True,
            "runAsUser": both.get("runAsUser") != 0,
            "seccompProfile": both.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
            "seLinuxOptions": not {"user", "role"} & set(both.get("seLinuxOptions", {})),
            "appArmorProfile": both.get("appArmorProfile", {}).get("type", "RuntimeDefault") != "Unconfined",
            "procMount": own.get("procMount", "Default") == "Default",
            "hostProcess": not both.get("windowsOptions", {}).get("hostProcess", False),
            "hostPort": not any(port.get("hostPort") for port in container.get("ports", [])),
        }
        yield from (f"{container['name']}: {name}" for name, good in wanted.items() if not good)
