"""How a model is trained: what of it, by which method, with which hyperparameters. All of it is identity."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ft_assets.recipes.strict import Strict

# Entries of a trainer's log that say nothing of what the model has learned.
NO_MEASURE = r"runtime|per_second|epoch|num_"
LearningRate = Annotated[float, Field(gt=0, le=1)]
ONLINE_METHODS = ("rloo", "grpo")


class Lora(Strict):
    """PEFT's LoRA settings. ``dora`` learns a magnitude for each adapted weight beside; ``qlora`` keeps the base model in NF4
    with double quantization while it trains, ``lora_8bit`` in LLM.int8().
    """

    method: Literal["lora", "dora", "qlora", "lora_8bit"]
    r: Annotated[int, Field(ge=1, le=1024)]
    lora_alpha: Annotated[int, Field(ge=1, le=4096)]
    lora_dropout: Annotated[float, Field(ge=0, lt=1)]
    target_modules: str | list[str]

    @field_validator("target_modules")
    @classmethod
    def _names_modules(cls, wanted: str | list[str]) -> str | list[str]:
        if not wanted or "lm_head" in ([wanted] if isinstance(wanted, str) else wanted):
            raise ValueError("names linear modules of the model's body (q_proj, say) or all-linear; not lm_head")
        if isinstance(wanted, str):
            try:
                re.compile(wanted)
            except re.error as error:
                raise ValueError(f"is no regular expression: {error}") from error
        return wanted


class PromptTuning(Strict):
    """PEFT's prompt tuning: ``num_virtual_tokens`` embeddings before each row are all that is learned."""

    method: Literal["prompt_tuning"]
    num_virtual_tokens: Annotated[int, Field(ge=1, le=4096)]


class Full(Strict):
    """Every weight is trained; each stage's artifact is a whole model."""

    method: Literal["full"]


Adapter = Annotated[Lora | PromptTuning | Full, Field(discriminator="method")]
QUANTIZED_BASE = {"qlora": "nf4", "lora_8bit": "int8"}


class Training(Strict):
    """Hyperparameters of one training stage. ``global_batch_size`` is rows per optimizer step over all GPUs.

    With ``metric_for_best_model`` (``loss``, say), which is measured on the validation rows every ``eval_steps``, the
    weights that did best are the result, otherwise the last ones.
    """

    learning_rate: LearningRate
    global_batch_size: Annotated[int, Field(ge=1, le=65_536)]
    num_train_epochs: Annotated[float, Field(gt=0, le=1000)]
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0, le=1000)] = 1.0
    max_steps: Annotated[int, Field(ge=1)] | None = None
    optim: Literal["adamw_torch_fused", "adamw_bnb_8bit", "adafactor"] = "adamw_torch_fused"
    metric_for_best_model: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    eval_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None

    @model_validator(mode="after")
    def _best_is_measured(self) -> "Training":
        if (self.metric_for_best_model is None) != (self.eval_steps is None):
            raise ValueError("metric_for_best_model and eval_steps go together: give both or neither")
        if self.metric_for_best_model and re.search(NO_MEASURE, self.metric_for_best_model):
            raise ValueError(
                f"metric_for_best_model {self.metric_for_best_model} tells of the machine, not of the model"
            )
        return self


class Policy(Training):
    """Preference optimisation of the SFT model, with TRL's names. ``dpo`` and ``kto`` hold to the SFT model by ``beta``, ``orpo``
    has no reference; ``rloo`` and ``grpo`` use the graph's own reward model. ``kto`` takes each pair as one desirable and one
    undesirable row.
    """

    method: Literal["dpo", "kto", "orpo", "rloo", "grpo"]
    beta: Annotated[float, Field(ge=0, le=100)]
    num_generations: Annotated[int, Field(ge=2, le=256)] = 2
    max_completion_length: Annotated[int, Field(ge=1, le=65_536)] = 64
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0

    @model_validator(mode="after")
    def _method_can_train(self) -> "Policy":
        if self.method in ("dpo", "kto") and not self.beta:
            raise ValueError(f"{self.method} with beta 0 learns nothing; give beta above 0")
        if self.online and self.global_batch_size % self.num_generations:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} counts answers, and is no multiple of num_generations "
                f"{self.num_generations}"
            )
        if self.online and self.metric_for_best_model:
            raise ValueError(f"{self.method} is measured on no validation rows; leave metric_for_best_model out")
        return self

    @property
    def online(self) -> bool:
        """Whether it learns from answers of its own, which the reward model scores."""
        return self.method in ONLINE_METHODS
