"""What a recipe says of the machine: execution only, nothing here changes a fingerprint."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, field_validator, model_validator

from ft_assets.recipes.pods import Key, LabelValue, Pods, ResourceName
from ft_assets.recipes.strict import Strict

GPU_RESOURCE = "nvidia.com/gpu"  # as NVIDIA's device plugin names it, and the taint of its nodes
DEEPSPEED_SECTIONS = (
    "activation_checkpointing",
    "aio",
    "comms_logger",
    "flops_profiler",
    "memory_breakdown",
    "steps_per_print",
    "wall_clock_breakdown",
    "zero_optimization",
)
OURS_IN_ZERO = ("stage", "offload_optimizer", "offload_param")


def _in_print(name: str) -> str:
    if not name.isprintable() or name != name.strip():
        raise ValueError("a name in print, with no space at its ends")
    return name


class Gpu(Strict):
    """One type of GPU on offer, and the node it stands in. Price in US dollars per hour of one GPU.

    ``counts`` are the numbers of GPUs that may be taken; above ``per_node`` they are whole nodes. ``bf16_tflops`` is the dense
    peak of the data sheet. ``node_memory_gib`` and ``node_cpus`` are what a node has to give to pods.
    """

    name: Annotated[str, Field(min_length=1, max_length=63), AfterValidator(_in_print)]
    memory_gib: Annotated[float, Field(gt=0, le=4096)]
    bf16_tflops: Annotated[float, Field(gt=0, le=100_000)]
    usd_per_hour: Annotated[float, Field(ge=0, le=100_000)]
    counts: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=1)] = [1]
    per_node: Annotated[int, Field(ge=1, le=64)] = 8
    node_memory_gib: Annotated[float, Field(gt=0, le=65_536)]
    node_cpus: Annotated[int, Field(ge=1, le=1024)]
    resource: ResourceName = GPU_RESOURCE
    node_selector: dict[Key, LabelValue] = {}
    spot: bool = False

    @field_validator("counts")
    @classmethod
    def _named_once(cls, counts: list[int]) -> list[int]:
        return sorted(set(counts))

    @model_validator(mode="after")
    def _takes_whole_nodes(self) -> "Gpu":
        if uneven := [count for count in self.counts if count > self.per_node and count % self.per_node]:
            raise ValueError(f"counts has {uneven[0]}, which is more than one node and no multiple of {self.per_node}")
        return self


class Hardware(Strict):
    """Execution only: nothing here changes a fingerprint. Memory in GiB, price in US dollars per hour.

    ``dtype`` is what a model computes in; ``auto`` takes what the chip is fast in. A checkpoint is written every
    ``checkpoint_every_steps`` or ``checkpoint_every_minutes``; where neither is given, as often as loses least to a kill
    every 100 steps, or less often where saving would take more than 3% of the time. The last ``keep_checkpoints`` stay.
    ``deepspeed`` is merged into the configuration that is made from the rest, for what DeepSpeed can do and has no field here.
    ``parallel_trials`` of a sweep train at once, each with the memory and the processes given here.
    With ``gpus`` the plan chooses the type and number of GPUs for each stage, and ``processes``, ``nodes``, ``memory_gib`` and
    ``usd_per_hour`` are of no meaning to it. A plan that costs more than ``budget_usd`` is refused. Where ``zero_stage``,
    ``offload_optimizer``, ``offload_param`` and ``activation_checkpointing`` are ``auto``, the plan chooses them too.
    ``use_liger_kernel`` as ``auto`` takes Liger's kernels on a GPU where they are installed, but plans without; as ``true`` the
    plan counts on them, and a worker on a GPU without them stops.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    processes: Annotated[int, Field(ge=1, le=1024)] = 1
    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    threads_per_process: Annotated[int, Field(ge=1, le=1024)] | None = None
    memory_gib: Annotated[float, Field(gt=0, le=65_536)] = 8.0
    usd_per_hour: Annotated[float, Field(ge=0, le=100_000)] = 0.0
    zero_stage: Literal["auto", 0, 1, 2, 3] = "auto"
    offload_optimizer: Literal["auto", "none", "cpu"] = "auto"
    offload_param: Literal["auto", "none", "cpu"] = "auto"
    activation_checkpointing: Literal["auto"] | bool = "auto"
    torch_compile: bool = False
    use_liger_kernel: Literal["auto"] | bool = "auto"
    full_determinism: bool = False
    deepspeed: dict[str, JsonValue] = {}
    checkpoint_every_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    checkpoint_every_minutes: Annotated[float, Field(gt=0, le=10_000)] | None = None
    keep_checkpoints: Annotated[int, Field(ge=1, le=1000)] = 2
    evaluation_batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    parallel_trials: Annotated[int, Field(ge=1, le=1024)] = 1
    gpus: list[Gpu] = []
    budget_usd: Annotated[float, Field(gt=0, le=1e9)] | None = None
    pods: Pods = Pods()

    @model_validator(mode="after")
    def _deepspeed_has_what_it_needs(self) -> "Hardware":
        wanted = {
            "offload_optimizer": self.offload_optimizer == "cpu",
            "offload_param": self.offload_param == "cpu",
            "deepspeed": bool(self.deepspeed),
        }
        least = {"offload_optimizer": 1, "offload_param": 3, "deepspeed": 1}
        for name in (name for name, given in wanted.items() if given):
            if self.zero_stage == "auto" or self.zero_stage < least[name]:
                raise ValueError(f"{name} needs zero_stage {least[name]} or more, zero_stage is {self.zero_stage}")
        if unknown := sorted(set(self.deepspeed) - set(DEEPSPEED_SECTIONS)):
            raise ValueError(
                f"deepspeed has {', '.join(unknown)}; what changes no result may stand there: {', '.join(DEEPSPEED_SECTIONS)}"
            )
        zero = self.deepspeed.get("zero_optimization", {})
        if not isinstance(zero, dict):
            raise ValueError(f"deepspeed.zero_optimization is {zero!r:.40}, not a mapping")
        if taken := sorted(set(zero) & set(OURS_IN_ZERO)):
            raise ValueError(f"deepspeed.zero_optimization sets {', '.join(taken)}, which fields of hardware decide")
        return self

    @model_validator(mode="after")
    def _places_are_clear(self) -> "Hardware":
        if self.processes % self.nodes:
            raise ValueError(f"processes {self.processes} is no multiple of nodes {self.nodes}")
        names = [gpu.name for gpu in self.gpus]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"gpus names {twice[0]} twice; give one entry all of its counts")
        if self.gpus and self.device == "cpu":
            raise ValueError("device is cpu and gpus are on offer; leave one of the two out")
        return self

    def checkpoints(self) -> dict[str, float | None]:
        """What a worker is told of them."""
        return self.model_dump(include={"checkpoint_every_steps", "checkpoint_every_minutes", "keep_checkpoints"})
