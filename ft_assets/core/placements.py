"""Every way to run a stage on what is on offer, and the cheapest of those that fit.

A way is a number of processes of one kind (``Offer``) with a ZeRO stage, what is offloaded to the host, and whether activations
are computed again, each as the recipe fixes it or in turn; of each the largest micro-batch that fits is taken. A tenth of a
device's and of a node's memory is left free: what a prediction may miss, and what fragments.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from ft_assets.core.memory import GIB, Layout, Memory, stage_memory, tokens_of_longest
from ft_assets.core.shape import Shape
from ft_assets.core.training_time import stage_seconds
from ft_assets.recipes.hardware import GPU_RESOURCE, Gpu, Hardware
from ft_assets.recipes.schema import Recipe
from ft_assets.recipes.training import QUANTIZED_BASE, Policy, Training

MARGIN = 0.9


@dataclass(frozen=True)
class Task:
    """A stage that is to be placed: ``cpt``, ``sft``, ``reward``, ``policy`` or ``classifier`` of a recipe.

    ``part`` gives ``rows``, ``tokens`` and ``longest`` row of what it is trained on. A sweep may try ``batch_sizes`` beside the
    recipe's; ``at_once`` of its trials share a node, ``rounds`` times one after the other.
    """

    recipe: Recipe
    name: str
    shape: Shape
    part: dict[str, int]
    device: str
    batch_sizes: tuple[int, ...] = ()
    at_once: int = 1
    rounds: int = 1

    @property
    def settings(self) -> Training:
        found: Training = getattr(self.recipe, self.name)
        return found

    @cached_property
    def rows(self) -> dict[str, int]:
        """As its trainer counts them: both sides of a pair each, or each answer that a policy writes itself."""
        policy, part = self.settings, self.part
        if not isinstance(policy, Policy):
            return part
        if policy.method == "kto":
            return {**part, "rows": 2 * part["rows"]}
        if not policy.online:
            return part
        answers = part["rows"] * policy.num_generations
        return {
            "rows": answers,
            "tokens": policy.num_generations * part["tokens"] + answers * policy.max_completion_length,
            "longest": part["longest"] + policy.max_completion_length,
        }

    @property
    def least_micro_batch(self) -> int:
        """KTO compares the rows of a micro-batch."""
        return 2 if isinstance(self.settings, Policy) and self.settings.method == "kto" else 1


@dataclass(frozen=True)
class Offer:
    """So many processes of one kind. Memory in GiB of one process's device and of one node (0: not known), the price of all of
    them in US dollars per hour, ``cpus`` of one node (0: not known), ``gpus_per_node`` that a pod asks for, of ``per_node`` there.
    """

    processes: int
    nodes: int
    memory_gib: float
    usd_per_hour: float
    gpu: str = ""
    bf16_tflops: float = 0.0
    node_memory_gib: float = 0.0
    cpus: float = 0.0
    gpus_per_node: int = 0
    per_node: int = 0
    resource: str = ""
    node_selector: dict[str, str] = field(default_factory=dict)
    spot: bool = False

    def __str__(self) -> str:
        processes = f"{self.processes} process{'es' if self.processes > 1 else ''}"
        on = f" on {self.nodes} nodes" if self.nodes > 1 else ""
        return (f"{self.processes} x {self.gpu}" if self.gpu else processes) + on


@dataclass(frozen=True)
class Option:
    """A stage in one placement: memory, seconds and US dollars predicted; ``misfit`` says why it does not fit, if so."""

    offer: Offer
    layout: Layout
    accumulation: int
    memory: Memory
    seconds: float
    cost_usd: float
    misfit: str = ""

    def __str__(self) -> str:
        layout = self.layout
        offloaded = {
            "none none": "",
            "cpu none": "the optimizer",
            "none cpu": "weights",
            "cpu cpu": "optimizer and weights",
        }
        found = offloaded[f"{layout.offload_optimizer} {layout.offload_param}"]
        told = f"{self.offer}, ZeRO {layout.zero_stage}" + (f", {found} on the host" if found else "")
        return told + (", activation checkpointing" if layout.activation_checkpointing else "")

    def as_json(self) -> dict[str, Any]:
        return {
            "gpu": self.offer.gpu,
            "gradient_accumulation_steps": self.accumulation,
            **asdict(self.layout),
            "memory": asdict(self.memory),
            "peak_bytes": self.memory.peak,
            "seconds": self.seconds,
            "cost_usd": self.cost_usd,
            "fits": not self.misfit,
            "reason": self.misfit,
        }


def offers(hardware: Hardware, device: str, at_once: int = 1) -> list[Offer]:
    """What a stage, or ``at_once`` trials of it, may be run on: each number of each type of GPU, or the one machine that the
    recipe describes.
    """
    if hardware.gpus:
        return [_of_gpu(gpu, count, at_once) for gpu in hardware.gpus for count in gpu.counts]
    per_node = hardware.processes // hardware.nodes
    return [
        Offer(
            processes=hardware.processes,
            nodes=hardware.nodes,
            memory_gib=hardware.memory_gib,
            usd_per_hour=hardware.usd_per_hour,
            cpus=float((hardware.threads_per_process or 0) * per_node),
            gpus_per_node=per_node * at_once if device == "cuda" else 0,
            resource=GPU_RESOURCE if device == "cuda" else "",
        )
    ]


def _of_gpu(gpu: Gpu, count: int, at_once: int) -> Offer:
    nodes = max(1, count // gpu.per_node)
    on_node = count // nodes * at_once
    return Offer(
        processes=count,
        nodes=nodes,
        memory_gib=gpu.memory_gib,
        usd_per_hour=gpu.usd_per_hour * count * at_once,
        gpu=gpu.name,
        bf16_tflops=gpu.bf16_tflops,
        node_memory_gib=gpu.node_memory_gib,
        cpus=round(MARGIN * gpu.node_cpus * on_node / gpu.per_node, 2),  # the rest is for what else runs on a node
        gpus_per_node=on_node,
        per_node=gpu.per_node,
        resource=gpu.resource,
        node_selector=gpu.node_selector,
        spot=gpu.spot,
    )


def layouts(task: Task, offer: Offer) -> Iterator[Layout]:
    """Every layout that the recipe allows on an offer, with the least micro-batch.

    One process has nothing to part, so that ZeRO serves offload alone there; a CPU's memory is the host's already. An
    optimizer that looks at blocks of the weights must see them whole, and ZeRO-3 would load a quantized model whole on each rank.
    """
    hardware = task.recipe.hardware
    for zero in _zero_stages(task, offer):
        for optimizer, param in _offloads(hardware, task.device, zero):
            if hardware.zero_stage == "auto" and offer.processes == 1 and zero and "cpu" not in (optimizer, param):
                continue
            for again in (
                (False, True) if hardware.activation_checkpointing == "auto" else (hardware.activation_checkpointing,)
            ):
                yield Layout(
                    device=task.device,
                    processes=offer.processes,
                    nodes=offer.nodes,
                    micro_batch=task.least_micro_batch,
                    zero_stage=zero,
                    offload_optimizer=optimizer,
                    offload_param=param,
                    activation_checkpointing=again,
                    liger=hardware.use_liger_kernel is True,
                )


def _zero_stages(task: Task, offer: Offer) -> tuple[int, ...]:
    """In order of preference. Of a machine's several processes ZeRO-2 comes first, as it takes less memory for the same traffic;
    of GPUs on offer, that pay by what they take, the simplest.
    """
    hardware = task.recipe.hardware
    if hardware.zero_stage != "auto":
        return (hardware.zero_stage,)
    if task.settings.optim != "adamw_torch_fused":
        return (0,)
    order = (0, 1, 2, 3) if hardware.gpus or offer.processes == 1 else (2, 3, 0, 1)
    quantized = task.recipe.adapter.method in QUANTIZED_BASE
    return tuple(zero for zero in order if zero < 3 or not quantized)


def _offloads(hardware: Hardware, device: str, zero: int) -> Iterator[tuple[str, str]]:
    """Pairs of where the optimizer and the weights are; weights go to the host only where the optimizer is there."""
    optimizers, params = (
        (["none", "cpu"] if device == "cuda" and zero >= least else ["none"]) if wanted == "auto" else [wanted]
        for wanted, least in ((hardware.offload_optimizer, 1), (hardware.offload_param, 3))
    )
    for optimizer in optimizers:
        for param in params:
            if hardware.offload_param != "auto" or param == "none" or optimizer == "cpu":
                yield optimizer, param


def options(task: Task) -> tuple[list[Option], list[str]]:
    """Every option, and what was left out because its processes cannot share the global batch, in words."""
    found, left_out = [], []
    for offer in offers(task.recipe.hardware, task.device, task.at_once):
        if why := uneven(task, offer):
            left_out.append(f"{offer}: {why}")
        else:
            found += [_option(task, offer, layout) for layout in layouts(task, offer)]
    return found, left_out


def fits(task: Task) -> bool:
    """Whether some option does: one with the smallest micro-batch, or with the largest, which accumulates nothing."""
    return any(
        not _misfit(task, offer, sized, _memory(task, sized))
        for offer in offers(task.recipe.hardware, task.device, task.at_once)
        if not uneven(task, offer)
        for layout in layouts(task, offer)
        for sized in (
            replace(layout, micro_batch=size) for size in {*_sizes(task, offer)[:1], *_sizes(task, offer)[-1:]}
        )
    )


def uneven(task: Task, offer: Offer) -> str:
    """Why so many processes cannot share a step's rows, of whatever size a sweep may try, or its trials a node, in whose one pod
    they are processes; empty where they can.
    """
    size = f"{task.name}.global_batch_size {task.settings.global_batch_size}"
    of = f"{offer.processes} GPUs" if offer.gpu else f"hardware.processes {offer.processes}"
    if task.settings.global_batch_size % offer.processes:
        return f"{size} is no multiple of {of}"
    if uneven := [other for other in task.batch_sizes if other % offer.processes]:
        return f"hyperparameters.search.sft.global_batch_size may be {uneven[0]}, which is no multiple of {of}"
    if task.settings.global_batch_size // offer.processes < task.least_micro_batch:
        return f"kto compares at least two rows at a time, and {size} gives each of {of} one"
    if task.at_once > 1 and offer.gpu and offer.processes * task.at_once > offer.per_node:
        wanted = (
            f"hardware.parallel_trials {task.at_once} of {of} each want {offer.processes * task.at_once} in one node"
        )
        return f"{wanted}, per_node of {offer.gpu} is {offer.per_node}"
    return ""


def _memory(task: Task, layout: Layout) -> Memory:
    return stage_memory(task.recipe, task.name, task.shape, task.rows, layout)


def _option(task: Task, offer: Offer, layout: Layout) -> Option:
    """With the largest micro-batch that fits. More rows want more, but for one that leaves nothing to accumulate: it may want less
    than a smaller.
    """
    per_process = task.settings.global_batch_size // offer.processes
    *fewer, whole = _sizes(task, offer)
    size = whole

    def misfit_of(size: int) -> str:
        sized = replace(layout, micro_batch=size)
        return _misfit(task, offer, sized, _memory(task, sized))

    if fewer and misfit_of(whole):
        size = fewer[max(0, bisect_left(fewer, True, key=lambda size: bool(misfit_of(size))) - 1)]
    layout = replace(layout, micro_batch=size)
    memory = _memory(task, layout)
    seconds = task.rounds * stage_seconds(task.recipe, task.name, task.shape, task.rows, layout, offer.bf16_tflops)
    return Option(
        offer=offer,
        layout=layout,
        accumulation=per_process // layout.micro_batch,
        memory=memory,
        seconds=round(seconds, 1),
        cost_usd=round(seconds / 3600 * offer.usd_per_hour, 6),
        misfit=_misfit(task, offer, layout, memory),
    )


def _sizes(task: Task, offer: Offer) -> list[int]:
    """Micro-batches that divide a process's share of the batch."""
    per_process = task.settings.global_batch_size // offer.processes
    return [size for size in _divisors(per_process) if size >= task.least_micro_batch]


@lru_cache
def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _misfit(task: Task, offer: Offer, layout: Layout, memory: Memory) -> str:
    rows = "one row of {} tokens wants" if layout.micro_batch == 1 else "two rows of {} tokens want"
    room, host = offer.memory_gib * MARGIN, offer.node_memory_gib * MARGIN
    if memory.peak > room * GIB:
        wanted = rows.format(tokens_of_longest(task.recipe, task.rows))
        return f"{wanted} {memory.peak / GIB:.1f} GiB, {field_of(offer)} allows {room:.1f}"
    if host and memory.host * task.at_once > host * GIB:
        return (
            f"the processes of a node want {memory.host * task.at_once / GIB:.1f} GiB of its own memory, node_memory_gib of "
            f"{offer.gpu} allows {host:.1f}"
        )
    return ""


def field_of(offer: Offer) -> str:
    """Where a recipe says what memory a process has."""
    return f"memory_gib of {offer.gpu}" if offer.gpu else "hardware.memory_gib"


def preference(task: Task, option: Option) -> tuple[float, ...]:
    """Sort key, the best first: cost, then fewer processes, less time, a simpler ZeRO stage, less offloaded, nothing computed again."""
    layout = option.layout
    offloaded = (layout.offload_optimizer, layout.offload_param).count("cpu")
    order = _zero_stages(task, option.offer).index(layout.zero_stage)
    return (option.cost_usd, layout.processes, option.seconds, order, offloaded, layout.activation_checkpointing)
