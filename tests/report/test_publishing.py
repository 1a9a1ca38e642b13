"""The asset ``published_model`` on made-up artifacts, to a folder and to the Hub: nothing behind a shut gate, one whole release, and
a champion that its record and its place agree on."""

import json
import subprocess
from pathlib import Path

import dagster as dg
import pytest
import yaml
from answered import evaluated
from hub import TOKEN
from sample import NO_GATE, gate

from ft_assets.assets import published_model
from ft_assets.core import champion
from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.errors import FineTuneError
from ft_assets.core.gate import GateClosed
from ft_assets.core.lineage import Inputs, model_stages
from ft_assets.core.publish import folder_of
from ft_assets.core.recipe_run import RecipeRun
from ft_assets.core.signing import faults, public_key
from ft_assets.recipes.load import SHIPPED
from ft_assets.recipes.schema import Recipe
from resources.catalog import CatalogResource
from resources.store import StoreResource
from resources.target import TargetResource

HEADER = b'{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER
ROWS = {"rows_kept": 400, "quarantined": 9}


class Shop:
    """A store with every artifact of the demo, and runs of the one asset."""

    def __init__(self, folder: Path, to: str):
        self.folder, self.to = folder, to
        self.store = ArtifactStore(str(folder / "store"))
        self.key: Path | None = None

    def run_of(self, seed: int, judged: dict | None = None) -> RecipeRun:
        """The demo with this seed, made to its evaluation; another seed is another model."""
        body = yaml.safe_load((SHIPPED / "demo.yaml").read_text()) | {"seed": seed, "publish": {"to": self.to}}
        recipe = Recipe.model_validate(body)
        validated = {
            role: {
                f"{name}@one": self.made("validated_dataset", f"{name:a<64}"[:64], {"rows.parquet": name}, ROWS)
                for name in names
            }
            for role, names in recipe.data.sources().items()
        }
        base = self.made("base_model", "b" * 64, {}, {"content_hash": "c" * 64})
        published = champion.published(champion.read(self.store, "demo"))
        stages = model_stages(recipe, Inputs(validated, base, "c" * 64, published, {}))
        weights = {"model.safetensors": WEIGHTS + b"%04d" % seed, "config.json": {}}
        files = {
            "evaluation": {"results.json": evaluated(rows=8)},
            "eval_report": {"gate.json": judged or NO_GATE, "report.html": "<html>"},
            "merged_model": weights,
            "policy": {"adapter_model.safetensors": WEIGHTS + b"%04d" % (seed + 1), "history.json": []},
            "quantized_model": {
                f"{form}/{name}": content for form in ("nf4", "int8") for name, content in weights.items()
            },
        }
        for name, own in files.items():
            self.made(name, stages[name].fingerprint, own, {"verdict": "It was needed."})
        return RecipeRun(recipe, stages, self.store, published)

    def made(self, stage: str, fingerprint: str, files: dict, metrics: dict) -> str:
        with self.store.write(stage, fingerprint, code_version="1", identity={}, upstream={}) as staging:
            for name, content in files.items():
                if isinstance(content, bytes):
                    staging.file(name).write_bytes(content)
                else:
                    staging.write_json(name, content)
            staging.metrics, staging.versions = metrics, {"torch": "2.13.0"}
        return fingerprint

    def publish(self, monkeypatch, run: RecipeRun) -> dg.ExecuteInProcessResult:
        monkeypatch.setattr(published_model, "recipe_run", lambda *_: run)
        return dg.materialize(
            [published_model.build(dg.StaticPartitionsDefinition(["demo"]))],
            partition_key="demo",
            resources={
                "store": StoreResource(url=str(self.folder / "store"), local=str(self.folder / "local")),
                "catalog": CatalogResource(folders=[str(SHIPPED)], home=str(self.folder)),
                "target": TargetResource(home=str(self.folder), signing_key=str(self.key) if self.key else None),
            },
        )

    def champion(self) -> str:
        return champion.read(self.store, "demo")["champion"]

    def release(self, run: RecipeRun) -> Path:
        return self.folder / self.to / folder_of(run.stages["published_model"].fingerprint)


@pytest.fixture
def shop(tmp_path) -> Shop:
    return Shop(tmp_path, "published")


def pointer(shop: Shop) -> str:
    return json.loads((shop.folder / shop.to / "champion.json").read_text())["fingerprint"]


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {each.check_name: each.passed for each in result.get_asset_check_evaluations()}


def test_a_release_is_whole_and_the_champion_of_its_record_and_its_place(shop, monkeypatch):
    run = shop.run_of(17)
    result = shop.publish(monkeypatch, run)
    assert checks(result) == {"published_complete": True, "published_signed": True}
    release = shop.release(run)
    there = {path.relative_to(release).as_posix() for path in release.rglob("*") if path.is_file()}
    assert there == {
        "README.md",
        "report.html",
        "bill.cdx.json",
        "model.safetensors",
        "config.json",
        "adapter/adapter_model.safetensors",
        *(f"quantized/{form}/{name}" for form in ("nf4", "int8") for name in ("model.safetensors", "config.json")),
    }
    assert faults(release, None) == []
    assert shop.champion() == pointer(shop) == run.stages["published_model"].fingerprint
    card = (release / "README.md").read_text()
    assert all(f"| {name}@one |" in card for name in run.recipe.data.source_names())


def test_a_shut_gate_lets_nothing_out_and_leaves_the_champion(shop, monkeypatch):
    old = shop.run_of(17)
    shop.publish(monkeypatch, old)
    new = shop.run_of(18, gate(failed=True))
    with pytest.raises(GateClosed, match=r"safety\.refusal_drop"):
        shop.publish(monkeypatch, new)
    assert not shop.release(new).exists()
    assert shop.champion() == pointer(shop) == old.stages["published_model"].fingerprint


def test_an_override_stands_in_the_record_the_card_and_the_bill(shop, monkeypatch):
    run = shop.run_of(17, gate(failed=True, overridden=True))
    shop.publish(monkeypatch, run)
    assert champion.read(shop.store, "demo")["history"][-1]["override"]["by"] == "Rosa Okafor"
    assert "Overridden by Rosa Okafor" in (shop.release(run) / "README.md").read_text()
    assert "overridden by Rosa Okafor" in (shop.release(run) / "bill.cdx.json").read_text()


def test_a_release_that_was_withdrawn_is_not_published_again(shop, monkeypatch):
    old, new = shop.run_of(17), None
    shop.publish(monkeypatch, old)
    new = shop.run_of(18)
    shop.publish(monkeypatch, new)
    champion.roll_back(shop.store, "demo", None, {"by": "Ada", "reason": "worse", "at": "2026-01-01T00:00:00+00:00"})
    with pytest.raises(FineTuneError, match="was withdrawn by Ada"):
        shop.publish(monkeypatch, new)
    assert shop.champion() == old.stages["published_model"].fingerprint


def test_a_run_cut_between_record_and_pointer_is_finished_by_the_next(shop, monkeypatch):
    run = shop.run_of(17)
    with monkeypatch.context() as cut:
        cut.setattr(published_model, "is_champion", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            shop.publish(monkeypatch, run)
    assert not (shop.folder / shop.to / "champion.json").exists()
    shop.publish(monkeypatch, run)
    assert pointer(shop) == shop.champion()
    assert len(champion.read(shop.store, "demo")["history"]) == 1


def test_what_was_damaged_since_is_mended(shop, monkeypatch):
    run = shop.run_of(17)
    shop.publish(monkeypatch, run)
    release = shop.release(run)
    before = {path: path.read_bytes() for path in release.rglob("*") if path.is_file()}
    (release / "README.md").unlink()
    (release / "model.safetensors").write_bytes(WEIGHTS + b"evil")
    (release.parent / "champion.json").write_text("{}")
    assert checks(shop.publish(monkeypatch, run))["published_complete"]
    assert {path: path.read_bytes() for path in release.rglob("*") if path.is_file()} == before
    assert pointer(shop) == shop.champion()


def test_with_a_key_it_is_signed_and_without_one_said_before_it_stays_unsigned(shop, monkeypatch):
    early = shop.run_of(17)
    shop.publish(monkeypatch, early)
    shop.key = shop.folder / "key.pem"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", shop.key], check=True)
    assert checks(shop.publish(monkeypatch, early)) == {"published_complete": True, "published_signed": False}
    late = shop.run_of(18)
    assert checks(shop.publish(monkeypatch, late)) == {"published_complete": True, "published_signed": True}
    assert faults(shop.release(late), public_key(shop.key, shop.folder / "key.pub")) == []
    assert not list((shop.folder / "store" / ".staging").iterdir())


def test_to_the_hub_it_is_the_same_release(tmp_path, monkeypatch, hub):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    shop = Shop(tmp_path, "hub://org/demo")
    run = shop.run_of(17)
    result = shop.publish(monkeypatch, run)
    assert checks(result)["published_complete"]
    fingerprint = run.stages["published_model"].fingerprint
    there = hub.files("org/demo")
    assert json.loads(there.pop("champion.json"))["fingerprint"] == fingerprint == shop.champion()
    for name, content in there.items():
        (tmp_path / "download" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "download" / name).write_bytes(content)
    assert faults(tmp_path / "download", None) == []
    assert hub.repos["org/demo"].private
    entry = champion.read(shop.store, "demo")["history"][-1]
    assert entry["to"] == "hub://org/demo"
    kept = "".join(path.read_text(errors="replace") for path in (tmp_path / "store").rglob("*.json"))
    assert TOKEN not in kept
    sent = len(hub.uploaded), len(hub.repos["org/demo"].commits)
    shop.publish(monkeypatch, run)
    assert (len(hub.uploaded), len(hub.repos["org/demo"].commits)) == sent
