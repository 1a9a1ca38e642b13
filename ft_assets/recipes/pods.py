"""What a recipe says of the pods its stages run in: execution only, and of no meaning to the local launcher.

Field names are Kubernetes' own in this project's spelling (``node_selector`` is ``nodeSelector``); values of ``tolerations``,
``affinity`` and the like are Kubernetes objects as they stand in a manifest.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, StringConstraints

from ft_assets.recipes.strict import Strict

DnsName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class SecretKey(Strict):
    """One key of a Secret; its value is never seen by the recipe, the manifest or a log."""

    secret: DnsName
    key: Annotated[str, Field(min_length=1, max_length=253)]


class PodSettings(Strict):
    """How a pod is made and where it may run; what is left out, the deployment decides (``FT_PODS``)."""

    image: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    image_pull_secrets: list[DnsName] | None = None
    service_account_name: DnsName | None = None
    node_selector: dict[str, str] | None = None
    tolerations: list[dict[str, JsonValue]] | None = None
    affinity: dict[str, JsonValue] | None = None
    priority_class_name: DnsName | None = None
    runtime_class_name: DnsName | None = None
    env_from_secrets: dict[EnvironmentName, SecretKey] | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    queue_name: DnsName | None = Field(default=None, description="Kueue's LocalQueue; the Job waits suspended in it")
    job_api: Literal["job", "jobset"] | None = None
    cpu: Annotated[float, Field(gt=0, le=1024)] | None = Field(default=None, description="cores requested for a pod")
    memory_gib: Annotated[float, Field(gt=0, le=65_536)] | None = Field(
        default=None, description="memory of a pod where the plan gives none (stages that do not train)"
    )
    active_deadline_seconds: Annotated[int, Field(ge=60, le=31_536_000)] | None = None
    pending_seconds: Annotated[int, Field(ge=1, le=2_592_000)] | None = Field(
        default=None, description="how long a pod may wait to be scheduled before the step fails with the reason"
    )
    replan_on_oom: bool | None = Field(default=None, description="after OOMKilled, once more with more memory")
    preemptions: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        default=None, description="how often a preempted or evicted Job is started again before the step fails"
    )


class Pods(PodSettings):
    """The same for all stages, and what differs for one (by asset name: ``sft_adapter``, ``evaluation``)."""

    stages: dict[str, PodSettings] = {}

    def of(self, stage: str) -> dict[str, Any]:
        """The settings of one stage as JSON; what is left out is not in it."""
        own = self.stages.get(stage, PodSettings())
        kept = {"exclude_none": True, "mode": "json"}
        return {**self.model_dump(include=set(PodSettings.model_fields), **kept), **own.model_dump(**kept)}  # type: ignore[arg-type]
