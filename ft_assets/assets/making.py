"""How an asset gets its artifact: reuse a finished one, or make it, here or in a worker."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from ft_assets.assets.partitions import split_key
from ft_assets.assets.showing import import_plots
from ft_assets.core.artifact import Artifact, ArtifactStore, Manifest, Staging
from ft_assets.core.batches import RUN_DATA, RUN_PUBLISHED, recipe_batches
from ft_assets.core.errors import CorruptArtifact, MissingInput
from ft_assets.core.recipe_run import RecipeRun, stages_of, worker_request
from ft_assets.core.stage import Stage
from ft_assets.recipes.load import Catalog
from ft_assets.recipes.schema import Recipe
from resources.catalog import CatalogResource
from resources.launching import Launcher
from resources.store import StoreResource
from resources.tracker import TrackerResource

# Rows and weights, hashed when they were written just now, and by each worker that reads them.
READ_BY_WORKERS = (".arrow", ".safetensors")


@dataclass(frozen=True)
class Made:
    """An asset's artifact and how it came: ``made``, ``reused``, ``remade`` (it was corrupt) or ``passes through``."""

    stage: Stage
    artifact: Artifact
    status: str
    seconds: float

    @property
    def manifest(self) -> Manifest:
        return self.artifact.manifest

    @property
    def cost_usd(self) -> float:
        """What it cost now: nothing where it was there already."""
        return self.manifest.cost_usd if self.status in ("made", "remade") else 0.0

    def result(
        self,
        key_metric: str,
        metadata: Mapping[str, Any] | None = None,
        checks: list[dg.AssetCheckResult] | None = None,
        data_version: str | None = None,
    ) -> dg.MaterializeResult:
        """The materialization: what every asset shows, and this one's own metadata."""
        shown: dict[str, Any] = {
            "status": self.status,
            "key metric": key_metric,
            "seconds": round(self.seconds, 2),
            "cost (USD)": self.cost_usd,
            "size (MB)": round(self.manifest.size_bytes / 1e6, 3),
            "fingerprint": self.stage.fingerprint,
            "folder": dg.MetadataValue.path(str(self.artifact.folder)),
        }
        if self.stage.passes:
            shown["passes through"] = f"nothing is to be done at this stage; this is {self.stage.passes}"
        return dg.MaterializeResult(
            metadata={**shown, **(metadata or {})},
            check_results=checks or [],
            data_version=dg.DataVersion(data_version or self.stage.fingerprint),
        )


def recipe_run(context: dg.AssetExecutionContext, catalog: CatalogResource, store: StoreResource) -> RecipeRun:
    """The recipe of this partition and its stages, from the batches ingested and models published when this run first asked.

    New data may be ingested while a run trains for hours; its later assets must not see it, or they would look for
    splits that nobody made, and so with the incumbent. A run that repeats another (a re-execution) works with that one's data.
    """
    known, artifacts = catalog.load(), store.open()
    recipe = known.recipe(context.partition_key)
    key = f"{context.run.root_run_id or context.run_id}@{recipe.name}"
    pinned = artifacts.get_ref(RUN_DATA, key)
    states = recipe_batches(known, recipe, artifacts, pinned)
    judged = artifacts.get_ref(RUN_PUBLISHED, key)
    published = tuple((made_by, digest) for made_by, digest in judged["published"]) if judged else None
    run = stages_of(known, recipe, artifacts, states, published)
    if judged is None:
        artifacts.set_ref(RUN_PUBLISHED, key, {"published": [list(entry) for entry in run.published]})
    if pinned is None:
        artifacts.set_ref(RUN_DATA, key, {state.key: state.raw for state in states.values()})
    return run


def make_here(
    context: dg.AssetExecutionContext,
    stage: Stage,
    store: ArtifactStore,
    usd_per_hour: float,
    produce: Callable[[Staging], None],
) -> Made:
    """Reuses the stage's artifact, or makes it in this process."""

    def make() -> None:
        upstream = {role: entry[1] for role, entry in stage.upstream.items()}
        with store.write(
            stage.name, stage.fingerprint, code_version=stage.code_version, identity=stage.identity, upstream=upstream
        ) as staging:
            staging.usd_per_hour = usd_per_hour
            produce(staging)

    return _make(context, stage, store, make)


def make_in_worker(
    context: dg.AssetExecutionContext,
    run: RecipeRun,
    name: str,
    launcher: Launcher,
    store: StoreResource,
    tracker: TrackerResource,
    execution: dict[str, Any] | None = None,
    processes: int | None = None,
) -> Made:
    """Reuses the stage's artifact, or has a worker make it (under torchrun when ``processes`` is given)."""
    return make_stage_in_worker(context, run.stages[name], run.recipe, launcher, store, tracker, execution, processes)


def make_stage_in_worker(
    context: dg.AssetExecutionContext,
    stage: Stage,
    recipe: Recipe,
    launcher: Launcher,
    store: StoreResource,
    tracker: TrackerResource,
    execution: dict[str, Any] | None,
    processes: int | None,
) -> Made:
    place = {"url": store.url, "local": store.local}
    request = worker_request(recipe, stage, place, tracker.request(), execution or {})

    def make() -> None:
        import_plots()
        launcher.run(context, request, processes, recipe.hardware.threads_per_process)

    return _make(context, stage, store.open(), make)


def _make(context: dg.AssetExecutionContext, stage: Stage, store: ArtifactStore, make: Callable[[], Any]) -> Made:
    started = time.monotonic()
    status = "made"
    try:
        artifact = store.open(stage.made_by, stage.fingerprint)
        if artifact is not None:
            status = "passes through" if stage.passes else "reused"
            # A worker killed right after its commit leaves its checkpoints, and no worker comes by here again.
            store.clear_scratch(stage.fingerprint)
            return Made(stage, artifact, status, time.monotonic() - started)
    except CorruptArtifact as error:
        if stage.passes:
            raise
        context.log.warning(
            f"corrupt artifact: {error}. Kept at {store.set_aside(stage.name, stage.fingerprint)}, making it again"
        )
        status = "remade"
    _check_inputs(stage, store)
    make()
    manifest = store.lookup(stage.made_by, stage.fingerprint)
    if manifest is None:
        raise MissingInput(f"{stage.name} {stage.fingerprint[:12]} was not committed, though its worker ended well")
    shown = [name for name in manifest.files if not name.endswith(READ_BY_WORKERS)]
    made = store.open(stage.made_by, stage.fingerprint, shown)
    assert made is not None, "its manifest is there"
    return Made(stage, made, status, time.monotonic() - started)


def _check_inputs(stage: Stage, store: ArtifactStore) -> None:
    for role, (name, fingerprint) in stage.upstream.items():
        try:
            found = store.open(name, fingerprint)
        except CorruptArtifact as error:
            aside = store.set_aside(name, fingerprint)
            raise CorruptArtifact(
                f"input of {stage.name} is corrupt: {error}. Kept at {aside}; materialize {name} again"
            ) from error
        if found is None:
            raise MissingInput(
                f"{stage.name} needs {name} {fingerprint[:12]} ({role}), which has not been made; materialize it first"
            )


def source_of(key: str, catalog: Catalog) -> tuple[str, str]:
    """Source and batch of a partition key, the source being declared."""
    source, batch = split_key(key)
    catalog.source(source)
    return source, batch
