"""Which model answers which batch: the keys of predictions, the artifact behind a model's name, and the stage they make."""

from dataclasses import dataclass
from typing import Any

from ft_assets.core import champion
from ft_assets.core.artifact import ArtifactStore, Manifest
from ft_assets.core.batches import RAW, batch_state
from ft_assets.core.errors import FineTuneError, MissingInput
from ft_assets.core.recipe_run import stages_of
from ft_assets.core.stage import Stage, make_stage
from ft_assets.recipes.load import Catalog
from ft_assets.recipes.predictions import CHAMPION, STAGES, kind_of_predictions, model_names
from ft_assets.recipes.schema import FORMATS, Recipe, Source

FILE = "-"  # in the place of a source, whose name cannot be that: a file that no source declares
ROWS = "validated_dataset"


@dataclass(frozen=True)
class Model:
    """A finished model: the manifest of its artifact, the name of its form in there where it has several, and the base
    model's (stage, fingerprint) where it is an adapter.
    """

    name: str
    manifest: Manifest
    form: str | None = None
    base: tuple[str, str] | None = None

    @property
    def classifies(self) -> bool:
        return self.manifest.stage == "classifier"

    def upstream(self) -> dict[str, tuple[str, str]]:
        """What a worker that runs it needs, by role."""
        base = {} if self.base is None else {"base_model": self.base}
        return {"model": (self.manifest.stage, self.manifest.fingerprint), **base}

    def identity(self) -> dict[str, Any]:
        """How it is read, beside its artifact; a classifier reads as many tokens as it was trained on."""
        return {"max_length": self.manifest.identity["max_length"]} if self.classifies else {"form": self.form}


def find_model(catalog: Catalog, recipe: Recipe, store: ArtifactStore, name: str) -> Model:
    """The artifact that a name stands for now.

    Raises:
        FineTuneError: the recipe makes no model of this name.
        MissingInput: it has not been made, or nothing has been published.
    """
    if name not in (names := model_names(recipe)):
        raise FineTuneError(f"recipe {recipe.name} makes no model {name!r}; it has: {', '.join(names)}")
    if name == CHAMPION:
        made_by, fingerprint = _champion(store, recipe.name)
        asset = "published_model"
    else:
        asset = STAGES.get(name, "quantized_model")
        stage = stages_of(catalog, recipe, store).stages[asset]
        made_by, fingerprint = stage.made_by, stage.fingerprint
    manifest = store.lookup(made_by, fingerprint)
    if manifest is None:
        raise MissingInput(
            f"{name} of {recipe.name} ({made_by} {fingerprint[:12]}) has not been made as the recipe stands now; run: "
            f"ft run {recipe.name} --until {asset}"
        )
    adapts = "adapter_config.json" in manifest.files
    form = name if asset == "quantized_model" else None
    return Model(name, manifest, form, ("base_model", manifest.upstream["base_model"]) if adapts else None)


def _champion(store: ArtifactStore, recipe: str) -> tuple[str, str]:
    record = champion.read(store, recipe)
    entry = champion.entry_of(record, record["champion"]) if record else None
    if entry is None:
        raise MissingInput(
            f"recipe {recipe} has no champion: nothing of it is published. Publish one with ft run {recipe}, or name another "
            "model (--model merged, say)"
        )
    made_by, fingerprint = entry["merged"]
    return made_by, fingerprint


def prediction_stage(model: Model, rows: str, max_new_tokens: int | None) -> Stage:
    """A model's answers to the rows of one validated batch, ``rows`` its fingerprint; what a model of a certain name has
    answered is reused under another name of it.

    Args:
        max_new_tokens: of an answer; None for a classifier.
    """
    length = {} if model.classifies else {"max_new_tokens": max_new_tokens}
    return make_stage("batch_predictions", {**model.identity(), **length}, {**model.upstream(), "rows": (ROWS, rows)})


def split_prediction_key(key: str) -> tuple[str, str, str]:
    """``recipe@source@batch`` taken apart; the source of a file that none declares is :data:`FILE`, its batch the fingerprint
    of its validated rows.

    Raises:
        FineTuneError: the key has another form.
    """
    recipe, _, rest = key.partition("@")
    source, _, batch = rest.partition("@")
    if not (recipe and source and batch):
        raise FineTuneError(f"partition {key!r} is not of the form recipe@source@batch")
    return recipe, source, batch


def rows_of(catalog: Catalog, recipe: Recipe, store: ArtifactStore, source: str, batch: str) -> Manifest:
    """The validated rows that a key stands for.

    Raises:
        FineTuneError: the recipe's predictions do not name the source, or its kind is another.
        MissingInput: the batch has not been ingested, or failed a check.
    """
    if source == FILE:
        manifest = store.lookup(ROWS, batch)
        if manifest is None:
            raise MissingInput(f"no rows {batch[:12]} are in the store; give the file again: ft predict {recipe.name}")
        return manifest
    named = recipe.predictions.sources if recipe.predictions else []
    if source not in named:
        raise FineTuneError(
            f"predictions of recipe {recipe.name} do not name source {source}; they have: {', '.join(named) or 'none'}"
        )
    state = batch_state(catalog, store, f"{source}@{batch}")
    if state.fault or state.manifest is None:
        raise MissingInput(f"{state.fault}; then run: ft predict {recipe.name}")
    return state.manifest


def batches_to_answer(catalog: Catalog, recipe: Recipe, store: ArtifactStore) -> dict[str, str]:
    """The validated batches that a recipe's predictions name, as ``recipe@source@batch``, and the fingerprints of their rows;
    those that are not validated yet, or failed, are left out.
    """
    found: dict[str, str] = {}
    for source in recipe.predictions.sources if recipe.predictions else ():
        states = [batch_state(catalog, store, key) for key in store.ref_names(RAW, f"{source}@")]
        found |= {f"{recipe.name}@{state.key}": state.validated for state in states if not state.fault}
    return found


def file_source(classifies: bool, columns: list[str]) -> Source:
    """A file that no source declares, as one: every row is to be answered, so none is dropped for what it holds or repeats.

    Args:
        columns: those that hold what is asked, joined by a blank line; none where the column has the field's own name.
    """
    kind = kind_of_predictions(classifies)
    field = "text" if classifies else "prompt"
    named: dict[str, Any] = {field: columns[0] if len(columns) == 1 else columns} if columns else {}
    return Source.model_validate(
        {
            "kind": kind,
            "location": FILE,
            "format": FORMATS[kind][0],
            "licence": "not declared",
            "columns": named,
            "personal_data": "keep",
            "max_characters": 1_000_000,
            "duplicates": "keep",
            "max_quarantined_share": 1.0,
        }
    )
