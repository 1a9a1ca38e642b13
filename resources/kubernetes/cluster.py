"""The deployment's file (``FT_PODS``): where pods run, what they mount, and what holds where a recipe says nothing."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints

from ft_assets.core.errors import FineTuneError
from ft_assets.recipes.faults import read_as
from ft_assets.recipes.pods import DnsName, EnvironmentName, Pods, PodSettings

DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
WEEK_SECONDS = 7 * 86_400
# What holds where neither the recipe nor the deployment says anything.
UNSAID = PodSettings(
    job_api="job", active_deadline_seconds=WEEK_SECONDS, pending_seconds=3600, replan_on_oom=False, preemptions=10
)
BY_KEY = ("node_selector", "env_from_secrets", "labels", "annotations")
HOME = "/home/ft"
TAKEN = ("/", "/tmp", "/dev", "/dev/shm", HOME)


SECRET_NAME = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|(API|ACCESS|PRIVATE)_?KEY(_ID)?)$", re.IGNORECASE)
PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")


def _no_secrets(env: dict[str, str]) -> dict[str, str]:
    found = [name for name, value in env.items() if SECRET_NAME.search(name) or PASSWORD.search(value)]
    if found:
        raise ValueError(
            f"{', '.join(found)} with what seems to be a secret; name a Secret's key in env_from_secrets instead"
        )
    return env


def _mountable(path: str) -> str:
    parts = path.split("/")[1:]
    if not path.startswith("/") or ":" in path or {"", ".", ".."} & set(parts) or path in TAKEN:
        raise ValueError(f"an absolute path without :, . and .., and none of {', '.join(TAKEN)}")
    return path


class Cluster(Pods):
    """The file that ``FT_PODS`` names. Fields of pods (and ``stages``) hold beneath those of a recipe.

    ``claim`` is a PersistentVolumeClaim with FT_HOME, mounted at ``mount`` in the pods as in the orchestrator, so that a path
    means the same to both; artifacts may lie in a bucket all the same (FT_STORE), whose keys come by ``env_from_secrets``.
    ``env`` is for what is no secret (``NCCL_SOCKET_IFNAME``, a proxy).
    An image is named by its digest, unless ``allow_mutable_images``: what a tag means may change between a run and its resume.
    ``read_only_root`` leaves a pod /tmp, its home and the claim to write to.
    """

    namespace: DnsLabel
    claim: DnsName
    mount: Annotated[str, StringConstraints(max_length=1000), AfterValidator(_mountable)]
    env: Annotated[dict[EnvironmentName, str], AfterValidator(_no_secrets)] = {}
    allow_mutable_images: bool = False
    read_only_root: bool = True
    run_as_user: Annotated[int, Field(ge=1, le=2**31 - 1)] = 1000
    ttl_seconds_after_finished: Annotated[int, Field(ge=60, le=31_536_000)] = 86_400

    def settings(self, stage: str, recipe: dict[str, Any]) -> PodSettings:
        """What holds for the pods of a stage: the recipe's word, then the deployment's, then this project's.

        Maps (labels, annotations, the node selector, variables from secrets) are joined key by key.

        Args:
            recipe: ``hardware.pods.of(stage)``.

        Raises:
            FineTuneError: nobody names an image, or one that is not by its digest.
        """
        own = self.of(stage)
        joined = {name: {**own.get(name, {}), **recipe.get(name, {})} for name in BY_KEY}
        settings = PodSettings.model_validate({**UNSAID.model_dump(exclude_none=True), **own, **recipe, **joined})
        if settings.image is None:
            raise FineTuneError(f"no image for {stage}: give `image` in FT_PODS, or hardware.pods.image in the recipe")
        if not DIGEST.search(settings.image) and not self.allow_mutable_images:
            raise FineTuneError(
                f"the image of {stage} is {settings.image!r}, which has no digest; give name@sha256:..., or "
                "`allow_mutable_images: true` in FT_PODS"
            )
        return settings


def load_cluster(file: Path) -> Cluster:
    """The deployment's file.

    Raises:
        RecipeError: it cannot be read or has faults; each is named with its line and field.
    """
    return read_as(Cluster, file)
