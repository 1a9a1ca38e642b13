"""The resources Dagster injects into the assets."""

from resources.catalog import CatalogResource
from resources.environment import Settings
from resources.local import LocalLauncher
from resources.store import StoreResource
from resources.tracker import TrackerResource


def resources(found: Settings) -> dict[str, object]:
    """The resources for these settings, by the name under which assets ask for them."""
    return {
        "store": StoreResource(url=found.store, local=str(found.home / "local")),
        "catalog": CatalogResource(folders=[str(folder) for folder in found.recipe_folders], home=str(found.home)),
        "launcher": LocalLauncher(runs=str(found.home / "runs"), cache=str(found.cache)),
        "tracker": TrackerResource(mode=found.wandb_mode, folder=str(found.home / "wandb")),
    }
