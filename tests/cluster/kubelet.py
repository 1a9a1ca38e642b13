"""The kubelets of all nodes: pods from bound to ended, as scripts say or as processes of this machine."""

from collections.abc import Callable
from pathlib import Path

from cluster.api import Api
from cluster.clock import seconds_of
from cluster.conditions import set_condition
from cluster.containers import KILLED, Run, Script, statuses, terminated
from cluster.environment import environment, expanded, resolved
from cluster.events import Recorder
from cluster.kinds import CLAIM, CONFIG_MAP, NODE, POD, SECRET, Key, Object
from cluster.logs import Log
from cluster.loop import Loop
from cluster.obstacles import COMPONENT, Obstacles
from cluster.processes import Process
from cluster.store import Change, Store, key_of

RESTART_SECONDS, MOST_RESTART_SECONDS = 10, 300
MESSAGE_BYTES = 4096
MESSAGE_LINES = 80


class Unlike(Exception):
    """A test asks of a process what only a container could give."""


class Kubelet:
    """``script`` says what a pod does; ``missing_images`` cannot be pulled; ``folders`` are those of claims."""

    def __init__(self, store: Store, api: Api, loop: Loop, recorder: Recorder, folder: Path) -> None:
        self._store, self._api, self._loop, self._recorder, self._folder = store, api, loop, recorder, folder
        self.script: Callable[[Object], Script] = lambda pod: Script()
        self._obstacles = Obstacles(store, recorder)
        self.missing_images = self._obstacles.missing_images
        self.folders: dict[Key, Path] = {}
        self.away: set[str] = set()  # nodes whose kubelet does not answer
        self._runs: dict[str, Run] = {}
        self._logs: dict[Key, tuple[str, dict[str, Log], dict[str, Log]]] = {}

    def changed(self, change: Change) -> None:
        if change.kind is POD and change.object["spec"].get("nodeName"):
            if change.type == "DELETED":
                self._forget(change.object)
            else:
                self._loop.enqueue(self.reconcile, key_of(change.object))
        elif change.kind in (SECRET, CONFIG_MAP, CLAIM) and change.type != "DELETED":
            for run in self._runs.values():
                if run.state == "waiting":
                    self._loop.enqueue(self.reconcile, key_of(run.pod))

    def _forget(self, pod: Object) -> None:
        run = self._runs.pop(pod["metadata"]["uid"], None)
        for process in run.processes.values() if run else ():
            process.kill()
        self._logs.pop(key_of(pod), None)

    def reconcile(self, key: Key) -> None:
        pod = self._store.get(POD, *key)
        if (
            pod is None
            or pod["spec"]["nodeName"] in self.away
            or self._store.get(NODE, "", pod["spec"]["nodeName"]) is None
        ):
            return
        uid, over = pod["metadata"]["uid"], pod["status"]["phase"] in ("Succeeded", "Failed")
        run = self._runs.get(uid)
        if "deletionTimestamp" in pod["metadata"]:
            if run is None or over:
                self._runs.pop(uid, None)
                self._gone(pod, over)
            else:
                self._stop(run, pod)
        elif over:
            self._runs.pop(uid, None)
        elif run is None:
            self._runs[uid] = run = Run(pod, self.script(pod))
            self._logs[key] = (uid, run.logs, run.before)
            self._accept(run)
        elif run.state == "waiting" and run.reason == "CreateContainerConfigError":
            self._try(run)

    def _gone(self, pod: Object, over: bool) -> None:
        """Ends a deletion: a pod that never ran fails first, so that whoever counts sees an end."""
        if not over:
            self._store.change(POD, pod, lambda made: self._phase(made, "Failed", "PodFailed"))
        present = self._store.get(POD, *key_of(pod))
        if present is not None:
            self._api.remove(POD, present, grace=0)

    def _accept(self, run: Run) -> None:
        now = self._store.clock.stamp()

        def edit(made: Object) -> None:
            waiting = {"waiting": {"reason": "ContainerCreating"}}
            made["status"] |= {
                "startTime": now,
                "hostIP": "10.0.0.1",
                "podIP": "10.244.0.2",
                "containerStatuses": statuses(made, waiting),
            }
            if made["spec"].get("initContainers"):
                made["status"]["initContainerStatuses"] = statuses(
                    made, {"waiting": {"reason": "PodInitializing"}}, "initContainers"
                )
            set_condition(made, now, "PodReadyToStartContainers", "False")
            set_condition(made, now, "Initialized", "True")
            for type_ in ("Ready", "ContainersReady"):
                set_condition(
                    made, now, type_, "False", "ContainersNotReady", f"containers with unready status: {_names(made)}"
                )

        self._change(run, edit)
        deadline = run.pod["spec"].get("activeDeadlineSeconds")
        if deadline is not None:
            why = "Pod was active on the node longer than the specified deadline"
            self._store.clock.after(deadline, lambda: self.fail(run, "DeadlineExceeded", why))
        self._try(run)

    def _try(self, run: Run) -> None:
        """Goes as far as it can; what is in the way is tried again later."""
        if run.state != "waiting":
            return
        obstacle = self._obstacles.of(run)
        if obstacle is None:
            run.attempt += 1
            if run.script.starting_seconds:
                self._store.clock.after(run.script.starting_seconds, lambda: self._start(run))
            else:
                self._start(run)
            return
        run.reason = obstacle.reason
        if obstacle.reason:
            state = {"waiting": {"reason": obstacle.reason, "message": obstacle.message}}
            self._change(run, lambda made: _wait(made, state))
        self._store.clock.after(obstacle.seconds, lambda: self._try(run))

    def _start(self, run: Run) -> None:
        if run.state != "waiting" or run.pod["spec"]["nodeName"] in self.away:
            return
        run.state, run.started, run.reason = "running", self._store.clock.stamp(), ""
        run.codes.clear()
        for container in run.pod["spec"]["containers"]:
            run.logs[container["name"]] = Log()
            self._event(run, "Normal", "Pulled", f'Container image "{container["image"]}" already present on machine')
            self._event(run, "Normal", "Created", f"Container created: {container['name']}")
            self._event(run, "Normal", "Started", f"Container started: {container['name']}")
        self._change(run, lambda made: self._running(made, run))
        attempt = run.attempt
        if run.script.process:
            for container in run.pod["spec"]["containers"]:
                self._launch(run, container)
            return
        first = run.pod["spec"]["containers"][0]["name"]
        if run.script.log:
            run.logs[first].write(self._store.clock.now, run.script.log.encode())
        if run.script.running_seconds is not None:

            def end() -> None:
                if run.attempt == attempt and run.state == "running":
                    self.finish(run, run.script.exit_code, run.script.reason, run.script.message)

            self._store.clock.after(run.script.running_seconds, end)

    def _running(self, made: Object, run: Run) -> None:
        now = self._store.clock.stamp()
        made["status"]["phase"] = "Running"
        old = made["status"].get("containerStatuses") or []
        new = statuses(made, {"running": {"startedAt": now}})
        for before, after in zip(old, new, strict=True):
            after |= {
                "restartCount": run.restarts,
                "lastState": before.get("lastState") or {},
                "containerID": "containerd://0",
            }
        made["status"]["containerStatuses"] = new
        if made["spec"].get("initContainers"):
            done = terminated(0, "", "", now, now)
            made["status"]["initContainerStatuses"] = statuses(made, done, "initContainers")
        for type_ in ("PodReadyToStartContainers", "Ready", "ContainersReady"):
            set_condition(made, now, type_, "True")

    def _launch(self, run: Run, container: Object) -> None:
        pod, name, namespace = run.pod, container["name"], run.pod["metadata"]["namespace"]
        log, attempt = run.logs[name], run.attempt
        folder = self._folder / pod["metadata"]["uid"] / name
        folder.mkdir(parents=True, exist_ok=True)
        given = environment(self._store, pod, container)
        env = {key: resolved(self._store, namespace, value) for key, value in given.items()}
        host = pod["spec"].get("hostname") or pod["metadata"]["name"]
        env |= {"HOSTNAME": host, "FT_TERMINATION_LOG": str(self._message_file(run, name))}
        words = [*(container.get("command") or []), *(container.get("args") or [])]
        command = [resolved(self._store, namespace, expanded(word, given)) for word in words]
        try:
            self._check(pod, container)
            process = Process(
                command,
                env,
                Path(container.get("workingDir") or folder),
                lambda data: log.write(self._store.clock.now, data),
                lambda code: self._ended(run, attempt, name, code),
                f"{pod['metadata']['uid']}/{name}/{run.restarts}",
            )
        except (OSError, Unlike) as error:
            log.write(self._store.clock.now, f"{error}\n".encode())
            self.finish(run, 128, "StartError", f"failed to create containerd task: {error}")
            return
        run.processes[name] = process
        process.start()

    def _check(self, pod: Object, container: Object) -> None:
        """Raises Unlike for what a process of this machine cannot have."""
        if pod["spec"].get("initContainers"):
            raise Unlike("the double runs no initContainers as processes")
        if not container.get("command"):
            raise Unlike("the double has no images, so a pod with a process needs a command")
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or []}
        for mount in container.get("volumeMounts") or []:
            volume = volumes[mount["name"]]
            claim = (volume.get("persistentVolumeClaim") or {}).get("claimName", "")
            folder = self.folders.get((pod["metadata"]["namespace"], claim))
            if claim and folder is None:
                raise Unlike(f"claim {claim} has no folder: add_claim({claim!r}, folder)")
            if folder is not None and folder / (mount.get("subPath") or "") != Path(mount["mountPath"]):
                raise Unlike(f"claim {claim} is {folder}: it must be mounted there, not at {mount['mountPath']}")

    def _message_file(self, run: Run, name: str) -> Path:
        return self._folder / run.pod["metadata"]["uid"] / name / "termination-log"

    def _ended(self, run: Run, attempt: int, name: str, code: int) -> None:
        """A process has ended; called from its thread. The pod has when all have."""
        with self._store.changed:
            if self._runs.get(run.pod["metadata"]["uid"]) is not run or run.attempt != attempt or run.state == "ended":
                return
            if run.pod["spec"]["nodeName"] in self.away:
                return
            run.codes[name] = code
            if len(run.codes) == len(run.pod["spec"]["containers"]):
                first = next((each for each in run.codes if run.codes[each]), name)
                reason = "OOMKilled" if run.reason == "OOMKilled" else ""
                self.finish(run, run.codes[first], reason, self._message(run, first, run.codes[first]))
                self._loop.settle()

    def _message(self, run: Run, name: str, code: int) -> str:
        file = self._message_file(run, name)
        text = file.read_bytes()[-MESSAGE_BYTES:].decode("utf-8", "replace") if file.is_file() else ""
        container = next(each for each in run.pod["spec"]["containers"] if each["name"] == name)
        if not text and code and container["terminationMessagePolicy"] == "FallbackToLogsOnError":
            text = "".join(run.logs[name].text().splitlines(keepends=True)[-MESSAGE_LINES:])[-2048:]
        return text

    def finish(self, run: Run, code: int, reason: str = "", message: str = "") -> None:
        """The containers of a pod have ended; what becomes of the pod is its restart policy's business."""
        policy, stopping = run.pod["spec"]["restartPolicy"], run.state == "stopping"
        for log in run.logs.values():
            log.end()
        if not stopping and (policy == "Always" or (policy == "OnFailure" and code)):
            self._restart(run, code, reason, message)
            return
        run.state = "ended"
        now = self._store.clock.stamp()
        names = [container["name"] for container in run.pod["spec"]["containers"]]

        def edit(made: Object) -> None:
            for n, status in enumerate(made["status"].get("containerStatuses") or []):
                own = run.codes.get(names[n], code)
                told = n == 0 or names[n] in run.codes
                status |= {"ready": False, "started": False}
                status["state"] = terminated(own, reason if told else "", message if n == 0 else "", run.started, now)
            self._phase(made, "Failed" if code else "Succeeded", "PodFailed" if code else "PodCompleted")

        self._change(run, edit)

    def _restart(self, run: Run, code: int, reason: str, message: str) -> None:
        wait = min(RESTART_SECONDS * 2**run.restarts, MOST_RESTART_SECONDS)
        over = terminated(code, reason, message, run.started, self._store.clock.stamp())
        why = f"back-off {wait}s restarting failed container={_first(run)} pod={run.pod['metadata']['name']}"
        run.state, run.reason = "waiting", "CrashLoopBackOff"
        run.restarts += 1
        run.before.update(run.logs)

        def edit(made: Object) -> None:
            for status in made["status"]["containerStatuses"]:
                status |= {"ready": False, "started": False, "lastState": over, "restartCount": run.restarts}
                status["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": why}}
            for type_ in ("Ready", "ContainersReady"):
                set_condition(
                    made,
                    self._store.clock.stamp(),
                    type_,
                    "False",
                    "ContainersNotReady",
                    f"containers with unready status: {_names(made)}",
                )

        self._change(run, edit)
        self._event(run, "Warning", "BackOff", f"Back-off restarting failed container {_first(run)}")
        self._store.clock.after(wait, lambda: self._try(run))

    def _stop(self, run: Run, pod: Object) -> None:
        """SIGTERM once, SIGKILL at the end of the grace, which a later deletion may have shortened."""
        at = seconds_of(pod["metadata"]["deletionTimestamp"])
        if run.state == "waiting":
            run.state = "ended"
            self._change(run, lambda made: self._phase(made, "Failed", "PodFailed"))
            return
        if run.stop_at is None or at < run.stop_at:
            run.stop_at = at
            self._store.clock.after(at - self._store.clock.now, lambda: self._kill(run))
        if run.state != "running":
            return
        run.state = "stopping"
        self._event(run, "Normal", "Killing", f"Stopping container {_first(run)}")
        for process in run.processes.values():
            process.terminate()
        script = run.script
        if not script.process and script.exit_code_at_term is not None:
            code = script.exit_code_at_term

            def end() -> None:
                if run.state == "stopping":
                    self.finish(run, code, message=script.message)

            if script.term_seconds:
                self._store.clock.after(script.term_seconds, end)
            else:
                end()

    def _kill(self, run: Run) -> None:
        if run.state == "ended" or run.pod["spec"]["nodeName"] in self.away:
            return
        if run.processes and run.state in ("running", "stopping"):
            for process in run.processes.values():
                process.kill()
        else:
            self.finish(run, KILLED)

    def fail(self, run: Run, reason: str, message: str) -> None:
        """Ends a pod as a whole: eviction, a deadline. Its containers are killed."""
        if run.state == "ended" or run.pod["spec"]["nodeName"] in self.away:
            return
        for process in run.processes.values():
            process.kill()
        began, run.state = run.state, "ended"
        now = self._store.clock.stamp()
        for log in run.logs.values():
            log.end()

        def edit(made: Object) -> None:
            made["status"] |= {"reason": reason, "message": message}
            for status in made["status"].get("containerStatuses") or [] if began != "waiting" else []:
                status |= {"ready": False, "started": False, "state": terminated(KILLED, "", "", run.started, now)}
            self._phase(made, "Failed", "PodFailed")

        self._change(run, edit)

    def _phase(self, made: Object, phase: str, reason: str) -> None:
        made["status"]["phase"] = phase
        now = self._store.clock.stamp()
        set_condition(made, now, "PodReadyToStartContainers", "False")
        for type_ in ("Ready", "ContainersReady"):
            set_condition(made, now, type_, "False", reason)

    def _change(self, run: Run, edit: Callable[[Object], object]) -> None:
        self._store.change(POD, run.pod, edit)

    def _event(self, run: Run, type_: str, reason: str, message: str) -> None:
        self._recorder.record((POD, run.pod), type_, reason, message, COMPONENT)

    def run_of(self, pod: Object) -> Run:
        """Of a pod that is on a node and has not ended."""
        return self._runs[pod["metadata"]["uid"]]

    def runs(self) -> list[Run]:
        return list(self._runs.values())

    def logs_of(self, pod: Object) -> tuple[dict[str, Log], dict[str, Log]]:
        """The logs of its containers, and of their runs before the last restart."""
        uid, logs, before = self._logs.get(key_of(pod), ("", {}, {}))
        return (logs, before) if uid == pod["metadata"]["uid"] else ({}, {})


def _wait(made: Object, state: Object) -> None:
    for status in made["status"]["containerStatuses"]:
        status["state"] = state


def _names(pod: Object) -> str:
    return f"[{' '.join(container['name'] for container in pod['spec']['containers'])}]"


def _first(run: Run) -> str:
    return run.pod["spec"]["containers"][0]["name"]
