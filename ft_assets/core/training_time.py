"""How long a stage trains: operations, what crosses the links between GPUs and to the host, and what a model writes itself.

Operations per parameter and token are 6 where every weight is trained and 4 with an adapter, for which gradients of frozen
weights are not computed; one more forward pass, as checkpointing, a reference or a reward model makes it, is 2 (arXiv
2204.02311, appendix B, without attention). What of a GPU's data sheet is reached was measured on one H200 (docs/lab-log.md,
"Speed of training"). Speeds of links and of writing are assumptions, and nothing is taken to overlap: an estimate to
compare placements by, not to set a clock by.
"""

import math

from ft_assets.core.adapted import trainable_parameters
from ft_assets.core.memory import Layout
from ft_assets.core.shape import Shape
from ft_assets.recipes.schema import Recipe
from ft_assets.recipes.training import Full, Policy, Training

CPU_FLOPS = 0.9e11  # of one machine, however many processes share it
CUDA_TFLOPS = 989.0  # of a GPU that the recipe does not describe: an H100's
# Share of the data sheet that a large model reaches, by whether every weight is trained and whether rows are packed.
UTILIZATION = {(False, False): 0.40, (False, True): 0.52, (True, False): 0.35, (True, True): 0.45}
HALF_REACHED_PARAMETERS = 0.5e9  # a model of this size reaches half of it: kernels are too short
DEQUANTIZING = {
    "qlora": 0.98,
    "lora_8bit": 0.98,
}  # 11,901 tokens/s of QLoRA against 12,122 of LoRA, 8 billion parameters
IN_NODE, BETWEEN_NODES, TO_HOST = 200e9, 25e9, 25e9  # bytes per second of one GPU: NVLink, 200 Gbit/s, PCIe 4 x16
HOST_ADAM = 0.7e9  # parameters per second of one node: 28 bytes each at 20 GB/s
FLOPS_PER_BYTE = 300  # of a GPU's data sheet, operations to memory bandwidth (H100: 989e12 to 3.35e12)
CPU_BANDWIDTH = 10e9
LAYER_SECONDS = 1e-3  # the least that one layer takes to write one token, whatever it computes


def training_steps(rows: int, settings: Training) -> int:
    """Optimizer steps: batches per epoch times the epochs, unless ``max_steps`` says fewer or more.

    Mirrors transformers' Trainer, which rounds the last, smaller batch of an epoch up to a step.
    """
    return settings.max_steps or math.ceil(math.ceil(rows / settings.global_batch_size) * settings.num_train_epochs)


def stage_seconds(
    recipe: Recipe, name: str, shape: Shape, rows: dict[str, int], layout: Layout, bf16_tflops: float
) -> float:
    """Seconds of all optimizer steps.

    Args:
        rows: ``rows`` and ``tokens`` that the stage's trainer sees in an epoch.
        bf16_tflops: of one GPU's data sheet, 0 where the recipe does not say.
    """
    settings: Training = getattr(recipe, name)
    steps = training_steps(rows["rows"], settings)
    tokens = settings.global_batch_size * rows["tokens"] / max(1, rows["rows"])
    operations = tokens * shape.parameters * _operations(recipe, settings, layout)
    seconds = operations / _operations_per_second(recipe, shape, layout, bf16_tflops)
    if layout.device == "cuda":
        seconds += _link_seconds(recipe, settings, shape, layout)
    if isinstance(settings, Policy) and settings.online:
        seconds += settings.max_completion_length * _token_seconds(settings, shape, layout, bf16_tflops)
    return steps * seconds


def _operations(recipe: Recipe, settings: Training, layout: Layout) -> float:
    """For each parameter and token, over all passes of a step."""
    passes = 1 if layout.activation_checkpointing else 0
    if isinstance(settings, Policy):
        scored = 1 if settings.online else 0
        referred = 0 if settings.method == "orpo" or not settings.beta else 1
        mismatched = 2 if settings.method == "kto" else 0  # answers to other prompts, by policy and reference
        passes += scored + referred + mismatched
    return (6 if isinstance(recipe.adapter, Full) else 4) + 2 * passes


def _operations_per_second(recipe: Recipe, shape: Shape, layout: Layout, bf16_tflops: float) -> float:
    """Of all processes together."""
    if layout.device == "cpu":
        return CPU_FLOPS * layout.nodes
    reached = UTILIZATION[isinstance(recipe.adapter, Full), recipe.data.packing]
    reached *= shape.parameters / (shape.parameters + HALF_REACHED_PARAMETERS)
    reached *= DEQUANTIZING.get(recipe.adapter.method, 1.0)
    return (bf16_tflops or CUDA_TFLOPS) * 1e12 * reached * layout.processes


def _link_seconds(recipe: Recipe, settings: Training, shape: Shape, layout: Layout) -> float:
    """Of one optimizer step. ZeRO 0 to 2 move twice the gradients, ZeRO-3 the weights in each pass too (arXiv 1910.02054,
    section 7); ZeRO-2 and 3 add gradients up in each micro-step.
    """
    count = layout.processes
    micro_steps = settings.global_batch_size // (count * layout.micro_batch)
    trained, weights = 4 * trainable_parameters(recipe, shape), 2 * shape.parameters
    moved = trained * ((micro_steps if layout.zero_stage >= 2 else 1) + (1 if layout.zero_stage < 3 else 0))
    if layout.zero_stage == 3:
        moved += 2 * weights * micro_steps
    seconds = moved * (count - 1) / count / (IN_NODE if layout.nodes == 1 else BETWEEN_NODES)
    if layout.offload_optimizer == "cpu":
        seconds += 2 * trained / count / TO_HOST + trained / 4 / layout.nodes / HOST_ADAM
    if layout.offload_param == "cpu":
        seconds += 2 * weights * micro_steps / count / TO_HOST
    return seconds


def _token_seconds(settings: Training, shape: Shape, layout: Layout, bf16_tflops: float) -> float:
    """To write one more token of every answer of a step: the weights are read once, or the layers are too short for that."""
    answers = settings.global_batch_size / layout.processes
    if layout.device == "cpu":
        share = layout.nodes / layout.processes
        return max(4 * shape.parameters / CPU_BANDWIDTH, answers * 2 * shape.parameters / (CPU_FLOPS * share))
    bandwidth = (bf16_tflops or CUDA_TFLOPS) * 1e12 / FLOPS_PER_BYTE
    return max(2 * shape.parameters / bandwidth, shape.layers * LAYER_SECONDS)
