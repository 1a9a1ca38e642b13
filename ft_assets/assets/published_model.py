"""Asset ``published_model``: the release at its place, complete, and the champion moved to it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from ft_assets.assets import release
from ft_assets.assets.making import make_here, recipe_run
from ft_assets.core import champion
from ft_assets.core.artifact import Staging
from ft_assets.core.batches import TRAINED_ON
from ft_assets.core.gate import require_passed
from ft_assets.core.publish import PublishedFile, Target, folder_of, is_champion, pointer_to, refuse_pickles
from ft_assets.core.recipe_run import RecipeRun
from ft_assets.core.signing import SIGNATURE
from ft_assets.core.stage import CODE_VERSIONS
from resources.catalog import CatalogResource
from resources.store import StoreResource
from resources.target import TargetResource

COMPLETE = dg.AssetCheckSpec(
    "published_complete",
    asset="published_model",
    blocking=True,
    description="Every file of the release is at its place with the hash it should have (in an object store: with its size).",
)
SIGNED = dg.AssetCheckSpec(
    "published_signed",
    asset="published_model",
    blocking=False,
    description="The release is signed, where FT_SIGNING_KEY names a key.",
)


def build(partitions: dg.StaticPartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=partitions,
        deps=["policy", "merged_model", "quantized_model", "eval_report"],
        group_name="release",
        kinds={"huggingface"},
        owners=["team:ml"],
        code_version=CODE_VERSIONS["published_model"],
        check_specs=[COMPLETE, SIGNED],
        description="The release: adapter, merged and quantized weights (no pickles), model card, report, bill of materials and "
        "signature, in a folder or on the Hugging Face Hub, and a champion pointer moved to it.",
    )
    def published_model(
        context: dg.AssetExecutionContext, store: StoreResource, catalog: CatalogResource, target: TargetResource
    ) -> dg.MaterializeResult:
        run = recipe_run(context, catalog, store)
        require_passed(run.artifact("eval_report").json("gate.json"), run.recipe.name)
        stage, key, say = run.stages["published_model"], target.key(), context.log.info
        place = target.open(run.recipe.publish.to, run.recipe.publish.private)
        weights, folder = release.weights(run), folder_of(stage.fingerprint)

        def produce(staging: Staging) -> None:
            known = catalog.load()
            told = release.described(run, {name: known.source(name) for name in run.recipe.data.source_names()})
            release.write(staging, told, weights, key)
            files = release.complete(weights, staging.folder)
            refuse_pickles(files)
            place.put(folder, files, say)
            staging.write_json("release.json", {"url": place.url, "folder": folder, "files": release.listing(files)})

        made = make_here(context, stage, run.store, 0.0, produce)
        files = release.complete(weights, made.artifact.folder)
        absent = whole(place, folder, files, context.log)
        if not absent:
            make_champion(run, place)
            run.store.set_ref(TRAINED_ON, run.recipe.name, {"validated": sorted(run.data())})
        return made.result(
            f"{len(files)} files",
            {"published to": place.at(folder), "files": len(files), "signed": _is_signed(files)},
            [
                dg.AssetCheckResult(passed=not absent, check_name=COMPLETE.name, metadata={"missing": absent}),
                signed(files, key),
            ],
        )

    return published_model


def whole(place: Target, folder: str, files: list[PublishedFile], log: Any) -> list[str]:
    """What a release lacks after what it lacked is written again: one that is reused may have been damaged since."""
    absent = place.missing(folder, files)
    if absent:
        log.warning(f"the release at {place.at(folder)} lacks {len(absent)} files: writing them again")
        place.put(folder, files, log.info)
        absent = place.missing(folder, files)
    return absent


def make_champion(run: RecipeRun, place: Target) -> None:
    """Records the release as the champion, then points to it: a run that ends between the two does the second when it is
    repeated.

    Raises:
        FineTuneError: the release was withdrawn, or judged against what is the champion no more.
    """
    stage, merged = run.stages["published_model"], run.stages["merged_model"]
    entry = {
        "release": stage.fingerprint,
        "evaluation": run.stages["evaluation"].fingerprint,
        "merged": [merged.made_by, merged.fingerprint],
        "folder": folder_of(stage.fingerprint),
        "to": run.recipe.publish.to,
        "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "override": run.artifact("eval_report").json("gate.json")["override"],
        "withdrawn": None,
    }
    champion.promote(run.store, run.recipe.name, entry, run.published)
    if not is_champion(place, stage.fingerprint):
        place.write_pointer(pointer_to(stage.fingerprint))


def _is_signed(files: list[PublishedFile]) -> bool:
    return any(file.name == SIGNATURE for file in files)


def signed(files: list[PublishedFile], key: Path | None) -> dg.AssetCheckResult:
    """The check ``published_signed``: a release made before there was a key stays as it is."""
    passed = key is None or _is_signed(files)
    return dg.AssetCheckResult(
        passed=passed,
        check_name=SIGNED.name,
        severity=dg.AssetCheckSeverity.WARN,
        description=None if passed else "It was published before FT_SIGNING_KEY named a key; a new release is signed.",
    )
