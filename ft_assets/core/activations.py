"""What a training step holds beside its weights: activations that the backward pass needs, and what the head takes for a moment.

The terms are those of transformers' Llama block (5.23, ``modeling_llama.py``), counted with ``saved_tensors_hooks`` in each way
our worker trains (``tests/worker/test_tracker.py`` counts them again). For a Llama-3-8B shape in bfloat16 they come to the 53
bytes per token, layer and hidden unit that were measured for full training, 45 for LoRA and 72 for LoRA with dropout; the
34 of Korthikanti et al. (arXiv 2205.05198, section 4.1) leave out SwiGLU and norms in float32.
"""

from dataclasses import dataclass

from ft_assets.core.shape import Linears, Shape
from ft_assets.recipes.training import Adapter, Full, Lora, PromptTuning

# TRL 1.16, ``kernels/chunked_logprob.py``: scores of so many tokens and words at a time.
TILE_TOKENS, TILE_WORDS = 4096, 32_768
# Where there is no Triton a tile is folded in torch, at most 7 copies in float32 and a mask at a time.
TORCH_TILES = 7.25


@dataclass(frozen=True)
class Compute:
    """How a model computes. ``width`` is bytes of a number; ``cast``: weights are in float32 and cast on the way (autocast);
    ``masked``: rows of a batch are padded, so attention has a mask and keys of its own for each query head.
    """

    device: str
    width: int
    cast: bool
    masked: bool
    fused_lora: bool
    liger: bool


def layer_bytes(shape: Shape, adapter: Adapter, on: Linears, compute: Compute, tokens: int) -> float:
    """Kept of one layer for the backward pass, in bytes per token.

    Args:
        on: the linear weights with an adapter.
        tokens: of the row.
    """
    h, width = shape.hidden, compute.width
    inner = shape.intermediate
    keys = shape.query if compute.masked else shape.key_value
    attention = width * (2 * shape.query + 2 * keys) + 4 * shape.heads + (width * tokens if compute.masked else 0)
    forward = width * inner * (1 if not shape.gated else 2 if compute.liger else 3)
    # Their inputs: Liger keeps the residual stream as it is, which autocast leaves in float32; transformers casts it.
    norms = 2 * width * h if compute.liger and not compute.cast else 8 * h
    return norms + attention + forward + _inputs(shape, adapter, on, compute)


def _inputs(shape: Shape, adapter: Adapter, on: Linears, compute: Compute) -> float:
    """What linear layers and norms keep of their inputs for the gradients of their weights, in bytes per token of a layer."""
    h, width = shape.hidden, compute.width
    shared = width * (2 * h + shape.intermediate)  # queries, keys and values read the same; so do gate and up
    if isinstance(adapter, PromptTuning):
        return 0
    if isinstance(adapter, Full):
        if not compute.cast:
            return shared + (0 if compute.liger else 2 * width * h)
        linear = shape.linears.into / max(1, shape.layers)
        return width * (linear - shape.query) + (0 if compute.liger else 8 * h)
    into, out, count = (total / max(1, shape.layers) for total in (on.into, on.out, on.count))
    low_rank = adapter.r * count
    if adapter.method == "dora":
        return 4 * low_rank + (width + 4) * out + (shared if width == 4 else 4 * into)
    if adapter.lora_dropout:
        # Dropped in float32, and its mask: of bytes on a GPU, of numbers on a CPU.
        return 4 * low_rank + (8 if compute.device == "cpu" else width + 1) * into
    if adapter.method == "lora_8bit" or not compute.fused_lora:
        cast = 0 if width == 4 else (4 if compute.device == "cpu" else width) * into
        return 4 * low_rank + shared + cast
    return width * low_rank + shared


def identity_bytes(shape: Shape, adapter: Adapter, on: Linears, compute: Compute) -> int:
    """Of all layers: PEFT's DoRA runs an identity matrix through each adapter for the norm of its weight, and keeps it."""
    if not (isinstance(adapter, Lora) and adapter.method == "dora"):
        return 0
    return (4 if compute.device == "cpu" else compute.width) * on.squares


def outer_bytes(shape: Shape, adapter: Adapter, compute: Compute) -> float:
    """Kept outside the layers, per token: the last norm's input in float32 and its output, which the head reads and copies."""
    whole = 4 * shape.hidden if isinstance(adapter, Full) and not compute.liger else 0
    return 4 * shape.hidden + whole + 2 * compute.width * shape.hidden


def step_bytes(shape: Shape, compute: Compute) -> float:
    """Of one layer's backward pass, per token, while all that was kept is still there: gradients of the two states that a gated
    feed-forward part multiplies, and of the residual stream. Liger's kernel writes them where the states were.
    """
    if compute.liger:
        return 0
    return compute.width * shape.intermediate * (2 if shape.gated else 1) + 4 * shape.hidden


def reference_bytes(shape: Shape, compute: Compute, adapted: bool) -> float:
    """Of one layer of a reference, per token, which runs while all that the policy keeps is there. PEFT runs a copy of the adapter
    step by step, with its output beside that of the weight and a scaled one.
    """
    inner = (3 if shape.gated else 2) + (2 if adapted else 0)
    return compute.width * (inner * shape.intermediate + 3 * shape.hidden)


def head_bytes(shape: Shape, compute: Compute, tokens: int, whole: bool) -> int:
    """What a head over the vocabulary takes when the backward pass begins, beside its weight's gradient. TRL's chunked one
    (``ChunkedLogProbFunction``): a tile of scores, the gradient of the hidden states in float32, and a cast of its weight.

    Args:
        tokens: of the micro-batch.
        whole: all scores at once (TRL's ORPO), with their softmax and the gradients of both in float32.
    """
    if whole:
        return tokens * shape.vocabulary * (compute.width + 4 * 4)
    rows, words = min(tokens, TILE_TOKENS), min(shape.vocabulary, TILE_WORDS)
    buffer = rows * TILE_WORDS * compute.width + 4 * tokens * shape.hidden
    if compute.device == "cpu":
        return buffer + int(TORCH_TILES * 4 * rows * words)
    return buffer + (words * shape.hidden * compute.width if compute.cast else 0)
