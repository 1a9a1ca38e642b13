"""The memory of a training stage in one placement, part by part, at the moment of a step when most is held.

Works from a model's ``config.json`` and safetensors header alone. What is trained is in float32 with AdamW's two states beside
it: 4 bytes of weight, 4 of gradient and 8 of optimizer for each parameter. DeepSpeed's bfloat16 engine (ZeRO 1 to 3 on a GPU)
holds 2, 2 and 12, and parts them over the processes (Rajbhandari et al., arXiv 1910.02054, section 3.1 and figure 1).

A step has two peaks: when the backward pass begins all activations are there and no gradient yet (unless batches are
accumulated), when the optimizer steps all gradients and no activation. The parts of :class:`Memory` are those of the higher.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

from ft_assets.core.activations import (
    Compute,
    head_bytes,
    identity_bytes,
    layer_bytes,
    outer_bytes,
    reference_bytes,
    step_bytes,
)
from ft_assets.core.adapted import adapted_weights, trainable_parameters
from ft_assets.core.shape import Linears, Shape
from ft_assets.core.states import dequantized_bytes, frozen_bytes, is_quantized, optimizer_bytes
from ft_assets.recipes.schema import Recipe
from ft_assets.recipes.training import Full, Lora, Policy, PromptTuning, Training

GIB = 2**30
# Resident memory of a worker on a CPU that has imported its libraries, and done nothing yet.
WORKER_BYTES = 600_000_000
# Of a worker on a CPU, beside: what is imported on the way, and what the allocator cannot give again. The launcher has glibc keep
# freed memory in one heap, where large blocks no longer find room between small ones: so much of what comes and goes in a step,
# more where dropout's masks lie between, hardly any where activations are checkpointed and large blocks are given back
# (``worker/torchrun.py``). All as measured; oneDNN's kernels are for bfloat16.
IMPORTED_BYTES, ONEDNN_BYTES, BITSANDBYTES_BYTES = 40_000_000, 45_000_000, 100_000_000
HEAP, HEAP_WITH_DROPOUT, HEAP_GIVEN_BACK = 0.37, 0.7, 0.08
# Of a process on a GPU: the driver's context with the kernels that are loaded (0.81 GB measured on an H200 with CUDA 13) and
# cuBLAS's workspace (0.07 GB); with other processes, NCCL's buffers.
CONTEXT_BYTES, NCCL_BYTES = 880_000_000, int(0.5 * GIB)
# Resident on the host of a worker that computes on a GPU.
CUDA_WORKER_BYTES = int(3.5 * GIB)
# What NVIDIA advises for several processes of one machine (NCCL user guide, troubleshooting, shared memory).
SHM_BYTES = GIB
# DeepSpeed's defaults: numbers in a bucket that is reduced or gathered, and weights that ZeRO-3 keeps whole at a time.
BUCKET, LIVE = 500_000_000, 1_000_000_000


@dataclass(frozen=True)
class Layout:
    """One way to run a stage. ``device`` is ``cpu`` or ``cuda``, ``processes`` are those of all ``nodes`` together,
    ``micro_batch`` is rows of one process per forward pass. ``liger``: its kernels are installed where the worker runs.
    """

    device: str
    processes: int
    nodes: int
    micro_batch: int
    zero_stage: int
    offload_optimizer: str
    offload_param: str
    activation_checkpointing: bool
    liger: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes: on its device of one process at the peak of a step, ``host`` and ``shm`` of one node, ``disk`` of the whole run."""

    weights: int = 0
    beside: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    logits: int = 0
    cache: int = 0
    overhead: int = 0
    host: int = 0
    shm: int = 0
    disk: int = 0

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
    stage = _Stage(recipe, name, shape, rows, layout)
    moments = [stage.at_backward(), stage.at_step(), stage.at_loading()]
    if stage.online:
        moments.append(stage.at_generation())
    highest = max((stage.in_heap(moment) for moment in moments), key=lambda moment: moment.peak)
    return replace(highest, host=stage.host(highest.peak), shm=stage.shm(), disk=stage.disk())


def tokens_of_longest(recipe: Recipe, rows: dict[str, int]) -> int:
    """Of the longest row, with what prompt tuning puts before it."""
    virtual = recipe.adapter.num_virtual_tokens if isinstance(recipe.adapter, PromptTuning) else 0
    return max(1, rows["longest"]) + virtual


@dataclass(frozen=True)
class _Stage:
    recipe: Recipe
    name: str
    shape: Shape
    rows: dict[str, int]
    layout: Layout

    @cached_property
    def settings(self) -> Training:
        found: Training = getattr(self.recipe, self.name)
        return found

    @property
    def method(self) -> str:
        """Of a policy, how it learns; otherwise empty."""
        return self.settings.method if isinstance(self.settings, Policy) else ""

    @property
    def online(self) -> bool:
        return isinstance(self.settings, Policy) and self.settings.online

    @property
    def compares(self) -> bool:
        """Whether a policy is held to a reference."""
        return isinstance(self.settings, Policy) and self.method != "orpo" and self.settings.beta > 0

    @property
    def full(self) -> bool:
        return isinstance(self.recipe.adapter, Full)

    @property
    def scores(self) -> bool:
        """Whether it gives a sequence a number or a label, and so has no head over the vocabulary."""
        return self.name in ("reward", "classifier")

    @cached_property
    def parameters(self) -> int:
        return self.shape.parameters - (self.shape.head if self.scores else 0)

    @cached_property
    def trained(self) -> int:
        return self.parameters if self.full else trainable_parameters(self.recipe, self.shape)

    @cached_property
    def frozen(self) -> int:
        return frozen_bytes(self.recipe, self.parameters, self.shape, self.compute.width)

    @cached_property
    def engine(self) -> bool:
        """Whether DeepSpeed holds weights in bfloat16; on a CPU it casts nothing."""
        return self.layout.zero_stage > 0 and self.layout.device == "cuda" and self.compute.width == 2

    @cached_property
    def sequences(self) -> int:
        """Of a micro-batch; a pair is two."""
        pairs = self.name == "reward" or self.method in ("dpo", "orpo")
        return self.layout.micro_batch * (2 if pairs else 1)

    @cached_property
    def longest(self) -> int:
        return tokens_of_longest(self.recipe, self.rows)

    @cached_property
    def tokens(self) -> int:
        return self.sequences * self.longest

    @cached_property
    def adapted(self) -> Linears:
        adapter = self.recipe.adapter
        return adapted_weights(self.shape, adapter.target_modules) if isinstance(adapter, Lora) else Linears.of(())

    @cached_property
    def compute(self) -> Compute:
        layout, device = self.layout, self.layout.device
        wanted = self.recipe.hardware.dtype
        width = 4 if wanted == "float32" or (device == "cpu" and wanted == "auto") else 2
        if self.full and device == "cpu" and layout.zero_stage:
            width = 4  # nothing is cast there under DeepSpeed
        packed = self.name == "sft" and self.recipe.data.packing
        return Compute(
            device=device,
            width=width,
            cast=self.full and width == 2 and not (layout.zero_stage and device == "cuda"),
            masked=device == "cpu" if packed else self.sequences > 1,
            fused_lora=layout.zero_stage < 3,
            liger=layout.liger and device == "cuda" and not self.scores,
        )

    def _states(self) -> Memory:
        """Weights, gradients and optimizer of one process on its device, before anything computes."""
        layout, t, own = self.layout, self.trained, 2 if self.engine else 4
        weights, gradients = float(own * t + self.frozen), float(own * t)
        optimizer = float(optimizer_bytes(self.settings, self.shape, t, self.full))
        if layout.zero_stage:
            optimizer = (optimizer + 4 * t) / layout.processes  # and weights in float32 of its own
        elif layout.processes > 1:
            gradients *= 2  # DDP's buckets are a copy
        if layout.zero_stage >= 2:
            gradients /= layout.processes
        if layout.zero_stage == 3:
            whole = self.frozen if is_quantized(self.recipe) else 0  # bitsandbytes' weights are parted nowhere
            weights = (weights - whole) / layout.processes + whole
        return Memory(
            weights=0 if layout.offload_param != "none" else math.ceil(weights),
            beside=self._beside(),
            gradients=0 if layout.offload_optimizer != "none" and layout.zero_stage >= 2 else math.ceil(gradients),
            optimizer=0 if layout.offload_optimizer != "none" else math.ceil(optimizer),
            overhead=self._overhead(),
        )

    def _beside(self) -> int:
        """Models beside the one that is trained: a whole reference in float32, or TRL's copy of the adapter; the
        reward model of an online policy.
        """
        if not isinstance(self.settings, Policy):
            return 0
        reward = (self.shape.parameters - self.shape.head) * self.compute.width if self.online else 0
        if not self.compares:
            return reward
        parts = self.layout.processes if self.layout.zero_stage == 3 else 1
        return reward + 4 * (self.parameters // parts if self.full else self.trained)

    def _overhead(self) -> int:
        layout, t = self.layout, self.trained
        if layout.device == "cpu":
            return WORKER_BYTES + (4 * min(BUCKET, t) if layout.zero_stage else 0)
        found = CONTEXT_BYTES + (NCCL_BYTES if layout.processes > 1 else 0)
        if layout.zero_stage:
            # A bucket, and the own part of the gradients in float32 for the step.
            found += self.compute.width * BUCKET + 4 * t // layout.processes
        if layout.zero_stage == 3:
            found += self.compute.width * min(LIVE, self.parameters)
        return found

    def at_backward(self) -> Memory:
        """When the backward pass begins, of the last micro-batch of a step."""
        states, shape, compute, adapter = self._states(), self.shape, self.compute, self.recipe.adapter
        layer = layer_bytes(shape, adapter, self.adapted, compute, self.longest)
        held = outer_bytes(shape, adapter, compute) + shape.layers * layer
        moment = step_bytes(shape, compute) * self.tokens
        casts = 2 * shape.linears.numbers if compute.cast else 0
        casts += identity_bytes(shape, adapter, self.adapted, compute)
        if self.layout.activation_checkpointing:
            stream = 4 if compute.cast else compute.width
            held = outer_bytes(shape, adapter, compute) + shape.layers * stream * shape.hidden
            moment += layer * self.tokens + casts / max(1, shape.layers)
            casts = 0
        logits = 0 if self.scores else head_bytes(shape, compute, self.tokens, self.method == "orpo")
        moment += dequantized_bytes(self.recipe, shape, compute.width)
        if self.compares:
            again = 2 * shape.linears.numbers if compute.cast else 0
            moment = max(moment, reference_bytes(shape, compute, not self.full) * self.tokens + again)
        return replace(
            states,
            gradients=self._gradients_at_backward(states.gradients),
            activations=math.ceil(held * self.tokens + casts + max(0.0, moment - logits)),
            logits=logits,
        )

    def _gradients_at_backward(self, whole: int) -> int:
        """All of them where batches are accumulated; DDP keeps its buckets; otherwise that of the head, which comes first. Where
        there is none yet, autograd holds the head's twice for a moment; where there is, a new one beside it.
        """
        per_process = self.settings.global_batch_size // self.layout.processes
        own = 4 * self.shape.vocabulary * self.shape.hidden if self.full and not self.scores else 0
        if per_process > self.layout.micro_batch:
            return whole + (own if self.layout.device == "cpu" else 0)
        if self.layout.processes > 1 and not self.layout.zero_stage:
            return whole // 2
        return min(whole, own * (2 if self.layout.device == "cpu" else 1))

    def at_step(self) -> Memory:
        """When the optimizer steps."""
        states = self._states()
        if self.settings.optim == "adafactor":
            largest = self.shape.linears.largest
            largest = max(largest, self.shape.vocabulary * self.shape.hidden) if self.full else largest
            states = replace(states, activations=2 * 4 * min(largest, self.trained))  # the update, and its square
        return states

    def at_loading(self) -> Memory:
        """On a CPU a file stays mapped while its weights are cast to another type; on a GPU that is the host's."""
        states = self._states()
        cast = self.shape.file_bytes != self.compute.width * self.shape.parameters or self.full
        mapped = self.shape.file_bytes if self.layout.device == "cpu" and cast else 0
        return replace(states, gradients=0, optimizer=0, activations=mapped)

    def at_generation(self) -> Memory:
        """When an online policy writes the answers of a step, all at once: keys and values of each token, layer and head, and
        what one layer takes for the prompts.
        """
        shape, width = self.shape, self.compute.width
        answers = max(1, self.settings.global_batch_size // self.layout.processes)
        tokens = answers * self.longest
        return replace(
            self._states(),
            gradients=0,
            cache=2 * tokens * shape.layers * (shape.key_value or shape.hidden) * width,
            activations=tokens * (3 * shape.intermediate + 4 * shape.hidden) * width,
            logits=2 * 4 * answers * shape.vocabulary,
        )

    def in_heap(self, moment: Memory) -> Memory:
        """On a CPU, with what the allocator takes beside. Gradients that are not there now have left holes, into which activations
        fit and tiles of scores do not; so have weights that were loaded before they were made int8, of which the int8 ones of later
        layers fill a part.
        """
        if self.layout.device == "cuda":
            return moment
        identity = identity_bytes(self.shape, self.recipe.adapter, self.adapted, self.compute)
        passing = moment.gradients + moment.activations + moment.logits + moment.cache
        holes = 0
        if not self.layout.activation_checkpointing:  # else large blocks are given back
            if moment.logits:
                holes = max(0, self._states().gradients - moment.gradients - moment.activations)
            if self.recipe.adapter.method == "lora_8bit":
                holes += (self.compute.width - 1) * self.shape.linears.numbers
        if is_quantized(self.recipe):
            holes += BITSANDBYTES_BYTES
        imported = IMPORTED_BYTES + (ONEDNN_BYTES if self.compute.width == 2 else 0)
        beside = imported + holes + int(self._heap_share() * max(0, passing - identity))
        return replace(moment, overhead=moment.overhead + beside)

    def _heap_share(self) -> float:
        if self.layout.activation_checkpointing:
            return HEAP_GIVEN_BACK
        dropped = isinstance(self.recipe.adapter, Lora) and self.recipe.adapter.lora_dropout
        return HEAP_WITH_DROPOUT if dropped else HEAP

    def host(self, peak: int) -> int:
        """Memory of one node: the processes themselves, or what they load before a GPU has it, and what is offloaded."""
        layout = self.layout
        here = math.ceil(layout.processes / layout.nodes)
        if layout.device == "cpu":
            return here * peak
        loaded = 0 if is_quantized(self.recipe) else (4 if self.full else self.compute.width) * self.parameters
        parts = layout.processes if layout.zero_stage == 3 else 1
        offloaded = 0.0
        if layout.offload_optimizer != "none":
            offloaded += (12 + (4 if layout.zero_stage >= 2 else 0)) * self.trained / layout.processes
        if layout.offload_param != "none":
            offloaded += self.compute.width * self.parameters / layout.processes
        return math.ceil(here * (CUDA_WORKER_BYTES + max(loaded / parts, offloaded)))

    def shm(self) -> int:
        return SHM_BYTES if self.layout.device == "cuda" and self.layout.processes > self.layout.nodes else 0

    def disk(self) -> int:
        """Checkpoints, of which one more than are kept is there while it is written, and the artifact: a whole model in
        bfloat16, or an adapter in float32.
        """
        whole = self.full or self.scores
        each = (4 * self.trained) + optimizer_bytes(self.settings, self.shape, self.trained, self.full)
        each += 4 * self.trained if self.layout.zero_stage else 0
        kept = self.recipe.hardware.keep_checkpoints + 1 + (self.settings.metric_for_best_model is not None)
        return kept * each + (2 * self.parameters if whole else 4 * self.trained)
