"""What a recipe says of the pods its stages run in: execution only, and of no meaning to the local launcher.

Field names are Kubernetes' own in this project's spelling (``node_selector`` is ``nodeSelector``); ``affinity`` and
entries of ``tolerations`` are Kubernetes objects as they stand in a manifest.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue, StringConstraints, model_validator

from ft_assets.recipes.strict import Strict

MAX_ANNOTATION_BYTES = 256 * 1024
# What names, finds and starts the pods of a stage; who sets it by hand breaks one of these.
OUR_VARIABLES = ("HOME", "USER", "TMPDIR", "MASTER_ADDR", "MASTER_PORT", "JOB_COMPLETION_INDEX")
OUR_VARIABLES_START = ("FT_", "DAGSTER_PIPES_")
OUR_KEYS = ("app.kubernetes.io/managed-by", "kueue.x-k8s.io/queue-name", "job-name", "controller-uid")
OUR_KEYS_START = ("ft-assets.dev/", "batch.kubernetes.io/", "jobset.sigs.k8s.io/")


def _free_variable(name: str) -> str:
    if name in OUR_VARIABLES or name.startswith(OUR_VARIABLES_START):
        raise ValueError("a variable that the launcher does not set itself")
    return name


def _free_key(key: str) -> str:
    if key in OUR_KEYS or key.startswith(OUR_KEYS_START):
        raise ValueError("a key that neither the launcher nor Kubernetes sets itself")
    return key


PLAIN = "[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
SUBDOMAIN = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
DnsName = Annotated[str, StringConstraints(pattern=f"^{SUBDOMAIN}$", max_length=253)]
QueueName = Annotated[DnsName, Field(max_length=63)]  # it becomes the value of a label
EnvironmentName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=253), AfterValidator(_free_variable)
]
Key = Annotated[str, StringConstraints(pattern=f"^({SUBDOMAIN}/)?{PLAIN}$", max_length=253)]
ResourceName = Annotated[str, StringConstraints(pattern=f"^{SUBDOMAIN}/{PLAIN}$", max_length=253)]
OwnKey = Annotated[Key, AfterValidator(_free_key)]
LabelValue = Annotated[str, StringConstraints(pattern=f"^({PLAIN})?$")]


# What a worker makes; a test compares them with what `ft deploy render` knows.
InPods = Literal[
    "base_model",
    "tokenized_splits",
    "cpt_adapter",
    "sft_sweep",
    "sft_adapter",
    "reward_model",
    "policy",
    "classifier",
    "merged_model",
    "quantized_model",
    "evaluation",
    "batch_predictions",
]


class SecretKey(Strict):
    """One key of a Secret; its value is never seen by the recipe, the manifest or a log."""

    secret: DnsName
    key: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,253}$")]


class Toleration(Strict):
    """Kubernetes' own, in its spelling: a taint on which a pod may run all the same."""

    key: Key | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    tolerationSeconds: int | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "Toleration":
        if self.key is None and self.operator != "Exists":
            raise ValueError("a toleration without a key has operator Exists")
        if self.operator == "Exists" and self.value:
            raise ValueError("a toleration with operator Exists has no value")
        if self.tolerationSeconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds wants effect NoExecute")
        return self


class PodSettings(Strict):
    """How a pod is made and where it may run; what is left out, the deployment decides (``FT_PODS``)."""

    image: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9./:@_-]*$", max_length=500)] | None = None
    image_pull_secrets: list[DnsName] | None = None
    service_account_name: DnsName | None = None
    node_selector: dict[Key, LabelValue] | None = None
    tolerations: list[Toleration] | None = None
    affinity: dict[str, JsonValue] | None = None
    priority_class_name: DnsName | None = None
    runtime_class_name: DnsName | None = None
    env_from_secrets: dict[EnvironmentName, SecretKey] | None = None
    labels: dict[OwnKey, LabelValue] | None = None
    annotations: dict[OwnKey, str] | None = None
    queue_name: QueueName | None = Field(default=None, description="Kueue's LocalQueue; the Job waits suspended in it")
    job_api: Literal["job", "jobset"] | None = None
    cpu: Annotated[float, Field(gt=0, le=1024)] | None = Field(default=None, description="cores requested for a pod")
    memory_gib: Annotated[float, Field(gt=0, le=65_536)] | None = Field(
        default=None, description="memory of a pod where the plan gives none (stages that do not train)"
    )
    gpus: Annotated[int, Field(ge=0, le=64)] | None = Field(
        default=None, description="GPUs of a pod whose stage does not train; one where the recipe says device cuda"
    )
    active_deadline_seconds: Annotated[int, Field(ge=60, le=31_536_000)] | None = None
    pending_seconds: Annotated[int, Field(ge=1, le=2_592_000)] | None = Field(
        default=None, description="how long a pod may wait to be scheduled before the step fails with the reason"
    )
    replan_on_oom: bool | None = Field(default=None, description="after OOMKilled, once more with more memory")
    preemptions: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        default=None, description="how often a preempted or evicted Job is started again before the step fails"
    )

    @model_validator(mode="after")
    def _annotations_are_small(self) -> "PodSettings":
        size = sum(len(f"{key}{value}".encode()) for key, value in (self.annotations or {}).items())
        if size > MAX_ANNOTATION_BYTES:
            raise ValueError(f"annotations take {size} bytes; {MAX_ANNOTATION_BYTES} are the most")
        return self


class Pods(PodSettings):
    """The same for all stages, and what differs for one (by asset name: ``sft_adapter``, ``evaluation``)."""

    stages: dict[InPods, PodSettings] = {}

    def of(self, stage: str) -> dict[str, Any]:
        """The settings of one stage as JSON; what is left out is not in it."""
        own = next((own for name, own in self.stages.items() if name == stage), PodSettings())
        kept = {"exclude_none": True, "mode": "json"}
        return {**self.model_dump(include=set(PodSettings.model_fields), **kept), **own.model_dump(**kept)}  # type: ignore[arg-type]
