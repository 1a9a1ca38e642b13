"""The plan: peak memory, time and cost of each training stage, and the placement chosen from them.

LoRA costs 4 FLOP per parameter and token (forward 2, backward through frozen weights 2), training every weight 6.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from ft_assets.core.errors import FineTuneError
from ft_assets.core.memory import GIB, Layout, stage_memory, tokens_of_longest
from ft_assets.core.shape import Shape
from ft_assets.recipes.schema import Recipe
from ft_assets.recipes.sweep import Sweep
from ft_assets.recipes.training import Full, Policy, Training

MARGIN = 0.9
FLOPS_PER_SECOND = {"cpu": 0.9e11, "cuda": 4.0e14}


@dataclass(frozen=True)
class StagePlan:
    """Placement and prediction for one stage; memory in bytes per process, time in seconds, cost in US dollars."""

    stage: str
    processes: int
    micro_batch: int
    gradient_accumulation_steps: int
    zero_stage: int
    offload_optimizer: str
    offload_param: str
    activation_checkpointing: bool
    steps: int
    longest_row_tokens: int
    weights_bytes: int
    trainable_bytes: int
    activations_bytes: int
    peak_bytes: int
    seconds: float
    cost_usd: float


def plan_recipe(recipe: Recipe, shape: Shape, splits: dict[str, dict[str, int]], device: str) -> list[StagePlan]:
    """One plan per stage the recipe trains; with a sweep, for the values that want most, and one for all trials in turn.

    Args:
        splits: of each training role: ``rows``, ``tokens`` and ``longest`` row.
        device: ``cpu`` or ``cuda``.

    Raises:
        FineTuneError: not even one row at a time fits; says what would.
    """
    sweep = recipe.hyperparameters
    if sweep is not None:
        _refuse_uneven_batches(recipe, sweep)
        recipe = recipe.with_values(sweep.largest())
    parts = {
        "cpt": "cpt",
        "sft": "sft",
        "reward": "preference",
        "policy": recipe.policy_role,
        "classifier": "classification",
    }
    plans = []
    for name, part in parts.items():
        settings: Training | None = getattr(recipe, name)
        if settings is not None:
            rows = splits[part]
            if isinstance(settings, Policy):
                rows = _seen_by(settings, rows)
            plan = _plan_stage(recipe, name, settings, shape, rows, device)
            if sweep is not None and name == "sft":
                seconds, cost = plan.seconds * sweep.n_trials, plan.cost_usd * sweep.n_trials
                plans.append(replace(plan, stage="sft_sweep", seconds=round(seconds, 1), cost_usd=round(cost, 6)))
            plans.append(plan)
    return plans


def _seen_by(policy: Policy, rows: dict[str, int]) -> dict[str, int]:
    """The rows that a policy's trainer counts: both sides of a pair each, or each answer that it writes itself."""
    if policy.method == "kto":
        return {**rows, "rows": 2 * rows["rows"]}
    if not policy.online:
        return rows
    answers = rows["rows"] * policy.num_generations
    return {
        "rows": answers,
        "tokens": policy.num_generations * rows["tokens"] + answers * policy.max_completion_length,
        "longest": rows["longest"] + policy.max_completion_length,
    }


def _refuse_uneven_batches(recipe: Recipe, sweep: Sweep) -> None:
    processes, space = recipe.hardware.processes, sweep.search.sft.get("global_batch_size")
    if uneven := [size for size in space.whole_numbers() if size % processes] if space else []:
        raise FineTuneError(
            f"hyperparameters.search.sft.global_batch_size may be {uneven[0]}, which is no multiple of "
            f"hardware.processes {processes}; give choices, or low and step that are"
        )


def _plan_stage(
    recipe: Recipe, name: str, settings: Training, shape: Shape, part: dict[str, int], device: str
) -> StagePlan:
    hardware = recipe.hardware
    if settings.global_batch_size % hardware.processes:
        raise FineTuneError(
            f"{name}.global_batch_size {settings.global_batch_size} is no multiple of "
            f"hardware.processes {hardware.processes}"
        )
    per_process = settings.global_batch_size // hardware.processes
    zero = (0 if hardware.processes == 1 else 2) if hardware.zero_stage == "auto" else hardware.zero_stage
    layouts = [
        Layout(
            device=device,
            processes=hardware.processes,
            nodes=1,
            micro_batch=size,
            zero_stage=zero,
            offload_optimizer=hardware.offload_optimizer,
            offload_param=hardware.offload_param,
            activation_checkpointing=hardware.activation_checkpointing,
        )
        for size in range(1, per_process + 1)
        if per_process % size == 0
    ]
    memories = [stage_memory(recipe, name, shape, part, layout) for layout in layouts]
    room = hardware.memory_gib * GIB * MARGIN
    longest = tokens_of_longest(recipe, part)
    if memories[0].peak > room:
        raise FineTuneError(
            f"{name}: one row of {longest} tokens wants {memories[0].peak / GIB:.1f} GiB, "
            f"hardware.memory_gib allows {room / GIB:.1f}. Any of these would fit: "
            f"hardware.memory_gib: {math.ceil(memories[0].peak / GIB / MARGIN)}; "
            f"a smaller data.max_length; a smaller base_model"
        )
    layout, memory = max(
        (pair for pair in zip(layouts, memories, strict=True) if pair[1].peak <= room),
        key=lambda pair: pair[0].micro_batch,
    )
    micro = layout.micro_batch
    if micro == 1 and isinstance(settings, Policy) and settings.method == "kto":
        raise FineTuneError(
            "policy: kto compares at least two rows at a time, and one fits in each process; raise hardware.memory_gib "
            f"({hardware.memory_gib:g}) or policy.global_batch_size ({settings.global_batch_size})"
        )
    steps = training_steps(part["rows"], settings)
    tokens = steps * settings.global_batch_size * part["tokens"] / max(1, part["rows"])
    reference = 1.5 if name == "policy" else 1.0
    seconds = (
        tokens
        * (6 if isinstance(recipe.adapter, Full) else 4)
        * shape.parameters
        * reference
        / (FLOPS_PER_SECOND[device] * (hardware.processes if device == "cuda" else 1))
    )
    return StagePlan(
        stage=name,
        processes=hardware.processes,
        micro_batch=micro,
        gradient_accumulation_steps=per_process // micro,
        zero_stage=zero,
        offload_optimizer=hardware.offload_optimizer,
        offload_param=hardware.offload_param,
        activation_checkpointing=hardware.activation_checkpointing,
        steps=steps,
        longest_row_tokens=longest,
        weights_bytes=memory.weights + memory.beside,
        trainable_bytes=memory.gradients + memory.optimizer,
        activations_bytes=memory.activations + memory.logits + memory.cache,
        peak_bytes=memory.peak,
        seconds=round(seconds, 1),
        cost_usd=round(seconds / 3600 * hardware.usd_per_hour, 6),
    )


def training_steps(rows: int, settings: Training) -> int:
    """Optimizer steps: batches per epoch times the epochs, unless ``max_steps`` says fewer or more.

    Mirrors transformers' Trainer, which rounds the last, smaller batch of an epoch up to a step.
    """
    return settings.max_steps or math.ceil(math.ceil(rows / settings.global_batch_size) * settings.num_train_epochs)


def as_json(plans: list[StagePlan]) -> list[dict[str, Any]]:
    return [asdict(plan) for plan in plans]
