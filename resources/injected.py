"""The resources Dagster injects into the assets."""

from resources.catalog import CatalogResource
from resources.environment import Settings
from resources.kubernetes.launcher import KubernetesLauncher
from resources.launching import Launcher
from resources.local import LocalLauncher
from resources.store import StoreResource
from resources.target import TargetResource
from resources.tracker import TrackerResource


def resources(found: Settings) -> dict[str, object]:
    """The resources for these settings, by the name under which assets ask for them."""
    return {
        "store": StoreResource(url=found.store, local=str(found.home / "local")),
        "catalog": CatalogResource(folders=[str(folder) for folder in found.recipe_folders], home=str(found.home)),
        "target": TargetResource(
            home=str(found.home), signing_key=str(found.signing_key) if found.signing_key else None
        ),
        "launcher": _launcher(found),
        "tracker": TrackerResource(**found.tracker),
    }


def _launcher(found: Settings) -> Launcher:
    runs, cache = str(found.home / "runs"), str(found.cache)
    if found.launcher == "kubernetes":
        return KubernetesLauncher(runs=runs, cache=cache, pods=str(found.pods))
    return LocalLauncher(runs=runs, cache=cache)
