"""The recipes and sources of this deployment as a Dagster resource."""

from pathlib import Path

import dagster as dg

from ft_assets.recipes.load import Catalog, load_catalog


class CatalogResource(dg.ConfigurableResource):
    """Reads the recipe folders anew each time, so an edited recipe counts from the next run on."""

    folders: list[str]
    home: str

    def load(self) -> Catalog:
        return load_catalog(Path(folder) for folder in self.folders)
