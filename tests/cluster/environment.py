"""A container's environment and command as the kubelet makes them."""

import base64
import re

from cluster.kinds import CONFIG_MAP, POD, SECRET, SERVICE, Object
from cluster.quantities import quantity
from cluster.selecting import selects
from cluster.store import Store


class NotConfigured(Exception):
    """What CreateContainerConfigError says: a Secret or a key that is not there."""


def environment(store: Store, pod: Object, container: Object) -> dict[str, str]:
    """Values in the order they stand, so that a later one may use an earlier: ``$(NAME)``."""
    found: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        for kind, name in ((SECRET, "secretRef"), (CONFIG_MAP, "configMapRef")):
            if name in source:
                held = store.get(kind, pod["metadata"]["namespace"], source[name]["name"])
                if held is None and not source[name].get("optional"):
                    raise NotConfigured(f'{kind.kind.lower()} "{source[name]["name"]}" not found')
                for key in (held or {}).get("data") or {}:
                    found[source.get("prefix", "") + key] = _held(held or {}, key)
    for variable in container.get("env") or []:
        source = variable.get("valueFrom")
        if source is None:
            found[variable["name"]] = expanded(variable.get("value") or "", found)
            continue
        value = _referred(store, pod, container, source)
        if value is not None:
            found[variable["name"]] = value
    return found


def _referred(store: Store, pod: Object, container: Object, source: Object) -> str | None:
    namespace = pod["metadata"]["namespace"]
    for kind, name, title in ((SECRET, "secretKeyRef", "Secret"), (CONFIG_MAP, "configMapKeyRef", "ConfigMap")):
        if name not in source:
            continue
        wanted = source[name]
        held = store.get(kind, namespace, wanted["name"])
        if held is None:
            if wanted.get("optional"):
                return None
            raise NotConfigured(f'{kind.kind.lower()} "{wanted["name"]}" not found')
        if wanted["key"] not in (held.get("data") or {}):
            if wanted.get("optional"):
                return None
            raise NotConfigured(f"couldn't find key {wanted['key']} in {title} {namespace}/{wanted['name']}")
        return _held(held, wanted["key"])
    if "fieldRef" in source:
        return _field(pod, source["fieldRef"]["fieldPath"])
    group, _, name = source["resourceFieldRef"]["resource"].partition(".")
    amount = quantity((container["resources"].get(group) or {}).get(name, "0"))
    return str(-(-amount // quantity(source["resourceFieldRef"].get("divisor") or "1")))


def _held(held: Object, key: str) -> str:
    text = held["data"][key]
    return base64.b64decode(text).decode() if held["kind"] == "Secret" else text


def _field(pod: Object, path: str) -> str:
    meta, spec, status = pod["metadata"], pod["spec"], pod["status"]
    if found := re.match(r"^metadata\.(labels|annotations)\['([^']+)'\]$", path):
        return (meta.get(found[1]) or {}).get(found[2], "")
    return {
        **{"metadata.name": meta["name"], "metadata.namespace": meta["namespace"], "metadata.uid": meta["uid"]},
        **{"spec.nodeName": spec.get("nodeName", ""), "spec.serviceAccountName": spec.get("serviceAccountName", "")},
        **{"status.hostIP": status.get("hostIP", ""), "status.podIP": status.get("podIP", "")},
        **{"status.podIPs": status.get("podIP", ""), "status.hostIPs": status.get("hostIP", "")},
    }[path]


def expanded(text: str, values: dict[str, str]) -> str:
    """``$(NAME)`` where the name is known; ``$$(NAME)`` is the text ``$(NAME)``."""

    def put(found: re.Match[str]) -> str:
        if found[0].startswith("$$"):
            return found[0][1:]
        return values.get(found[1], found[0])

    return re.sub(r"\$?\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)", put, text)


def resolved(store: Store, namespace: str, text: str) -> str:
    """The names that the cluster's DNS has, as this machine's loopback address.

    ``<hostname>.<subdomain>`` has an address where a headless Service of the subdomain's name selects a pod of that hostname
    which is ready, or where the Service publishes the addresses of pods that are not.
    """
    for service in store.all(SERVICE, namespace):
        name = service["metadata"]["name"]
        if name not in text:
            continue
        hosts = [re.escape(host) for host in _hosts(store, service)]
        if hosts:
            tail = rf"\.{re.escape(name)}(\.{re.escape(namespace)}(\.svc(\.cluster\.local)?)?)?"
            text = re.sub(rf"(?<![A-Za-z0-9.-])({'|'.join(hosts)}){tail}(?![A-Za-z0-9.-])", "127.0.0.1", text)
    return text


def _hosts(store: Store, service: Object) -> list[str]:
    spec = service["spec"]
    if spec.get("clusterIP") != "None" or not spec.get("selector"):
        return []
    found = []
    for pod in store.all(POD, service["metadata"]["namespace"]):
        inside = pod["spec"]
        if inside.get("subdomain") != service["metadata"]["name"] or not inside.get("hostname"):
            continue
        ready = any(
            each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions") or []
        )
        if selects({"matchLabels": spec["selector"]}, pod["metadata"].get("labels") or {}) and (
            ready or spec.get("publishNotReadyAddresses")
        ):
            found.append(inside["hostname"])
    return found
