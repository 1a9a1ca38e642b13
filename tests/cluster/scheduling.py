"""The scheduler: which node a pod goes to, and in the scheduler's words why to none."""

from collections.abc import Callable

from cluster.conditions import set_condition
from cluster.events import Recorder
from cluster.kinds import CLAIM, NODE, POD, Key, Object
from cluster.preemption import victims
from cluster.quantities import milli
from cluster.rooms import Room, Shape, requests, shape_of
from cluster.store import Change, Store, key_of

COMPONENT = "default-scheduler"


class Scheduler:
    """A pod that fits nowhere is looked at again when a node or a pod's end could have made room.

    The real one lets such a pod wait up to ten seconds more.
    """

    def __init__(self, store: Store, recorder: Recorder) -> None:
        self._store, self._recorder = store, recorder
        self._rooms: dict[str, Room] = {}
        self._shapes: dict[str, Shape] = {}
        self._waiting: dict[Key, None] = {}  # looked at in turn
        self._stuck: dict[Key, str] = {}  # with what was said of it
        self._shape_of: dict[str, str] = {}  # by the uid of a pod that is on no node
        self._priorities: dict[str, int] = {}  # of pods on nodes
        self.disrupt: Callable[[Object, str, str], None] = lambda pod, reason, message: None

    def changed(self, change: Change) -> None:
        made = change.object
        if change.kind is NODE:
            self._node(change)
        elif change.kind is CLAIM:
            self._waiting |= dict.fromkeys(self._stuck)
        elif change.kind is POD:
            gone = change.type == "DELETED" or made["status"]["phase"] in ("Succeeded", "Failed")
            if made["spec"].get("nodeName"):
                self._bound(made, gone)
            elif gone or "deletionTimestamp" in made["metadata"]:
                self._shape_of.pop(made["metadata"]["uid"], None)
                self._waiting.pop(key_of(made), None)
                self._stuck.pop(key_of(made), None)
            elif key_of(made) not in self._stuck:
                self._waiting[key_of(made)] = None

    def _bound(self, pod: Object, gone: bool) -> None:
        uid, room = pod["metadata"]["uid"], self._rooms.get(pod["spec"]["nodeName"])
        if gone:
            self._priorities.pop(uid, None)
        else:
            self._priorities[uid] = pod["spec"].get("priority", 0)
        if room is None or gone is not (uid in room.pods):
            return
        if gone:
            room.give(uid)
            self._waiting |= dict.fromkeys(self._stuck)
        else:
            room.take(uid, requests(pod["spec"]))
        for shape in self._shapes.values():
            shape.look(room)

    def _node(self, change: Change) -> None:
        made, name = change.object, change.object["metadata"]["name"]
        if change.type == "DELETED":
            self._rooms.pop(name, None)
            for shape in self._shapes.values():
                shape.leave(name)
            return
        total = {key: milli(value) for key, value in made["status"]["allocatable"].items()}
        there = self._rooms.get(name)
        room = self._rooms[name] = Room(made, total, there.used if there else {}, there.pods if there else {})
        for shape in self._shapes.values():
            shape.look(room)
        self._waiting |= dict.fromkeys(self._stuck)

    def schedule(self) -> bool:
        """Places what waits, the most important first; whether anything did."""
        if not self._waiting:
            return False
        pods = [(key, self._store.get(POD, *key)) for key in self._waiting]
        self._waiting.clear()
        there = [(key, pod) for key, pod in pods if pod is not None and not pod["spec"].get("nodeName")]
        for key, pod in sorted(there, key=lambda item: -item[1]["spec"].get("priority", 0)):
            if pod["spec"].get("schedulerName") == COMPONENT:
                self._place(key, pod)
        return True

    def _place(self, key: Key, pod: Object) -> None:
        spec = pod["spec"]
        if spec.get("schedulingGates"):
            self._say(key, pod, "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates")
            return
        why = self._claims(pod)
        if why is None:
            shape = self._shape(pod)
            if shape.fits:
                self._stuck.pop(key, None)
                self._shape_of.pop(pod["metadata"]["uid"], None)
                self._bind(pod, min(shape.fits.values())[1])
                return
            why = shape.sentence(len(self._rooms))
        self._say(key, pod, "Unschedulable", why)
        priority = spec.get("priority", 0)
        if priority > min(self._priorities.values(), default=priority):
            self._preempt(pod)

    def _shape(self, pod: Object) -> Shape:
        uid, spec = pod["metadata"]["uid"], pod["spec"]
        named = self._shape_of.get(uid) or shape_of(spec)
        self._shape_of[uid] = named
        if named not in self._shapes:
            self._shapes[named] = Shape(spec)
            for room in self._rooms.values():
                self._shapes[named].look(room)
        return self._shapes[named]

    def _preempt(self, pod: Object) -> None:
        present = self._store.get(POD, *key_of(pod))
        if present is None:
            return
        node, chosen = victims(self._store, list(self._rooms.values()), present, requests(pod["spec"]))
        if chosen:
            self._store.change(POD, present, lambda made: made["status"].update(nominatedNodeName=node))
        for other in chosen:
            said = f"Preempted by pod {pod['metadata']['uid']} on node {node}"
            self._recorder.record((POD, other), "Normal", "Preempted", said, COMPONENT)
            why = f"{COMPONENT}: preempting to accommodate a higher priority pod"
            self.disrupt(other, "PreemptionByScheduler", why)

    def _claims(self, pod: Object) -> str | None:
        total = len(self._rooms)
        tail = f"preemption: 0/{total} nodes are available: {total} Preemption is not helpful for scheduling."
        for volume in pod["spec"].get("volumes") or []:
            name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            if not name:
                continue
            claim = self._store.get(CLAIM, pod["metadata"]["namespace"], name)
            phase = claim["status"].get("phase") if claim else None
            if claim is None:
                why = f'persistentvolumeclaim "{name}" not found'
            elif phase == "Lost":
                why = f'persistentvolumeclaim "{name}" bound to non-existent persistentvolume'
            elif phase != "Bound":
                why = "pod has unbound immediate PersistentVolumeClaims"
            else:
                continue
            return f"0/{total} nodes are available: {why}. {tail}"
        return None

    def _say(self, key: Key, pod: Object, reason: str, why: str) -> None:
        if self._stuck.get(key) == why:
            return
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
