"""What to change where a stage's memory does not suffice: when it is planned, or when it trains after all."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from pydantic import ValidationError

from ft_assets.core.memory import GIB, stage_memory
from ft_assets.core.placements import MARGIN, Offer, Option, Task, fits, layouts, offers, uneven
from ft_assets.core.shape import Shape
from ft_assets.recipes.schema import Recipe
from ft_assets.recipes.training import Full, Lora, Policy

NAMED = 3
SHORTER_BY = 16  # rows are cut in steps of so many tokens
MOST_PROCESSES = 64
OF_LAYER = re.compile(r"\.(\d+)\.")
QLORA = {"method": "qlora", "r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}


@dataclass(frozen=True)
class Change:
    """One thing to set otherwise: ``values`` by dotted field of the recipe; ``layers``, so many has a base model that would do;
    ``gib`` of a device and of its node, where more is asked of them.
    """

    text: str
    values: dict[str, Any] = field(default_factory=dict)
    layers: int | None = None
    gib: tuple[float, float] | None = None

    def __and__(self, other: "Change") -> "Change":
        return Change(f"{self.text} and {other.text}", {**self.values, **other.values})

    def wants_no_less(self, other: "Change") -> bool:
        """Whether it asks for as much memory as the other, or more."""
        if self.gib is None or other.gib is None:
            return False
        return self.gib[0] >= other.gib[0] and self.gib[1] >= other.gib[1]


def refusal(task: Task, considered: list[Option], left_out: list[str]) -> str:
    """Why a stage cannot be placed, from the option that comes closest, and what would fit."""
    if not considered:
        return f"{task.name}: {'; '.join(left_out)}. Give other numbers"
    closest = min(considered, key=lambda option: option.memory.peak / option.offer.memory_gib)
    changes = [change.text for change in smallest_changes(task)]
    would = "Any of these would fit: " if len(changes) > 1 else "This would fit: "
    found = would + "; ".join(changes) if changes else "No change of one or two fields would fit"
    beside = f", left out {'; '.join(left_out)}" if left_out else ""
    return f"{task.name}: {closest.misfit} (the closest of {len(considered)} placements{beside}). {found}"


def smallest_changes(task: Task) -> list[Change]:
    """The three smallest changes with which some placement fits, each tried on the plan; fewer where there are no more.

    Those that change how it runs come before those that change what comes out; then two at once; a smaller model comes last.
    """
    found = list(islice(_fitting(task), NAMED))
    if len(found) < NAMED:
        found += list(islice(_in_pairs(task, found), NAMED - len(found)))
    if len(found) < NAMED and (smaller := _smaller_model(task)):
        found.append(smaller)
    return found


def applied(task: Task, change: Change) -> Task | None:
    """The task with a change made; None where that is no recipe."""
    body = task.recipe.model_dump()
    for name, value in change.values.items():
        *path, last = name.split(".")
        inner = body
        for step in path:
            inner = inner[step]
        inner[last] = value
    try:
        recipe = Recipe.model_validate(body)
    except ValidationError:
        return None
    part, shape = task.part, task.shape
    if "data.max_length" in change.values:
        part = {**part, "longest": min(part["longest"], recipe.data.max_length)}
    if change.layers is not None:
        shape = _of_layers(shape, change.layers)
    return replace(task, recipe=recipe, part=part, shape=shape)


def _would_fit(task: Task, change: Change | None) -> bool:
    changed = applied(task, change) if change else None
    return changed is not None and fits(changed)


def _fitting(task: Task) -> Iterator[Change]:
    """Single changes that fit, the smallest first."""
    proposals: list[Callable[[Task], Iterator[Change]]] = [
        _lighter,
        _more_processes,
        _more_memory,
        _shorter,
        _quantized,
    ]
    for propose in proposals:
        for change in propose(task):
            if _would_fit(task, change):
                yield change
                if propose is _more_processes:
                    break


def _in_pairs(task: Task, alone: list[Change]) -> Iterator[Change]:
    """Two changes that fit together, where neither is among those that fit alone, nor more memory than does alone."""
    told = [change.text for change in alone]
    for first in (*_lighter(task), *_quantized(task), *islice(_more_processes(task), 2)):
        changed = applied(task, first) if first.text not in told else None
        for second in _fitting(changed) if changed else ():
            if any(second.wants_no_less(change) for change in alone) or set(first.values) & set(second.values):
                continue
            if second.text not in told:
                yield first & second
                break


def _lighter(task: Task) -> Iterator[Change]:
    """What the recipe fixes and the plan could choose otherwise."""
    hardware = task.recipe.hardware
    if hardware.activation_checkpointing is False:
        yield Change("hardware.activation_checkpointing: true", {"hardware.activation_checkpointing": True})
    if hardware.zero_stage in (0, 1, 2):
        yield Change("hardware.zero_stage: 3", {"hardware.zero_stage": 3})
    if task.device == "cuda" and hardware.offload_optimizer == "none":
        stage = hardware.zero_stage if hardware.zero_stage in (1, 2, 3) else 2
        values = {"hardware.offload_optimizer": "cpu", "hardware.zero_stage": stage}
        yield Change(f"hardware.offload_optimizer: cpu with zero_stage: {stage}", values)


def _more_processes(task: Task) -> Iterator[Change]:
    hardware = task.recipe.hardware
    for count in range(2, MOST_PROCESSES + 1):
        if not hardware.gpus:
            if count > hardware.processes and _all_stages_share(task, count):
                yield Change(f"hardware.processes: {count}", {"hardware.processes": count})
            continue
        for at, gpu in enumerate(hardware.gpus):
            if count > max(gpu.counts) and not task.settings.global_batch_size % count:
                counted = gpu.model_dump() | {"counts": [*gpu.counts, count]}
                yield Change(f"{count} in counts of {gpu.name}", _with_gpu(task, at, counted))


def _all_stages_share(task: Task, processes: int) -> bool:
    """The batch of each stage of the recipe, as all of them run on so many."""
    offer = replace(offers(task.recipe.hardware, task.device)[0], processes=processes)
    others = [name for name in task.recipe.trained_on if name != task.name]
    return not any(
        uneven(each, offer) for each in (task, *(replace(task, name=name, batch_sizes=()) for name in others))
    )


def _with_gpu(task: Task, at: int, gpu: dict[str, Any]) -> dict[str, Any]:
    entries = [entry.model_dump() for entry in task.recipe.hardware.gpus]
    return {"hardware.gpus": [*entries[:at], gpu, *entries[at + 1 :]]}


def _more_memory(task: Task) -> Iterator[Change]:
    """The least memory with which some layout has room for a row."""
    wants: list[tuple[int, int, Offer]] = []
    for offer in offers(task.recipe.hardware, task.device, task.at_once):
        for layout in layouts(task, offer) if not uneven(task, offer) else ():
            memory = stage_memory(task.recipe, task.name, task.shape, task.rows, layout)
            wants.append((_gib(memory.peak), _gib(memory.host * task.at_once), offer))
    if not wants:
        return
    device, host, offer = min(wants, key=lambda want: (max(want[0] / want[2].memory_gib, 1), want[:2]))
    if not offer.gpu:
        yield Change(f"hardware.memory_gib: {device}", {"hardware.memory_gib": device}, gib=(device, 0))
        return
    at = next(at for at, gpu in enumerate(task.recipe.hardware.gpus) if gpu.name == offer.gpu)
    more = {"memory_gib": max(device, offer.memory_gib), "node_memory_gib": max(host, offer.node_memory_gib)}
    had = {"memory_gib": offer.memory_gib, "node_memory_gib": offer.node_memory_gib}
    text = " and ".join(f"{name}: {value:g}" for name, value in more.items() if value != had[name])
    raised = task.recipe.hardware.gpus[at].model_dump() | more
    yield Change(
        f"in hardware.gpus one like {offer.gpu} with {text}",
        _with_gpu(task, at, raised),
        gib=(more["memory_gib"], more["node_memory_gib"]),
    )


def _gib(size: int) -> int:
    return math.ceil(size / GIB / MARGIN)


def _shorter(task: Task) -> Iterator[Change]:
    """The longest rows, and of an online policy the longest answers, that would fit."""
    longest = min(task.part["longest"], task.recipe.data.max_length)

    def rows(steps: int) -> Change:
        return Change(f"data.max_length: {steps * SHORTER_BY}", {"data.max_length": steps * SHORTER_BY})

    if found := _largest(task, (longest - 1) // SHORTER_BY, rows):
        yield found
    if isinstance(task.settings, Policy) and task.settings.online:

        def answers(tokens: int) -> Change:
            return Change(f"policy.max_completion_length: {tokens}", {"policy.max_completion_length": tokens})

        if found := _largest(task, task.settings.max_completion_length - 1, answers):
            yield found


def _quantized(task: Task) -> Iterator[Change]:
    adapter = task.recipe.adapter
    if isinstance(adapter, Lora) and adapter.method != "qlora":
        yield Change("adapter.method: qlora", {"adapter.method": "qlora"})
    elif isinstance(adapter, Full):
        yield Change("adapter.method: qlora (r: 16, lora_alpha: 32, target_modules: all-linear)", {"adapter": QLORA})


def _smaller_model(task: Task) -> Change | None:
    def of(layers: int) -> Change:
        billions = _of_layers(task.shape, layers).parameters / 1e9
        return Change(f"a base_model of {billions:.3g} billion parameters ({layers} such layers)", layers=layers)

    return _largest(task, task.shape.layers - 1, of)


def _largest(task: Task, most: int, change: Callable[[int], Change]) -> Change | None:
    """The change with the greatest number up to ``most`` that fits; what fits with one fits with each smaller."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        if _would_fit(task, change(middle)):
            low = middle
        else:
            high = middle
    return change(low) if low else None


def _of_layers(shape: Shape, layers: int) -> Shape:
    """The model with its first layers alone."""
    kept = {name: size for name, size in shape.linear.items() if (at := OF_LAYER.search(name)) and int(at[1]) < layers}
    gone = sum(rows * columns for name, (rows, columns) in shape.linear.items() if name not in kept)
    parameters = shape.parameters - gone
    on_disk = shape.file_bytes * parameters // shape.parameters
    return replace(shape, layers=layers, linear=kept, parameters=parameters, file_bytes=on_disk)


def memory_advice(placement: dict[str, Any], memory_gib: float) -> str:
    """After memory ran out: the plan's numbers, and the memory to plan with so that it takes a leaner placement. What else there is
    to change, the plan says itself where nothing fits any more.

    Args:
        placement: a stage's entry of the training plan; its ``peak_bytes`` is for one process.
        memory_gib: what the plan took for a process's memory.
    """
    micro, peak = placement["micro_batch"], placement["peak_bytes"]
    field_ = f"memory_gib of {placement['gpu']} in hardware.gpus" if placement["gpu"] else "hardware.memory_gib"
    planned = (
        f"The plan: micro-batch {micro}, rows of up to {placement['longest_row_tokens']} tokens, "
        f"{peak / GIB:.2f} GiB at most of {field_} {memory_gib:g}. "
    )
    if micro > 1:
        half = _next_smaller(micro, micro * placement["gradient_accumulation_steps"])
        fits = peak - placement["activations_bytes"] * (micro - half) // micro
        # To be allowed for this micro-batch and no larger one.
        smaller = math.ceil(fits / GIB / MARGIN * 100) / 100
        return planned + f"Set {field_}: {smaller:g}, and the micro-batch is {half} ({fits / GIB:.2f} GiB)"
    less = (math.ceil(peak / GIB / MARGIN * 100) - 1) / 100
    return (
        planned
        + f"One row at a time did not fit. Set {field_}: {less:g}, and the plan finds what wants less, or names it"
    )


def _next_smaller(micro: int, per_process: int) -> int:
    """The next smaller micro-batch that divides the batch of one process."""
    return max(size for size in range(1, micro) if per_process % size == 0)
