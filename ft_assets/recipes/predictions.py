"""What a recipe's model is asked in batches, once it is there."""

from typing import Annotated, Any

from pydantic import Field

from ft_assets.recipes.strict import Strict

CHAMPION = "champion"
# Models of a recipe by the name of its stage; what is quantized has the name of its form.
STAGES = {
    "base": "base_model",
    "cpt": "cpt_adapter",
    "sft": "sft_adapter",
    "policy": "policy",
    "classifier": "classifier",
    "merged": "merged_model",
}


class Predictions(Strict):
    """Every batch of ``sources`` is answered: prompts (kind ``prompt``), by a classifier texts (kind ``text``).

    ``model`` is ``champion``, the published model in use, or one that the recipe makes: ``base``, ``cpt``, ``sft``, ``policy``,
    ``merged``, ``classifier``, or a form of ``quantize``. A classifier writes nothing and takes no ``max_new_tokens``.
    """

    sources: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    model: Annotated[str, Field(min_length=1, max_length=63)]
    max_new_tokens: Annotated[int, Field(ge=1, le=8192)] | None = None


def model_names(recipe: Any) -> list[str]:
    """What may be asked of a recipe's models, by the name that ``predictions.model`` and ``--model`` take.

    Args:
        recipe: a whole recipe; its fields are valid each for itself.
    """
    if recipe.classifier:
        return [CHAMPION, "classifier"]
    trained = [name for name in ("cpt", "sft", "policy") if getattr(recipe, name)]
    return [CHAMPION, "base", *trained, "merged", *recipe.quantize]


def check_predictions(recipe: Any) -> None:
    """Refuses a model that the recipe does not make, and a length where nothing is written, or none where something is.

    Raises:
        ValueError: names the field and what is allowed.
    """
    wanted = recipe.predictions
    if wanted.model not in (names := model_names(recipe)):
        raise ValueError(f"predictions.model {wanted.model!r} is none that this recipe makes: {', '.join(names)}")
    if recipe.classifier and wanted.max_new_tokens is not None:
        raise ValueError("a classifier writes nothing; leave predictions.max_new_tokens out")
    if not recipe.classifier and wanted.max_new_tokens is None:
        raise ValueError("predictions.max_new_tokens is not given; say how long an answer may be")


def kind_of_predictions(classifies: bool) -> str:
    """The kind of source that is answered."""
    return "text" if classifies else "prompt"
