"""``ft deploy render``: the objects of each stage of a recipe, or what is missing for them."""

import json

import kubernetes_validate
import pytest
import yaml
from conftest import Workshop
from pod_laws import restricted_faults, server_faults
from podmaking import IMAGE, cluster

from ft_assets import deploying
from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.lineage import Inputs, model_stages
from ft_assets.core.recipe_run import RecipeRun
from ft_assets.recipes.load import SHIPPED, load_catalog
from resources.environment import Settings

DEPLOYMENT = f"namespace: training\nclaim: ft-home\nmount: /ft\nimage: {IMAGE}\n"


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """Renders the demo as if its batches were there: (assets, its settings of pods) to objects and what is missing."""
    known = load_catalog([SHIPPED])
    recipe = known.recipe("demo")
    roles = {role: {} for role in recipe.data.sources()}
    store = ArtifactStore(str(tmp_path / "store"), tmp_path / "local")
    found = Settings(tmp_path / "home", str(tmp_path / "store"), (SHIPPED,), tmp_path / "cache", "disabled")

    def rendered(assets, **settings):
        body = recipe.model_dump()
        body["hardware"]["pods"] = settings
        own = type(recipe).model_validate(body)
        stages = model_stages(own, Inputs(roles, "b" * 64, "c" * 64))
        monkeypatch.setattr(deploying, "stages_of", lambda *_: RecipeRun(own, stages, store))
        return deploying.rendered(found, known, "demo", cluster(), assets)

    return rendered


def test_a_stage_without_a_plan_says_what_to_run(demo):
    made, missing = demo(list(deploying.IN_WORKERS))
    assert set(made) == {"base_model", "tokenized_splits", "merged_model", "quantized_model", "eval_report"}
    assert set(missing) == {"cpt_adapter", "sft_adapter", "reward_model", "policy"}
    assert "ft run demo --until tokenized_splits" in missing["policy"]


def test_only_what_was_asked_for_is_printed(demo):
    made, missing = demo(["eval_report"])
    [(asset, manifests)] = made.items()
    assert (asset, missing) == ("eval_report", {})
    command = manifests[0]["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[:4] == ["python", "-m", "ft_assets.worker.pod", "evaluation"]
    assert command[4].endswith("/runs/00000000-0000-0000-0000-000000000000/evaluation/request.json")
    assert manifests[0]["metadata"]["labels"]["ft-assets.dev/asset"] == "eval_report"


def test_settings_of_a_stage_go_by_the_name_of_its_asset_or_of_its_work(demo):
    made, _ = demo(["eval_report", "merged_model"], cpu=2, stages={"evaluation": {"cpu": 6}})
    cores = {
        asset: manifests[0]["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]
        for asset, manifests in made.items()
    }
    assert cores == {"eval_report": "6000m", "merged_model": "2000m"}


@pytest.mark.graph
def test_a_planned_recipe_becomes_objects_that_a_cluster_takes(made: Workshop, tmp_path):
    (tmp_path / "pods.yaml").write_text(DEPLOYMENT)
    made.env["FT_PODS"] = str(tmp_path / "pods.yaml")
    told = json.loads(made.ft("deploy", "render", "tiny", "--json").stdout)
    assert told["missing"] == {}
    assert {"base_model", "tokenized_splits", "cpt_adapter", "sft_adapter", "policy", "eval_report"} <= set(
        told["stages"]
    )
    assert "classifier" not in told["stages"]
    for job, service in told["stages"].values():
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
        kubernetes_validate.validate(service, kubernetes_validate.latest_version(), strict=True)
        assert [*server_faults(job), *server_faults(service)] == []
        assert list(restricted_faults(job["spec"]["template"]["spec"])) == []
    env = told["stages"]["sft_adapter"][0]["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "FT_PROCESSES_PER_NODE", "value": "1"} in env
    printed = list(yaml.safe_load_all(made.ft("deploy", "render", "tiny", "--stage", "sft_adapter").stdout))
    assert printed == told["stages"]["sft_adapter"]
