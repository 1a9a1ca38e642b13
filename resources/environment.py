"""Settings of this deployment, read from the environment.

=====================  =======================================================  =========================
``FT_HOME``            folder for the store, Dagster's instance and caches      ``.ft`` in this folder
``FT_STORE``           root of the artifact store: a path or an fsspec URL      ``$FT_HOME/store``
``FT_RECIPES``         folders with your recipes and sources, ``:`` between     ``recipes`` in this folder
``FT_CACHE``           downloads that outlive the project folder                ``~/.cache/ft-assets``; in pods ``$FT_HOME/cache``
``FT_WANDB``           ``offline``, ``online`` or ``disabled``                  ``online`` with a key, else ``offline``
``FT_SENSORS``         ``on``: sensors run unless stopped in the UI             ``off``: the UI starts them
``FT_SENSOR_SECONDS``  seconds between two looks of a sensor                    ``30``
``FT_LAUNCHER``        ``local`` or ``kubernetes``: where workers run           ``local``
``FT_SIGNING_KEY``     file of the private key that signs releases              none
``FT_PODS``            file of the deployment's pods, for ``kubernetes``        none
=====================  =======================================================  =========================
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.errors import FineTuneError
from ft_assets.recipes.load import SHIPPED, Catalog, load_catalog

LAUNCHERS = ("local", "kubernetes")
WANDB_MODES = ("offline", "online", "disabled")
MOST_SENSOR_SECONDS = 86_400


@dataclass(frozen=True)
class Settings:
    home: Path
    store: str
    recipe_folders: tuple[Path, ...]
    cache: Path
    wandb_mode: str
    sensors_run: bool = False
    sensor_seconds: int = 30
    launcher: str = "local"
    pods: Path | None = None
    signing_key: Path | None = None

    @property
    def dagster_home(self) -> Path:
        return Path(os.environ.get("DAGSTER_HOME") or self.home / "dagster_home").resolve()

    @property
    def tracker(self) -> dict[str, str]:
        """What a worker is told of Weights & Biases."""
        return {"mode": self.wandb_mode, "folder": str(self.home / "wandb"), "project": "ft-assets"}

    def open_store(self) -> ArtifactStore:
        return ArtifactStore(self.store, self.home / "local")


def settings() -> Settings:
    """The settings as the environment has them now; a variable that is set to nothing counts as unset.

    Raises:
        FineTuneError: a variable holds a value that is not allowed.
    """
    home = Path(os.environ.get("FT_HOME") or ".ft").resolve()
    own = os.environ.get("FT_RECIPES") or "recipes"
    folders = (SHIPPED, *(Path(folder).resolve() for folder in own.split(os.pathsep) if folder))
    mode = os.environ.get("FT_WANDB") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
    if mode not in WANDB_MODES:
        raise FineTuneError(f"FT_WANDB is {mode!r}; allowed: {', '.join(WANDB_MODES)}")
    sensors, seconds = os.environ.get("FT_SENSORS") or "off", os.environ.get("FT_SENSOR_SECONDS") or "30"
    if sensors not in ("on", "off"):
        raise FineTuneError(f"FT_SENSORS is {sensors!r}; allowed: on, off")
    if not (seconds.isascii() and seconds.isdigit() and 1 <= int(seconds) <= MOST_SENSOR_SECONDS):
        raise FineTuneError(f"FT_SENSOR_SECONDS is {seconds!r}; allowed: 1 to {MOST_SENSOR_SECONDS}")
    store = os.environ.get("FT_STORE") or str(home / "store")
    launcher, pods = os.environ.get("FT_LAUNCHER") or "local", os.environ.get("FT_PODS")
    if launcher not in LAUNCHERS:
        raise FineTuneError(f"FT_LAUNCHER is {launcher!r}; allowed: {', '.join(LAUNCHERS)}")
    if launcher == "kubernetes" and not pods:
        raise FineTuneError("FT_LAUNCHER is 'kubernetes', and FT_PODS names no file; see docs/kubernetes.md")
    file = Path(pods).resolve() if pods else None
    key = os.environ.get("FT_SIGNING_KEY")
    if key and not Path(key).expanduser().is_file():
        raise FineTuneError(f"FT_SIGNING_KEY is {key!r}, which is no file")
    signing_key = Path(key).expanduser().resolve() if key else None
    shared = home / "cache" if launcher == "kubernetes" else Path("~/.cache/ft-assets")
    cache = Path(os.environ.get("FT_CACHE") or shared).expanduser()
    return Settings(home, store, folders, cache, mode, sensors == "on", int(seconds), launcher, file, signing_key)


def catalog(found: Settings) -> Catalog:
    return load_catalog(found.recipe_folders)


def prepare_dagster_home(found: Settings) -> Path:
    """Dagster's instance folder, made with the project's ``dagster.yaml`` where there is none, and set for this process.

    Raises:
        FineTuneError: it cannot be written.
    """
    folder = found.dagster_home
    shipped = Path(__file__).parent.parent / "deploy" / "local" / "dagster.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "dagster.yaml").exists() and shipped.is_file():
            shutil.copyfile(shipped, folder / "dagster.yaml")
    except OSError as error:
        raise FineTuneError(
            f"{error.filename} cannot be written ({error.strerror}); set FT_HOME to a folder of yours"
        ) from error
    os.environ["DAGSTER_HOME"] = str(folder)
    return folder
