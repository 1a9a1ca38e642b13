"""Arguments that commands of ``ft`` take, and what becomes of them."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ft_assets.recipes.load import Catalog, add_file
from resources.environment import Settings, catalog, settings

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name, or the path of its YAML file.")]


def open_recipe(recipe: str) -> tuple[Settings, Catalog, str]:
    """Settings, catalog and the recipe's name; a path adds the file's folder to the search path."""
    found = settings()
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml"):
        found = replace(found, recipe_folders=(*found.recipe_folders, path.resolve().parent))
        known = catalog(found)
        return found, known, add_file(known, path)
    known = catalog(found)
    known.recipe(recipe)
    return found, known, recipe
