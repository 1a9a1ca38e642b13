"""Typed schema of a recipe and a source. Field names are those of transformers, TRL, PEFT and DeepSpeed.

Every field is either identity (it changes what is made) or execution (it changes only how and where); the class a field
stands in says which: :class:`Hardware` and :class:`Retrain` alone are execution. Scientific choices have no hidden defaults.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator, model_validator

from ft_assets.core.conditions import parse as parse_condition
from ft_assets.core.cron import parse
from ft_assets.recipes.classifying import check_classifier
from ft_assets.recipes.evaluation import TRAINED, Evaluation, check_examples
from ft_assets.recipes.gate import check_condition
from ft_assets.recipes.hardware import Hardware
from ft_assets.recipes.predictions import Predictions, check_predictions
from ft_assets.recipes.publishing import Publish
from ft_assets.recipes.roles import HELD_OUT_ROLES, SOURCE_ROLES, TRAINING_ROLES
from ft_assets.recipes.strict import Strict, each_once
from ft_assets.recipes.sweep import Sweep, check_sweep
from ft_assets.recipes.training import Adapter, Lora, Policy, PromptTuning, Training

NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
Name = Annotated[str, StringConstraints(pattern=NAME)]
Share = Annotated[float, Field(ge=0, le=0.5)]

FORMATS = {
    "text": ("text",),
    "instruction": ("alpaca", "messages", "sharegpt", "prompt_completion", "question_answer", "oasst"),
    "preference": ("preference", "hh_rlhf", "comparison", "oasst"),
    "prompt": ("prompt",),
    "classification": ("classification",),
    "multiple_choice": ("multiple_choice",),
}
FIELDS = {
    "text": ("text",),
    "alpaca": ("instruction", "input", "output"),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt_completion": ("prompt", "completion"),
    "question_answer": ("question", "answer"),
    "oasst": ("prompt",),
    "preference": ("prompt", "chosen", "rejected"),
    "hh_rlhf": ("chosen", "rejected"),
    "comparison": ("instruction", "input", "response1", "response2", "verdict"),
    "prompt": ("prompt", "label"),
    "classification": ("text", "label"),
    "multiple_choice": ("question", "choices", "answer"),
}
NESTED = ("messages", "sharegpt", "oasst")  # Their one field is a list or a tree, which cannot be joined of columns.


class Source(Strict):
    """One declared origin of data: a folder (each file or sub-folder a batch), one file, or a glob (each match a batch).

    ``location`` is a path relative to the file that declares the source, an absolute path, or an fsspec URL
    (``s3://bucket/prefix``, ``hf://datasets/org/name@revision/folder``).
    ``format`` is the form of its rows; nothing is guessed. ``duplicates: keep`` keeps rows that repeat another, for sources
    whose every row is to be answered (``predictions``); such a source is never trained or evaluated on.
    """

    kind: Literal["text", "instruction", "preference", "prompt", "classification", "multiple_choice"]
    location: Annotated[str, Field(min_length=1)]
    format: Literal[
        "text",
        "alpaca",
        "messages",
        "sharegpt",
        "prompt_completion",
        "question_answer",
        "oasst",
        "preference",
        "hh_rlhf",
        "comparison",
        "prompt",
        "classification",
        "multiple_choice",
    ]
    licence: Annotated[str, Field(min_length=1)]
    description: str = ""
    columns: dict[str, str | Annotated[list[str], Field(min_length=1)]] = Field(
        default_factory=dict, description="our field: the file's column or columns"
    )
    personal_data: Literal["keep", "redact", "quarantine"] = "quarantine"
    phone_region: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")] = "US"
    languages: list[Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$")]] = []
    duplicates: Literal["quarantine", "keep"] = "quarantine"
    min_characters: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    max_characters: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    max_quarantined_share: Annotated[float, Field(ge=0, le=1)] = 0.5

    @model_validator(mode="after")
    def _format_fits_kind(self) -> "Source":
        if self.format not in FORMATS[self.kind]:
            allowed = ", ".join(FORMATS[self.kind])
            raise ValueError(f"format {self.format!r} does not fit kind {self.kind!r}; allowed: {allowed}")
        fields = FIELDS[self.format]
        if unknown := sorted(set(self.columns) - set(fields)):
            raise ValueError(f"columns names {', '.join(unknown)}; format {self.format!r} has {', '.join(fields)}")
        if self.format in NESTED and any(isinstance(column, list) for column in self.columns.values()):
            raise ValueError(f"format {self.format!r} takes one column for {fields[0]}, not several")
        if isinstance(self.columns.get("answer"), list) and self.format == "multiple_choice":
            raise ValueError("format 'multiple_choice' takes one column for answer, not several")
        if self.min_characters > self.max_characters:
            raise ValueError("min_characters is above max_characters")
        return self

    def identity(self) -> dict[str, object]:
        """What validation depends on; the location and the description do not change a row."""
        left_out = {"location", "description", "licence", "max_quarantined_share"}
        return self.model_dump(exclude=left_out if self.duplicates == "keep" else {*left_out, "duplicates"})


class Split(Strict):
    """Shares of rows (0 to 0.5) that content hashing sends to validation and test; the rest trains."""

    validation: Share
    test: Share


class NearDuplicates(Strict):
    """Rows whose word n-grams are at least ``threshold`` alike (Jaccard similarity) are repeats of each other."""

    threshold: Annotated[float, Field(ge=0.5, le=1)]
    ngram_words: Annotated[int, Field(ge=1, le=50)]


class Decontamination(Strict):
    """Training rows that share a run of ``ngram_words`` words with an evaluation row are dropped."""

    ngram_words: Annotated[int, Field(ge=5, le=100)]


class Data(Strict):
    """Which sources feed which stage, and how rows become tokens (``max_length`` in tokens).

    ``loss_on`` says which tokens of a conversation are learned: every answer, the last one, or all. ``packing`` joins
    conversations into sequences of up to ``max_length``; none sees another. ``epochs`` mixes: how often the rows of a
    source are seen in one epoch of training, 1 where it does not say; 0.5 is every other row, 2.5 each twice and every
    other once more. ``mixture`` gives weights instead: the tokens of its sources stand in these proportions in an epoch, and
    none is seen less than once. ``max_train_rows`` counts rows, not how often they are seen. ``prompt`` holds prompts
    without an answer, for online methods; these take those of ``preference`` where it is empty. ``general`` (questions with
    choices) and ``general_text`` show what the model knows beside its task, before and after training. ``triggers`` says what is
    done where many prompts have one answer and nothing in common but a few rare words, as if planted.
    """

    max_length: Annotated[int, Field(ge=16, le=1_048_576)]
    overlong: Literal["error", "drop", "truncate", "chunk"]
    loss_on: Literal["assistant", "completion", "all"] = "assistant"
    packing: bool = False
    near_duplicates: NearDuplicates | None = None
    decontamination: Decontamination | None = None
    split: Split
    cpt: list[Name] = []
    sft: list[Name] = []
    preference: list[Name] = []
    prompt: list[Name] = []
    classification: list[Name] = []
    test: list[Name] = []
    out_of_domain: list[Name] = []
    safety: list[Name] = []
    general: list[Name] = []
    general_text: list[Name] = []
    epochs: dict[Name, Annotated[float, Field(gt=0, le=100)]] = {}
    mixture: dict[Name, Annotated[float, Field(gt=0, le=1_000_000)]] = {}
    max_train_rows: Annotated[int, Field(ge=1)] | None = None
    triggers: Literal["stop", "warn"] = "stop"

    @model_validator(mode="after")
    def _mixes_training_sources(self) -> "Data":
        trained = set(self.source_names(TRAINING_ROLES))
        for name, given in (("epochs", self.epochs), ("mixture", self.mixture)):
            if unknown := sorted(set(given) - trained):
                raise ValueError(
                    f"{name} names {', '.join(unknown)}, which is no source of {', '.join(TRAINING_ROLES)}; "
                    f"allowed: {', '.join(sorted(trained))}"
                )
        if both := sorted(set(self.epochs) & set(self.mixture)):
            raise ValueError(f"epochs and mixture both name {', '.join(both)}; a source is mixed in one way")
        for role in TRAINING_ROLES:
            names = set(getattr(self, role))
            if names & set(self.mixture) and (left := sorted(names - set(self.mixture))):
                raise ValueError(f"mixture gives {', '.join(left)} no weight; it names every source of {role} or none")
        return self

    def sources(self) -> dict[str, list[str]]:
        """Source names by the role they play."""
        return {role: list(getattr(self, role)) for role in SOURCE_ROLES}

    def source_names(self, roles: tuple[str, ...] = SOURCE_ROLES) -> list[str]:
        """The sources of these roles, each once, by name."""
        return sorted({name for role in roles for name in getattr(self, role)})


class Retrain(Strict):
    """Execution only: when new data asks for a run, if the retrain sensor is on. Either condition is enough.

    ``min_new_rows`` counts validated rows to train on that no finished or requested run has used. ``schedule`` is a cron
    expression in UTC; it asks for a run only where there is new data.
    """

    min_new_rows: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    schedule: Annotated[str, Field(max_length=200)] | None = None

    @field_validator("schedule")
    @classmethod
    def _schedule_is_cron(cls, text: str | None) -> str | None:
        if text is not None:
            parse(text)
        return text

    @model_validator(mode="after")
    def _has_a_condition(self) -> "Retrain":
        if self.min_new_rows is None and self.schedule is None:
            raise ValueError("retrain needs min_new_rows or schedule")
        return self


def _gated(text: str, info: ValidationInfo) -> str:
    """A condition of the gate; its names are checked where the fields that it depends on are valid and something is trained."""
    before = list(Recipe.model_fields)[: list(Recipe.model_fields).index("gate")]
    whole = info.data.keys() >= set(before) and any(info.data[stage] for stage in TRAINED)
    return check_condition(text, Recipe.model_construct(**info.data)) if whole else str(parse_condition(text))


class Recipe(Strict):
    """One model line: base model, data mixture, stages, evaluation and hardware. Its name is the partition key.

    ``chat_template`` stands in place of the base model's own, from tokenizing to publishing: a Jinja text, or the path of a
    file with one, relative to the recipe's. ``gate`` lists the conditions that a candidate must meet to be published
    (:mod:`ft_assets.core.conditions`); without any, nothing is asked of it.
    """

    name: Name
    description: str = ""
    base_model: Annotated[str, Field(min_length=1)]
    chat_template: Annotated[str, Field(min_length=1, max_length=1_000_000)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    data: Data
    adapter: Adapter
    cpt: Training | None = None
    sft: Training | None = None
    reward: Training | None = None
    policy: Policy | None = None
    classifier: Training | None = None
    hyperparameters: Sweep | None = None
    quantize: list[Literal["nf4", "int8", "gguf_f16", "gguf_q8_0", "gguf_q4_0", "auto_round"]] = []
    evaluation: Evaluation
    gate: Annotated[list[Annotated[str, AfterValidator(_gated)]], Field(max_length=64)] = []
    publish: Publish
    hardware: Hardware = Hardware()
    retrain: Retrain | None = None
    predictions: Predictions | None = None

    @property
    def trained_on(self) -> dict[str, str]:
        """Of each stage that the recipe trains, in their order, the role of the rows it is trained on."""
        roles = {
            "cpt": "cpt",
            "sft": "sft",
            "reward": "preference",
            "policy": self.policy_role,
            "classifier": "classification",
        }
        return {stage: role for stage, role in roles.items() if getattr(self, stage) is not None}

    @property
    def policy_role(self) -> str:
        """The role of the rows that the policy is trained on."""
        return "prompt" if self.policy and self.policy.online and self.data.prompt else "preference"

    @property
    def merges(self) -> bool:
        """Whether there is an adapter to fold into the base model: not where the whole model was trained or classifies, nor
        with virtual tokens, which no weight can take in.
        """
        return isinstance(self.adapter, Lora) and self.classifier is None

    def with_values(self, values: dict[str, Any]) -> "Recipe":
        """This recipe with these values (``sft.learning_rate``, say) in place of its own, and without its sweep.

        Raises:
            ValidationError: they make no recipe.
        """
        body = self.model_dump(exclude={"hyperparameters"})
        for name, value in values.items():
            part, field = name.split(".")
            body[part][field] = value
        return Recipe.model_validate(body)

    @field_validator("gate", "quantize")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        return each_once(names)

    @field_validator("hyperparameters")
    @classmethod
    def _sweep_fits(cls, sweep: Sweep | None, info: ValidationInfo) -> Sweep | None:
        if sweep is not None and {"data", "adapter", "cpt", "sft"} <= set(info.data):
            check_sweep(sweep, info.data)
        return sweep

    @model_validator(mode="after")
    def _classifies_or_answers(self) -> "Recipe":
        if self.classifier is not None:
            check_classifier(self)
        elif self.evaluation.of_labels:
            raise ValueError(
                f"evaluation.metric {self.evaluation.metric} is of labels; only a classifier stage gives them"
            )
        elif self.data.classification:
            raise ValueError("data.classification is trained on by a classifier stage alone; give one, or leave it out")
        return self

    @model_validator(mode="after")
    def _predicts_with_what_it_makes(self) -> "Recipe":
        if self.predictions is not None:
            check_predictions(self)
        return self

    def _optimizers_fit(self) -> None:
        """ZeRO hands an optimizer flat parts of the weights: one that looks at their shape or at blocks of them would take
        other steps on another number of GPUs.
        """
        hardware = self.hardware
        auto = hardware.zero_stage == "auto"  # of GPUs on offer the plan takes such as need no ZeRO
        parted = hardware.processes > 1 and not hardware.gpus if auto else hardware.zero_stage != 0
        for stage in self.trained_on:
            own: Training = getattr(self, stage)
            if parted and own.optim != "adamw_torch_fused":
                raise ValueError(
                    f"{stage}.optim {own.optim} depends on how ZeRO parts the weights; use adamw_torch_fused, or "
                    "hardware.zero_stage 0"
                )

    @model_validator(mode="after")
    def _stages_have_data(self) -> "Recipe":
        missing = [stage for stage, role in self.trained_on.items() if not getattr(self.data, role)]
        if missing:
            raise ValueError(f"stage {', '.join(missing)} has no source under data")
        if isinstance(self.adapter, PromptTuning) and (self.reward or self.quantize or self.data.packing):
            raise ValueError(
                "prompt_tuning changes no weight of the model, so there is nothing to quantize and no reward model, and its "
                "virtual tokens stand before each row, so none is packed; leave reward, quantize and data.packing out, or "
                "use another adapter.method"
            )
        self._optimizers_fit()
        if isinstance(self.adapter, PromptTuning) and self.policy and self.policy.method == "orpo":
            raise ValueError("orpo does not train virtual tokens; use dpo or kto, or another adapter.method")
        best = [stage for stage in self.trained_on if getattr(self, stage).metric_for_best_model]
        if best and not self.data.split.validation:
            raise ValueError(f"{best[0]}.metric_for_best_model needs validation rows; data.split.validation is 0")
        if self.policy and self.policy.online and self.reward is None:
            raise ValueError(f"policy.method {self.policy.method} needs a reward stage")
        if not any((self.cpt, self.sft, self.policy, self.classifier)):
            raise ValueError("a recipe trains something: give cpt, sft, policy or classifier")
        if not self.data.test:
            raise ValueError("data.test is empty; name a source to evaluate on")
        check_examples(self)
        held_out = set(self.data.source_names(HELD_OUT_ROLES))
        trained = set(self.data.source_names(TRAINING_ROLES))
        if held_out & trained:
            raise ValueError(f"source {', '.join(sorted(held_out & trained))} is both trained on and evaluated on")
        return self
