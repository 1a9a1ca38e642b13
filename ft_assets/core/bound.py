"""The most that a recipe can have to train on, for a plan before its splits are made."""

import math

from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.batches import recipe_batches
from ft_assets.core.shape import Shape, read_shape
from ft_assets.recipes.base import base_identity
from ft_assets.recipes.load import Catalog
from ft_assets.recipes.schema import Recipe


def at_most(catalog: Catalog, recipe: Recipe, store: ArtifactStore) -> tuple[Shape, dict[str, dict[str, int]]] | None:
    """The model's shape and, of each role, as many rows of ``data.max_length`` as its batches keep; None where that is not known.

    It takes a base model in a folder and validated batches. Text that is cut into blocks or chunks, and a mixture, make other
    numbers of rows than came in.
    """
    data = recipe.data
    _, path = base_identity(recipe.base_model, catalog.recipes[recipe.name].file, recipe.chat_template)
    if path is None or not (path / "config.json").is_file():
        return None
    if recipe.cpt is not None or data.mixture or data.overlong == "chunk":
        return None
    states = recipe_batches(catalog, recipe, store)
    splits = {}
    for role in recipe.trained_on.values():
        rows = 0
        for source in getattr(data, role):
            own = [state for state in states.values() if state.source == source]
            if not own or any(state.fault for state in own):
                return None
            rows += math.ceil(sum(state.rows for state in own) * data.epochs.get(source, 1))
        rows = min(rows, data.max_train_rows or rows)
        sides = 2 if role == "preference" else 1
        splits[role] = {"rows": rows, "tokens": sides * rows * data.max_length, "longest": data.max_length}
    return read_shape(path), splits
