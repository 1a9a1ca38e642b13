"""Asset ``published_model``: merged, quantized and adapter weights in a folder, with a model card and its report."""

from typing import Any

import dagster as dg

from ft_assets.assets.making import make_here, recipe_run
from ft_assets.core.artifact import Artifact, Staging
from ft_assets.core.batches import TRAINED_ON
from ft_assets.core.lineage import CODE_VERSIONS
from ft_assets.core.publish import PublishedFile, folder_of, is_champion, publish
from ft_assets.core.recipe_run import RecipeRun
from resources.catalog import CatalogResource
from resources.store import StoreResource
from resources.target import TargetResource

COMPLETE = dg.AssetCheckSpec(
    "published_complete",
    asset="published_model",
    blocking=True,
    description="Every file of the release is at its place with the size and, in a local folder, the hash it should have.",
)


def build(partitions: dg.StaticPartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=partitions,
        deps=["policy", "merged_model", "quantized_model", "eval_report"],
        group_name="release",
        kinds={"huggingface"},
        owners=["team:ml"],
        code_version=CODE_VERSIONS["published_model"],
        check_specs=[COMPLETE],
        description="The release: adapter, merged and quantized weights (safetensors only), model card and report, and a "
        "champion pointer moved to it.",
    )
    def published_model(
        context: dg.AssetExecutionContext, store: StoreResource, catalog: CatalogResource, target: TargetResource
    ) -> dg.MaterializeResult:
        run = recipe_run(context, catalog, store)
        stage = run.stages["published_model"]
        place, say = target.open(run.recipe.publish.to, run.recipe.publish.private), context.log.info
        files = release_files(run, {name: source.licence for name, source in _sources(run, catalog).items()})

        def produce(staging: Staging) -> None:
            publish(place, stage.fingerprint, files, say)
            staging.write_json("release.json", {"url": place.url, "files": [file.name for file in files]})

        made = make_here(context, stage, run.store, 0.0, produce)
        absent = place.missing(folder_of(stage.fingerprint), files)
        # A reused release may have been damaged since, or another one be the champion by now.
        if absent or not is_champion(place, stage.fingerprint):
            context.log.warning(
                f"the release at {place.url} lacks {len(absent)} files or is not the champion; publishing it"
            )
            publish(place, stage.fingerprint, files, say)
            absent = place.missing(folder_of(stage.fingerprint), files)
        check = dg.AssetCheckResult(passed=not absent, check_name="published_complete", metadata={"missing": absent})
        if not absent:
            run.store.set_ref(TRAINED_ON, run.recipe.name, {"validated": sorted(run.data())})
        return made.result(
            f"{len(files)} files",
            {"published to": f"{place.url}/{folder_of(stage.fingerprint)}", "files": len(files)},
            [check],
        )

    return published_model


def _sources(run: RecipeRun, catalog: CatalogResource) -> dict[str, Any]:
    known = catalog.load()
    return {name: known.source(name) for name in run.recipe.data.source_names()}


def release_files(run: RecipeRun, licences: dict[str, str]) -> list[PublishedFile]:
    """Every file of a release: its name there and where it comes from (a path) or what it says (bytes)."""
    from ft_assets.report.card import model_card

    report = run.artifact("eval_report")
    files = [
        PublishedFile("README.md", model_card(report.json("report.json"), licences).encode()),
        PublishedFile("report.html", report.file("report.html")),
    ]
    own = ("history.json", "deepspeed.json")
    files += _folder(run.artifact("merged_model"), "", skip=own)
    if not run.stages["merged_model"].passes:
        files += _folder(run.artifact("policy"), "adapter/", skip=own)
    if not run.stages["quantized_model"].passes:
        files += _folder(run.artifact("quantized_model"), "quantized/")
    return files


def _folder(artifact: Artifact, prefix: str, skip: tuple[str, ...] = ()) -> list[PublishedFile]:
    return [PublishedFile(prefix + name, artifact.file(name)) for name in artifact.manifest.files if name not in skip]
