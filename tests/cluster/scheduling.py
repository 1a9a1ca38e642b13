"""The scheduler: which node a pod fits, and in the scheduler's words why none does."""

import json
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

from cluster.conditions import set_condition
from cluster.events import Recorder
from cluster.kinds import CLAIM, NODE, POD, Key, Object
from cluster.quantities import quantity
from cluster.selecting import holds
from cluster.store import Change, Store, key_of

COMPONENT = "default-scheduler"
UNSCHEDULABLE = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


@dataclass
class Room:
    """A node and what its pods leave free."""

    node: Object
    total: dict[str, Fraction]
    used: dict[str, Fraction] = field(default_factory=dict)
    pods: dict[str, dict[str, Fraction]] = field(default_factory=dict)

    def free(self, name: str) -> Fraction:
        return self.total.get(name, Fraction(0)) - self.used.get(name, Fraction(0))

    def take(self, uid: str, wanted: dict[str, Fraction]) -> None:
        if uid not in self.pods:
            self.pods[uid] = wanted
            for name, amount in wanted.items():
                self.used[name] = self.used.get(name, Fraction(0)) + amount

    def give(self, uid: str) -> bool:
        wanted = self.pods.pop(uid, None)
        for name, amount in (wanted or {}).items():
            self.used[name] -= amount
        return wanted is not None


class Scheduler:
    """A pod that fits nowhere is looked at again when a node or a pod's end could have made room."""

    def __init__(self, store: Store, recorder: Recorder) -> None:
        self._store, self._recorder = store, recorder
        self._rooms: dict[str, Room] = {}
        self._waiting: dict[Key, None] = {}  # looked at in turn
        self._stuck: dict[Key, str] = {}  # with what was said of it
        self._refusals: dict[str, str] = {}  # why pods of one shape fit nowhere, while nothing has changed

    def changed(self, change: Change) -> None:
        made, kind = change.object, change.kind
        if kind is NODE:
            self._node(change)
        elif kind is CLAIM:
            self._retry()
        elif kind is POD:
            key, spec = key_of(made), made["spec"]
            gone = change.type == "DELETED" or made["status"]["phase"] in ("Succeeded", "Failed")
            if gone or ("deletionTimestamp" in made["metadata"] and not spec.get("nodeName")):
                self._waiting.pop(key, None)
                self._stuck.pop(key, None)
            if spec.get("nodeName"):
                room = self._rooms.get(spec["nodeName"])
                if room and gone and room.give(made["metadata"]["uid"]):
                    self._refusals.clear()
                    self._retry()
                elif room and not gone and made["metadata"]["uid"] not in room.pods:
                    self._refusals.clear()
                    room.take(made["metadata"]["uid"], requests(spec))
            elif not gone and key not in self._stuck and "deletionTimestamp" not in made["metadata"]:
                self._waiting[key] = None

    def _node(self, change: Change) -> None:
        name, before = change.object["metadata"]["name"], change.before
        if change.type == "DELETED":
            self._rooms.pop(name, None)
            return
        parts = [
            (each["spec"], each["metadata"].get("labels"), each["status"]["allocatable"])
            for each in (change.object, before)
            if each
        ]
        total = {key: quantity(value) for key, value in change.object["status"]["allocatable"].items()}
        there = self._rooms.get(name)
        self._rooms[name] = Room(change.object, total, there.used if there else {}, there.pods if there else {})
        if len(parts) == 1 or parts[0] != parts[1]:
            self._refusals.clear()
            self._retry()

    def _retry(self) -> None:
        self._refusals.clear()
        for key in self._stuck:
            self._waiting[key] = None

    def schedule(self) -> bool:
        """Places the most important waiting pod; whether there was one."""
        if not self._waiting:
            return False
        pods = [(key, self._store.get(POD, *key)) for key in self._waiting]
        self._waiting.clear()
        there = [(key, pod) for key, pod in pods if pod is not None and not pod["spec"].get("nodeName")]
        for key, pod in sorted(there, key=lambda item: -item[1]["spec"].get("priority", 0)):
            self._place(key, pod)
        return True

    def _place(self, key: Key, pod: Object) -> None:
        spec = pod["spec"]
        if spec.get("schedulerName") != COMPONENT:
            return
        if spec.get("schedulingGates"):
            self._say(key, pod, "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates")
            return
        shape = json.dumps(
            [requests_text(spec), spec.get("nodeSelector"), spec.get("affinity"), spec.get("tolerations")],
            sort_keys=True,
        )
        why = self._claims(pod) or self._refusals.get(shape)
        if why is None:
            wanted = requests(spec)
            reasons: Counter[str] = Counter()
            fits, full = [], 0
            for room in self._rooms.values():
                against = refusals(room, spec, wanted)
                reasons.update(against)
                if not against:
                    fits.append(room)
                elif against[0].startswith(("Insufficient", "Too many")):
                    full += all(amount <= room.total.get(name, 0) for name, amount in wanted.items())
            if fits:
                # Of those that fit the fullest one with GPUs left over least: a GPU node is not spent on a pod without any.
                best = min(
                    fits,
                    key=lambda room: (
                        room.total.get("nvidia.com/gpu", 0),
                        room.free("nvidia.com/gpu"),
                        room.node["metadata"]["name"],
                    ),
                )
                self._bind(pod, best.node["metadata"]["name"])
                self._stuck.pop(key, None)
                return
            why = self._refusals[shape] = self._sentence(reasons, full)
        self._say(key, pod, "Unschedulable", why)

    def _claims(self, pod: Object) -> str | None:
        total = len(self._rooms)
        tail = f"preemption: 0/{total} nodes are available: {total} Preemption is not helpful for scheduling."
        for volume in pod["spec"].get("volumes") or []:
            name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            if not name:
                continue
            claim = self._store.get(CLAIM, pod["metadata"]["namespace"], name)
            if claim is None:
                return f'0/{total} nodes are available: persistentvolumeclaim "{name}" not found. {tail}'
            if claim["status"].get("phase") == "Lost":
                return f'0/{total} nodes are available: persistentvolumeclaim "{name}" bound to non-existent persistentvolume. {tail}'
            if claim["status"].get("phase") != "Bound":
                return f"0/{total} nodes are available: pod has unbound immediate PersistentVolumeClaims. {tail}"
        return None

    def _sentence(self, reasons: Counter[str], full: int) -> str:
        """``full`` nodes would do if they were empty: there preemption could have helped."""
        total = len(self._rooms)
        if not total:
            return "no nodes available to schedule pods"
        parts = ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))
        tries = {
            "No preemption victims found for incoming pod": full,
            "Preemption is not helpful for scheduling": total - full,
        }
        tried = ", ".join(sorted(f"{count} {what}" for what, count in tries.items() if count))
        return f"0/{total} nodes are available: {parts}. preemption: 0/{total} nodes are available: {tried}."

    def _say(self, key: Key, pod: Object, reason: str, why: str) -> None:
        self._stuck[key] = why
        now = self._store.clock.stamp()
        self._store.change(POD, pod, lambda made: set_condition(made, now, "PodScheduled", "False", reason, why))
        if reason == "Unschedulable":
            self._recorder.record((POD, pod), "Warning", "FailedScheduling", why, COMPONENT)

    def _bind(self, pod: Object, node: str) -> None:
        def edit(made: Object) -> None:
            made["spec"]["nodeName"] = node
            set_condition(made, self._store.clock.stamp(), "PodScheduled", "True")

        self._store.change(POD, pod, edit)
        meta = pod["metadata"]
        message = f"Successfully assigned {meta['namespace']}/{meta['name']} to {node}"
        self._recorder.record((POD, pod), "Normal", "Scheduled", message, COMPONENT)


def requests_text(spec: Object) -> list[Object]:
    return [
        container["resources"].get("requests") or {}
        for container in [*spec["containers"], *(spec.get("initContainers") or [])]
    ]


def requests(spec: Object) -> dict[str, Fraction]:
    """What a pod takes of a node: its containers' sum, or its largest init container."""
    wanted: dict[str, Fraction] = {"pods": Fraction(1)}
    for container in spec["containers"]:
        for name, text in (container["resources"].get("requests") or {}).items():
            wanted[name] = wanted.get(name, Fraction(0)) + quantity(text)
    for container in spec.get("initContainers") or []:
        for name, text in (container["resources"].get("requests") or {}).items():
            wanted[name] = max(wanted.get(name, Fraction(0)), quantity(text))
    return wanted


def refusals(room: Room, spec: Object, wanted: dict[str, Fraction]) -> list[str]:
    """Why a pod cannot be on this node: the first filter that says no, which may have several reasons."""
    node = room.node
    taints = [*(node["spec"].get("taints") or []), *([UNSCHEDULABLE] if node["spec"].get("unschedulable") else [])]
    if node["spec"].get("unschedulable") and not tolerates(spec, UNSCHEDULABLE):
        return ["node(s) were unschedulable"]
    bad = [taint for taint in taints if taint["effect"] in ("NoSchedule", "NoExecute") and not tolerates(spec, taint)]
    if bad:
        return ["node(s) had untolerated taint(s)"]
    if not _selected(node, spec):
        return ["node(s) didn't match Pod's node affinity/selector"]
    short = [name for name, amount in wanted.items() if amount > room.free(name)]
    return ["Too many pods" if name == "pods" else f"Insufficient {name}" for name in short]


def tolerates(spec: Object, taint: Object) -> Object | None:
    """The toleration for a taint."""
    for each in spec.get("tolerations") or []:
        if each.get("effect") not in (None, "", taint["effect"]) or each.get("key") not in (None, "", taint["key"]):
            continue
        if each.get("operator") == "Exists" or (each.get("key") and each.get("value", "") == taint.get("value", "")):
            return each
    return None


def _selected(node: Object, spec: Object) -> bool:
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    wanted = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if not wanted:
        return True
    names = {"metadata.name": node["metadata"]["name"]}
    return any(
        all(holds(each, labels) for each in term.get("matchExpressions") or [])
        and all(holds(each, names) for each in term.get("matchFields") or [])
        and bool(term.get("matchExpressions") or term.get("matchFields"))
        for term in wanted["nodeSelectorTerms"]
    )
