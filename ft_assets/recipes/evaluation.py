"""What a recipe says of its evaluation, and who takes part in it. All of it is identity."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from ft_assets.recipes.classifying import METRICS_OF_LABELS, check_measures
from ft_assets.recipes.strict import Strict, each_once

TRAINED = ("cpt", "sft", "policy", "classifier")  # stages that make a contestant, in their order
FROM_TRAINING_ROWS = ("few_shot", "retrieval")
# By contestant; those that are not named here are quantized forms, each by its own name.
KIND_OF = {
    **dict.fromkeys(("base_zero_shot", *(f"base_{name}" for name in FROM_TRAINING_ROWS)), "base"),
    **dict.fromkeys(TRAINED, "trained"),
    "merged": "merged",
    "incumbent": "incumbent",
    "majority": "majority",
}

Metric = Literal[
    "exact_match",
    "entity_f1",
    "token_f1",
    "json_valid",
    "json_field_f1",
    "numeric_answer",
    "rouge_l",
    "label_accuracy",
    "label_macro_f1",
    "accuracy",
    "macro_f1",
]


TaskName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]


class Evaluation(Strict):
    """How contestants are compared. ``metric`` is the one of the verdict, ``metrics`` are told beside it.

    ``few_shot`` counts training examples put before the question, the same before each; ``retrieval`` counts those that are
    nearest to it (BM25). ``max_rows`` is the most rows of each held-out set, ``memorization`` the number of training rows,
    and of held-out ones, whose answers are to be continued, ``lm_eval`` tasks of that harness that are run beside them (its
    own sets, which the worker must reach or have). A classifier is measured in ``accuracy`` or ``macro_f1``; it has
    no prompt and writes nothing, so that it takes none of ``few_shot``, ``retrieval``, ``memorization``, ``lm_eval`` and
    ``max_new_tokens``; the other metrics want the first and the last.
    """

    metric: Metric
    metrics: list[Metric] = []
    few_shot: Annotated[int, Field(ge=0, le=64)] | None = None
    retrieval: Annotated[int, Field(ge=1, le=64)] | None = None
    memorization: Annotated[int, Field(ge=1, le=10_000)] | None = None
    lm_eval: Annotated[list[TaskName], Field(max_length=100)] = []
    max_new_tokens: Annotated[int, Field(ge=1, le=8192)] | None = None
    bootstrap_samples: Annotated[int, Field(ge=100, le=100_000)] = 2000
    max_rows: Annotated[int, Field(ge=1)] | None = None

    @field_validator("metrics", "lm_eval")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        return each_once(names)

    @model_validator(mode="after")
    def _has_what_its_metric_needs(self) -> "Evaluation":
        check_measures(self.metric, {"few_shot": self.few_shot, "max_new_tokens": self.max_new_tokens})
        if beside := [
            name for name in ("retrieval", "memorization", "lm_eval") if self.of_labels and getattr(self, name)
        ]:
            raise ValueError(
                f"metric {self.metric} is of labels, which no prompt asks for: leave {', '.join(beside)} out"
            )
        if strange := [name for name in self.metrics if (name in METRICS_OF_LABELS) != self.of_labels]:
            raise ValueError(f"metrics names {', '.join(strange)}, which cannot be measured where {self.metric} is")
        if self.metric in self.metrics:
            raise ValueError(f"metrics names {self.metric}, which metric names already")
        return self

    @property
    def of_labels(self) -> bool:
        """Whether it measures labels, not answers."""
        return self.metric in METRICS_OF_LABELS


def check_examples(recipe: Any) -> None:
    """Refuses an evaluation that wants training conversations where there are none.

    Raises:
        ValueError: names the setting and what to do.
    """
    for name in (*FROM_TRAINING_ROWS, "memorization"):
        if getattr(recipe.evaluation, name) and not recipe.data.sft:
            raise ValueError(f"evaluation.{name} needs a source under data.sft to take examples from")


def candidate(recipe: Any) -> str:
    """The contestant that is to be released: what the last training stage made."""
    return next(name for name in reversed(TRAINED) if getattr(recipe, name) is not None)


def kinds(recipe: Any) -> dict[str, str]:
    """Every contestant a recipe can have, in their order, and its kind. ``incumbent`` takes part where a model of the recipe
    was published before.
    """
    if recipe.classifier is not None:
        names = ["majority", "classifier"]
    else:
        prompted = [f"base_{name}" for name in FROM_TRAINING_ROWS if getattr(recipe.evaluation, name)]
        trained = [name for name in TRAINED if getattr(recipe, name) is not None]
        merged = ["merged"] if recipe.merges else []
        names = ["base_zero_shot", *prompted, *trained, *merged, *sorted(recipe.quantize), "incumbent"]
    return {name: KIND_OF.get(name, "quantized") for name in names}
