"""The plan: peak memory, time and cost of each training stage, and the placement chosen from them.

Works from a model's ``config.json`` and safetensors header alone. Activation coefficients are bytes per token, layer
and hidden unit, measured for a Llama shape in bfloat16: 53 where every weight is trained, 45 with LoRA, 72 with LoRA and
dropout, 2 with activation checkpointing. LoRA costs 4 FLOP per parameter and token (forward 2, backward through frozen
weights 2), training every weight 6. A trained parameter takes 16 bytes: itself, its gradient and Adam's two in float32.
"""

import json
import math
import re
import struct
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ft_assets.core.errors import FineTuneError
from ft_assets.recipes.schema import Recipe
from ft_assets.recipes.sweep import Sweep
from ft_assets.recipes.training import Full, Lora, Policy, PromptTuning, Training

GIB = 2**30
WORKER_BYTES = int(0.9 * GIB)
MARGIN = 0.9
FLOPS_PER_SECOND = {"cpu": 0.9e11, "cuda": 4.0e14}
CHECKPOINTED, LORA, FULL, LORA_WITH_DROPOUT = 2, 45, 53, 72
MAX_HEADER_BYTES = 100 * 2**20
OF_A_LAYER = re.compile(r"(^|\.)(layers?|albert_layers)\.\d+\.")
DISTILBERT = {"hidden_size": "dim", "num_hidden_layers": "n_layers"}  # its own names for what others call so


@dataclass(frozen=True)
class Shape:
    """What the plan needs to know of a model. ``linear`` holds (out, in) of each linear weight by its name."""

    parameters: int
    hidden: int
    layers: int
    vocabulary: int
    linear: dict[str, tuple[int, int]]


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


def read_safetensors_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: dtype, shape and offsets by tensor name.

    Raises:
        FineTuneError: the file is cut, in its header or its data, or its header is absurd.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else -1
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise FineTuneError(f"{path}: not a safetensors file (header of {length} bytes in a file of {size})")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            data = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        except (ValueError, RecursionError, TypeError, AttributeError, LookupError) as error:
            raise FineTuneError(f"{path}: safetensors header cannot be read: {error!r:.200}") from error
    if 8 + length + data != size:
        raise FineTuneError(f"{path}: {size} bytes, its header promises {8 + length + data}; fetch the file again")
    return header


def weights_bytes(folder: Path) -> int:
    """Size of a model's or adapter's weights on disk."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def in_config(config: dict[str, Any], name: str) -> Any:
    """A field of a ``config.json``, under whichever name it has there; None where there is none."""
    return config.get(name, config.get(DISTILBERT.get(name, name)))


def read_shape(folder: Path) -> Shape:
    config = json.loads((folder / "config.json").read_text())
    tensors: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= read_safetensors_header(path)
    linear = {
        name.removesuffix(".weight"): (entry["shape"][0], entry["shape"][1])
        for name, entry in tensors.items()
        if len(entry["shape"]) == 2 and OF_A_LAYER.search(name)
    }
    return Shape(
        sum(math.prod(entry["shape"]) for entry in tensors.values()),
        int(in_config(config, "hidden_size")),
        int(in_config(config, "num_hidden_layers")),
        int(config["vocab_size"]),
        linear,
    )


def trainable_parameters(recipe: Recipe, shape: Shape) -> int:
    """Parameters that are trained; of the adapter alone where there is one."""
    adapter = recipe.adapter
    if isinstance(adapter, Full):
        return shape.parameters
    if isinstance(adapter, PromptTuning):
        return adapter.num_virtual_tokens * shape.hidden
    return lora_parameters(shape, adapter.r, adapter.target_modules)


def frozen_bytes(recipe: Recipe, shape: Shape, device: str) -> int:
    """Bytes of the weights that are not trained: 16 bit on a GPU, up to 32 on a CPU; linear weights in NF4 take 4.13 bit
    with double quantization (arXiv 2305.14314, section 3), in int8 8. With full training none is frozen.
    """
    if isinstance(recipe.adapter, Full):
        return 0
    plain = 4 if device == "cpu" else 2
    bits = {"qlora": 4.13, "lora_8bit": 8.0}.get(recipe.adapter.method)
    quantized = sum(rows * columns for rows, columns in shape.linear.values()) if bits else 0
    return (shape.parameters - quantized) * plain + int(quantized * (bits or 0) / 8)


def _beside_bytes(recipe: Recipe, settings: Training, shape: Shape, device: str) -> int:
    """Models that are held beside the one that is trained: a whole reference, where no adapter can be left out to be it, and
    the reward model of an online policy.
    """
    if not isinstance(settings, Policy):
        return 0
    reference = isinstance(recipe.adapter, Full) and settings.method != "orpo" and settings.beta > 0
    scores = shape.parameters * (4 if device == "cpu" else 2) if settings.online else 0
    return scores + (4 * shape.parameters if reference else 0)


def _activation_bytes(recipe: Recipe, shape: Shape) -> int:
    """Activations kept for the backward pass, in bytes per token; with checkpointing those of the layer at hand, too."""
    kept = FULL
    if isinstance(recipe.adapter, Lora):
        kept = LORA_WITH_DROPOUT if recipe.adapter.lora_dropout else LORA
    if recipe.hardware.activation_checkpointing:
        return shape.hidden * (CHECKPOINTED * shape.layers + kept)
    return shape.hidden * kept * shape.layers


def lora_parameters(shape: Shape, r: int, target_modules: str | list[str]) -> int:
    """r * (in + out) for each adapted linear weight.

    Raises:
        FineTuneError: ``target_modules`` matches none, or is no regular expression.
    """
    try:
        adapted = [size for name, size in shape.linear.items() if _is_target(name, target_modules)]
    except re.error as error:
        raise FineTuneError(f"adapter.target_modules {target_modules!r} is no regular expression: {error}") from error
    if not adapted:
        raise FineTuneError(
            f"adapter.target_modules {target_modules!r} matches no linear weight of the base model; "
            f"it has {', '.join(sorted({name.rsplit('.', 1)[-1] for name in shape.linear}))}"
        )
    return sum(r * (rows + columns) for rows, columns in adapted)


def _is_target(name: str, target_modules: str | list[str]) -> bool:
    """PEFT's rule: a text is a regular expression for the whole name, a list holds names or endings after a dot."""
    if isinstance(target_modules, str):
        return target_modules == "all-linear" or re.fullmatch(target_modules, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in target_modules)


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
        "cpt": ("cpt", 1),
        "sft": ("sft", 1),
        "reward": ("preference", 2),
        "policy": (recipe.policy_role, 2),
        "classifier": ("classification", 1),
    }
    plans = []
    for name, (part, sequences) in parts.items():
        settings: Training | None = getattr(recipe, name)
        if settings is not None:
            rows = splits[part]
            if isinstance(settings, Policy):
                rows = _seen_by(settings, rows)
            plan = _plan_stage(recipe, name, settings, shape, rows, sequences, device)
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
    recipe: Recipe, name: str, settings: Training, shape: Shape, part: dict[str, int], sequences: int, device: str
) -> StagePlan:
    hardware = recipe.hardware
    if settings.global_batch_size % hardware.processes:
        raise FineTuneError(
            f"{name}.global_batch_size {settings.global_batch_size} is no multiple of "
            f"hardware.processes {hardware.processes}"
        )
    per_process = settings.global_batch_size // hardware.processes
    weights = frozen_bytes(recipe, shape, device) + _beside_bytes(recipe, settings, shape, device)
    trainable = trainable_parameters(recipe, shape) * 16
    longest = max(1, part["longest"])
    if isinstance(recipe.adapter, PromptTuning):
        longest += recipe.adapter.num_virtual_tokens
    scored = 0 if name == "classifier" else shape.vocabulary  # scores of each token, in float32
    row_bytes = (
        sequences * longest * (_activation_bytes(recipe, shape) * (2 if device == "cpu" else 1) + 3 * 4 * scored)
    )
    room = hardware.memory_gib * GIB * MARGIN - WORKER_BYTES - weights - trainable
    if room < row_bytes:
        raise FineTuneError(
            f"{name}: one row of {longest} tokens wants {(row_bytes + weights + trainable + WORKER_BYTES) / GIB:.1f} GiB, "
            f"hardware.memory_gib allows {hardware.memory_gib * MARGIN:.1f}. Any of these would fit: "
            f"hardware.memory_gib: {math.ceil((row_bytes + weights + trainable + WORKER_BYTES) / GIB / MARGIN)}; "
            f"a smaller data.max_length; a smaller base_model"
        )
    sizes = [size for size in range(1, per_process + 1) if per_process % size == 0 and size * row_bytes <= room]
    micro = max(sizes)
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
    zero = (0 if hardware.processes == 1 else 2) if hardware.zero_stage == "auto" else hardware.zero_stage
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
        weights_bytes=weights,
        trainable_bytes=trainable,
        activations_bytes=micro * row_bytes,
        peak_bytes=WORKER_BYTES + weights + trainable + micro * row_bytes,
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
