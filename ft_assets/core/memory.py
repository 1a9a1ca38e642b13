"""The memory of a training stage in one placement, part by part.

Works from a model's ``config.json`` and safetensors header alone. Activation coefficients are bytes per token, layer
and hidden unit, measured for a Llama shape in bfloat16: 53 where every weight is trained, 45 with LoRA, 72 with LoRA and
dropout, 2 with activation checkpointing. A trained parameter takes 16 bytes: itself, its gradient and Adam's two in float32.
"""

import re
from dataclasses import dataclass

from ft_assets.core.errors import FineTuneError
from ft_assets.core.shape import Shape
from ft_assets.recipes.schema import Recipe
from ft_assets.recipes.training import Full, Lora, Policy, PromptTuning, Training

GIB = 2**30
WORKER_BYTES = int(0.9 * GIB)
CHECKPOINTED, LORA, FULL, LORA_WITH_DROPOUT = 2, 45, 53, 72


@dataclass(frozen=True)
class Layout:
    """One way to run a stage. ``device`` is ``cpu`` or ``cuda``, ``processes`` are those of all ``nodes`` together,
    ``micro_batch`` is rows of one process per forward pass.
    """

    device: str
    processes: int
    nodes: int
    micro_batch: int
    zero_stage: int
    offload_optimizer: str
    offload_param: str
    activation_checkpointing: bool


@dataclass(frozen=True)
class Memory:
    """Bytes: on its device of one process at the peak of a step, ``host`` and ``shm`` of one node, ``disk`` of the whole run."""

    weights: int
    beside: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    cache: int
    overhead: int
    host: int
    shm: int
    disk: int

    @property
    def peak(self) -> int:
        """Of one process on its device."""
        held = self.weights + self.beside + self.gradients + self.optimizer
        return held + self.activations + self.logits + self.cache + self.overhead


def stage_memory(recipe: Recipe, name: str, shape: Shape, rows: dict[str, int], layout: Layout) -> Memory:
    """What a stage of the plan (``cpt``, ``sft``, ``reward``, ``policy``, ``classifier``) takes in one layout.

    Args:
        rows: ``rows``, ``tokens`` and ``longest`` row that the stage's trainer sees.
    """
    settings: Training = getattr(recipe, name)
    trained = trainable_parameters(recipe, shape)
    tokens = layout.micro_batch * (2 if name in ("reward", "policy") else 1) * tokens_of_longest(recipe, rows)
    scored = 0 if name == "classifier" else shape.vocabulary  # scores of each token, in float32
    activations = _activation_bytes(recipe, shape, layout) * (2 if layout.device == "cpu" else 1)
    return Memory(
        weights=frozen_bytes(recipe, shape, layout.device),
        beside=_beside_bytes(recipe, settings, shape, layout.device),
        gradients=4 * trained,
        optimizer=12 * trained,
        activations=tokens * activations,
        logits=tokens * 3 * 4 * scored,
        cache=0,
        overhead=WORKER_BYTES,
        host=0,
        shm=0,
        disk=0,
    )


def tokens_of_longest(recipe: Recipe, rows: dict[str, int]) -> int:
    """Of the longest row, with what prompt tuning puts before it."""
    virtual = recipe.adapter.num_virtual_tokens if isinstance(recipe.adapter, PromptTuning) else 0
    return max(1, rows["longest"]) + virtual


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


def _activation_bytes(recipe: Recipe, shape: Shape, layout: Layout) -> int:
    """Activations kept for the backward pass, in bytes per token; with checkpointing those of the layer at hand, too."""
    kept = FULL
    if isinstance(recipe.adapter, Lora):
        kept = LORA_WITH_DROPOUT if recipe.adapter.lora_dropout else LORA
    if layout.activation_checkpointing:
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
