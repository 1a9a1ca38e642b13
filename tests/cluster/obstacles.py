"""What keeps a pod's containers from starting: a volume, an image, a Secret that is not there."""

from dataclasses import dataclass

from cluster.containers import Run, valid_image
from cluster.environment import NotConfigured, environment
from cluster.events import Recorder
from cluster.kinds import CONFIG_MAP, POD, SECRET, Object
from cluster.store import Store

COMPONENT = "kubelet"
RETRY_SECONDS, MOST_PULL_SECONDS = 10, 300


@dataclass(frozen=True)
class Obstacle:
    """``reason`` is that of the waiting containers, empty for ContainerCreating; tried again after ``seconds``."""

    reason: str
    message: str
    seconds: float = RETRY_SECONDS


class Obstacles:
    """``missing_images`` cannot be pulled."""

    def __init__(self, store: Store, recorder: Recorder) -> None:
        self._store, self._recorder = store, recorder
        self.missing_images: set[str] = set()

    def of(self, run: Run) -> Obstacle | None:
        """The first one, with its events."""
        pod = run.pod
        for volume in pod["spec"].get("volumes") or []:
            if absent := self._absent(pod, volume):
                why = f'MountVolume.SetUp failed for volume "{volume["name"]}" : {absent}'
                self._event(run, "Warning", "FailedMount", why)
                return Obstacle("", "")
        for container in [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]:
            if problem := self._image(run, container["image"]):
                return problem
        for container in pod["spec"]["containers"]:
            try:
                environment(self._store, pod, container)
            except NotConfigured as error:
                self._event(run, "Warning", "Failed", f"Error: {error}")
                return Obstacle("CreateContainerConfigError", str(error))
        return None

    def _absent(self, pod: Object, volume: Object) -> str:
        for kind, source, name in ((SECRET, "secret", "secretName"), (CONFIG_MAP, "configMap", "name")):
            wanted = volume.get(source) or {}
            if not wanted.get(name) or wanted.get("optional"):
                continue
            if self._store.get(kind, pod["metadata"]["namespace"], wanted[name]) is None:
                return f'{kind.kind.lower()} "{wanted[name]}" not found'
        return ""

    def _image(self, run: Run, image: str) -> Obstacle | None:
        if not valid_image(image):
            why = f'couldn\'t parse image name "{image}": invalid reference format'
            why = f'Failed to apply default image tag "{image}": {why}'
            self._event(run, "Warning", "InspectFailed", why)
            self._event(run, "Warning", "Failed", "Error: InvalidImageName")
            return Obstacle("InvalidImageName", why)
        if image not in self.missing_images:
            return None
        why = (
            f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": pull access denied, '
            "repository does not exist or may require authorization: authorization failed: no basic auth credentials"
        )
        if run.reason == "ErrImagePull":
            back_off = min(RETRY_SECONDS * 2 ** (run.pull_failures - 1), MOST_PULL_SECONDS)
            self._event(run, "Normal", "BackOff", f'Back-off pulling image "{image}"')
            self._event(run, "Warning", "Failed", "Error: ImagePullBackOff")
            said = f'Back-off pulling image "{image}": ErrImagePull: {why}'
            return Obstacle("ImagePullBackOff", said, back_off)
        run.pull_failures += 1
        self._event(run, "Normal", "Pulling", f'Pulling image "{image}"')
        self._event(run, "Warning", "Failed", f'Failed to pull image "{image}": {why}')
        self._event(run, "Warning", "Failed", "Error: ErrImagePull")
        return Obstacle("ErrImagePull", why)

    def _event(self, run: Run, type_: str, reason: str, message: str) -> None:
        self._recorder.record((POD, run.pod), type_, reason, message, COMPONENT)
