"""How an asset gets its artifact."""

from pathlib import Path

import dagster as dg

from ft_assets.assets.making import make_here
from ft_assets.core.artifact import ArtifactStore, Staging
from ft_assets.core.stage import make_stage


def test_partial_work_of_a_finished_artifact_goes(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    stage = make_stage("sft_adapter", {"seed": 1}, {})

    def produce(staging: Staging) -> None:
        staging.write_json("adapter.json", {})

    context = dg.build_asset_context()
    assert make_here(context, stage, store, 0.0, produce).status == "made"
    (store.scratch(stage.fingerprint) / "checkpoints").mkdir()
    assert make_here(context, stage, store, 0.0, produce).status == "reused"
    assert not store.has_partial(stage.fingerprint)
    assert list((tmp_path / "store" / ".scratch").iterdir()) == []
