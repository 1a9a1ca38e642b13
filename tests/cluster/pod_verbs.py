"""What can be asked of a pod beside its object: its logs, and an eviction."""

from collections.abc import Iterator

from cluster.api import Api
from cluster.clock import seconds_of
from cluster.kinds import NODE, POD, ApiError, Object, bad_request
from cluster.kubelet import Kubelet
from cluster.logs import Log, shown
from cluster.nodes import Nodes
from cluster.store import Store


class PodVerbs:
    def __init__(self, store: Store, api: Api, kubelet: Kubelet, nodes: Nodes) -> None:
        self._store, self._api, self._kubelet, self._nodes = store, api, kubelet, nodes

    def evict_by_api(self, namespace: str, name: str) -> Object:
        """A drain's eviction."""
        pod = self._api.get(POD, namespace, name)
        self._nodes.disrupt(pod, "EvictionByEvictionAPI", "Eviction API: evicting")
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}

    def log(self, namespace: str, name: str, query: dict[str, str]) -> Iterator[bytes] | None:
        """The log in pieces, an empty one where nothing new came; None of a pod that is on no node."""
        pod = self._api.get(POD, namespace, name)
        container = self._container(pod, query.get("container"))
        if not pod["spec"].get("nodeName"):
            return None
        self._check_node(pod)
        log = self._log_of(pod, container, query.get("previous") in ("true", "True", "1"))
        since = 0.0
        if query.get("sinceSeconds"):
            since = self._store.clock.now - float(query["sinceSeconds"])
        elif query.get("sinceTime"):
            since = seconds_of(query["sinceTime"])
        tail = query.get("tailLines")
        if tail is not None and int(tail) < 0:
            raise bad_request("tailLines must be greater than or equal to 0")
        first = log.first_of_tail(None if tail is None else int(tail), since)
        stamps = query.get("timestamps") in ("true", "True", "1")
        if query.get("follow") in ("true", "True", "1"):
            return (shown(lines, stamps) for lines in log.follow(first))
        with log.grown:
            data = shown(log.lines[first:], stamps)
        return iter([data[: int(query["limitBytes"])] if query.get("limitBytes") else data])

    def _container(self, pod: Object, asked: str | None) -> str:
        name = pod["metadata"]["name"]
        names = [container["name"] for container in pod["spec"]["containers"]]
        if asked is None:
            if len(names) > 1:
                raise bad_request(
                    f"a container name must be specified for pod {name}, choose one of: [{' '.join(names)}]"
                )
            return names[0]
        if asked not in names:
            raise bad_request(f"container {asked} is not valid for pod {name}")
        return asked

    def _check_node(self, pod: Object) -> None:
        node = pod["spec"]["nodeName"]
        if node in self._kubelet.away or self._store.get(NODE, "", node) is None:
            where = f"https://{node}:10250/containerLogs/{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            raise ApiError(500, "InternalError", f'Get "{where}": dial tcp {node}:10250: i/o timeout')

    def _log_of(self, pod: Object, container: str, previous: bool) -> Log:
        logs, before = self._kubelet.logs_of(pod)
        name = pod["metadata"]["name"]
        if previous:
            if container not in before:
                raise bad_request(f'previous terminated container "{container}" in pod "{name}" not found')
            return before[container]
        if container not in logs:
            status: Object = next(
                (each for each in pod["status"].get("containerStatuses") or [] if each["name"] == container), {}
            )
            waiting = ((status.get("state") or {}).get("waiting") or {}).get("reason")
            why = f"waiting to start: {waiting}" if waiting else "not available"
            if waiting in ("ErrImagePull", "ImagePullBackOff"):
                why = f"waiting to start: {'trying and failing to pull image' if waiting == 'ImagePullBackOff' else 'image can not be pulled'}"
            raise bad_request(f'container "{container}" in pod "{name}" is {why}')
        return logs[container]
