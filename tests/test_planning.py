"""Laws of ``ft plan``: what it shows is what the plan chose, of a store whose artifacts were put there by hand."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.batches import RAW
from ft_assets.core.lineage import raw_stage, validated_stage
from ft_assets.core.memory import WORKER_BYTES
from ft_assets.core.recipe_run import base_of, plans, stages_of
from ft_assets.recipes.load import SHIPPED, load_catalog

ROWS = 30
RECIPE = """
name: own
base_model: base
seed: 1
data: {max_length: 64, overlong: drop, split: {validation: 0, test: 0}, sft: [rows], preference: [pairs], test: [held]}
adapter: {method: lora, r: 2, lora_alpha: 2, lora_dropout: 0.0, target_modules: all-linear}
sft: {learning_rate: 1.0e-3, global_batch_size: 12, num_train_epochs: 1}
policy: {method: dpo, beta: 0.1, learning_rate: 1.0e-3, global_batch_size: 4, num_train_epochs: 1}
evaluation: {metric: exact_match, few_shot: 0, max_new_tokens: 4}
publish: {to: out}
hardware:
  gpus:
    - {name: big, memory_gib: 80, bf16_tflops: 900, usd_per_hour: 3, counts: [1, 2, 4, 8], node_memory_gib: 900, node_cpus: 96}
    - {name: tiny, memory_gib: 0.25, bf16_tflops: 90, usd_per_hour: 0.1, node_memory_gib: 900, node_cpus: 96}
sources:
  rows: {kind: instruction, location: rows, format: alpaca, licence: CC0-1.0}
  pairs: {kind: preference, location: pairs, format: preference, licence: CC0-1.0}
  held: {kind: instruction, location: held, format: alpaca, licence: CC0-1.0}
"""
HEAVY = ("dagster", "torch", "transformers", "kubernetes", "matplotlib")
LOOK = f"""
import sys
from ft_assets.cli import main
try:
    main()
finally:
    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


class Shop:
    """A recipes folder, a store, and an ``ft`` over them."""

    def __init__(self, folder):
        self.recipes, self.home = folder / "recipes", folder / "home"
        (self.recipes / "base").mkdir(parents=True)
        config = {"hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 100}
        (self.recipes / "base" / "config.json").write_text(json.dumps(config))
        weights = {"model.embed_tokens": (100, 8), "model.layers.0.q_proj": (8, 8), "model.layers.0.up_proj": (32, 8)}
        tensors = {f"{name}.weight": np.zeros(shape, np.float16) for name, shape in weights.items()}
        save_file(tensors, self.recipes / "base" / "model.safetensors")
        self.store = ArtifactStore(str(self.home / "store"))
        self.edit()

    def edit(self, **hardware):
        body = yaml.safe_load(RECIPE)
        body["hardware"] |= hardware
        (self.recipes / "own.yaml").write_text(yaml.safe_dump(body))
        self.catalog = load_catalog([SHIPPED, self.recipes])
        self.recipe = self.catalog.recipe("own")

    def write(self, stage, fingerprint, files=(), metrics=None, execution=None):
        with self.store.write(stage, fingerprint, code_version="1", identity={}, upstream={}) as staging:
            for path in files:
                staging.file(path.name).write_bytes(path.read_bytes())
            staging.metrics, staging.execution = metrics or {}, execution or {}

    def ingest(self):
        for name in ("rows", "pairs", "held"):
            source = self.catalog.source(name)
            raw = raw_stage(name, source, {"one.jsonl": "0"}).fingerprint
            self.store.set_ref(RAW, f"{name}@one", {"fingerprint": raw})
            metrics = {"rows_in": ROWS, "rows_kept": ROWS, "quarantined": 0, "quarantined_share": 0.0, "reasons": {}}
            self.write("validated_dataset", validated_stage(source, raw).fingerprint, metrics=metrics)

    def split(self):
        files = list((self.recipes / "base").iterdir())
        self.write("base_model", base_of(self.catalog, self.recipe).fingerprint, files, {"content_hash": "0"})
        stage = stages_of(self.catalog, self.recipe, self.store).stages["tokenized_splits"]
        parts = {role: {"rows": {"train": 24}, "tokens": 480, "longest": 40} for role in ("sft", "preference")}
        self.write(stage.name, stage.fingerprint, metrics={"parts": parts})

    def ft(self, *words, code=0, program=("-m", "ft_assets.cli")):
        env = {**os.environ, "FT_HOME": str(self.home), "FT_RECIPES": str(self.recipes), "FT_STORE": ""}
        command = [sys.executable, *program, *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stdout + done.stderr
        return done


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


@pytest.fixture
def made(shop):
    shop.ingest()
    shop.split()
    return shop


def test_the_plan_as_json_is_what_the_asset_would_keep_and_loads_nothing_heavy(made):
    started = time.monotonic()
    done = made.ft("plan", "own", "--json", program=("-c", LOOK))
    assert time.monotonic() - started < 6
    assert done.stderr.splitlines()[-1] == "[]"
    run = stages_of(made.catalog, made.recipe, made.store)
    assert json.loads(done.stdout) == [vars(plan) for plan in plans(run)]


def test_the_table_names_each_stage_its_gpus_and_why(made):
    lines = made.ft("plan", "own").stdout.splitlines()
    columns = lines[0].split("\t")
    cells = [dict(zip(columns, line.split("\t"), strict=True)) for line in lines[1:3]]
    assert [(cell["stage"], cell["on"], cell["ZeRO"]) for cell in cells] == [
        ("sft", "1 x big", "0"),
        ("policy", "1 x big", "0"),
    ]
    assert [line.partition(" is the best of ")[0] for line in lines[4:6]] == [
        "sft: 1 x big, ZeRO 0",
        "policy: 1 x big, ZeRO 0",
    ]
    assert lines[6].startswith("in all: ")


def test_one_stage_may_be_asked_for(made):
    assert [plan["stage"] for plan in json.loads(made.ft("plan", "own", "--stage", "policy", "--json").stdout)] == [
        "policy"
    ]
    done = made.ft("plan", "own", "--stage", "sft_adapter", code=2)
    assert "'sft_adapter'" in done.stderr
    assert "allowed: sft, policy" in done.stderr


def test_all_shows_every_placement_the_best_first_and_why_others_do_not_fit(made):
    found = json.loads(made.ft("plan", "own", "--all", "--json").stdout)
    [sft, _] = json.loads(made.ft("plan", "own", "--json").stdout)
    own = [option for option in found if option["stage"] == "sft"]
    assert len(own) == sft["considered"]
    assert sum(option["fits"] for option in own) == sft["fitting"]
    assert {name: own[0][name] for name in ("gpu", "processes", "zero_stage", "cost_usd", "peak_bytes")} == {
        name: sft[name] for name in ("gpu", "processes", "zero_stage", "cost_usd", "peak_bytes")
    }
    assert all(option["reason"] for option in own if not option["fits"])
    assert {option["gpu"] for option in own if not option["fits"]} == {"tiny"}
    text = made.ft("plan", "own", "--all", "--stage", "sft").stdout
    assert "sft: left out 8 x big: sft.global_batch_size 12 is no multiple of 8 GPUs" in text
    assert "memory_gib of tiny allows" in text


def test_a_plan_over_the_budget_ends_with_2_and_all_placements_can_still_be_seen(made):
    made.edit(budget_usd=1e-9)
    assert "hardware.budget_usd is 1e-09" in made.ft("plan", "own", code=2).stderr
    made.ft("plan", "own", "--all")


def test_before_the_splits_are_made_the_plan_says_the_most_it_can_be(shop):
    assert "base_model of own has not been made" in shop.ft("plan", "own", code=3).stderr
    shop.ingest()
    done = shop.ft("plan", "own", "--json")
    assert "at most" in done.stderr
    bound = json.loads(done.stdout)
    assert [plan["longest_row_tokens"] for plan in bound] == [64, 64]
    shop.split()
    for most, real in zip(bound, json.loads(shop.ft("plan", "own", "--json").stdout), strict=True):
        assert most["stage"] == real["stage"]
        assert most["steps"] >= real["steps"]
        assert most["seconds"] >= real["seconds"]


def test_plan_wants_a_recipe(shop):
    assert "RECIPE" in shop.ft("plan", code=2).stderr
    for words in (["own"], ["--all"], ["--stage", "sft"]):
        assert "leave RECIPE" in shop.ft("plan", "--calibration", *words, code=2).stderr


def test_a_model_that_a_plan_cannot_read_ends_with_2_and_its_file(shop):
    shop.ingest()
    (shop.recipes / "base" / "config.json").write_text(json.dumps({"text_config": {"hidden_size": 8}}))
    assert "config.json: hidden_size is not there" in shop.ft("plan", "own", code=2).stderr


def test_calibration_compares_what_was_predicted_with_what_was_measured(shop):
    assert "no finished training" in shop.ft("plan", "--calibration").stdout
    idle = 400
    for number, (stage, predicted, measured, resumed) in enumerate(
        [("sft_adapter", 110 + WORKER_BYTES, 100 + idle, 0), ("policy", 90, 100, 7), ("policy", 100, 0, 0)]
    ):
        on_gpu = {"gpu": "h100", "gpu_resource": "nvidia.com/gpu"} if predicted < WORKER_BYTES else {}
        placement = {"peak_bytes": predicted, "seconds": 30.0, "gpu": "", **on_gpu}
        execution = {"partition": "own", "device": "cpu", "placement": placement, "resumed_from_step": resumed}
        metrics = {"train_seconds": 60.0, "measured_idle_bytes": float(idle)}
        metrics |= {"measured_peak_bytes": float(measured)} if measured else {}
        shop.write(stage, f"{number}" * 64, metrics=metrics, execution=execution)
    found = json.loads(shop.ft("plan", "--calibration", "--json").stdout)
    assert found["runs"] == 2
    assert found["mean_error"] == pytest.approx(0.1)
    assert (found["worst_over"], found["worst_under"]) == (pytest.approx(0.1), pytest.approx(-0.1))
    [sft, policy] = found["trainings"]
    assert (sft["stage"], sft["predicted_seconds"], sft["measured_seconds"]) == ("sft_adapter", 30, 60)
    assert policy["measured_seconds"] is None
    text = shop.ft("plan", "--calibration").stdout
    assert "+10.0" in text
    assert "10.0% off in the mean, at worst 10.0% over and 10.0% under" in text


def test_calibration_passes_over_what_older_versions_made_and_what_is_no_artifact(shop):
    placements = [None, {}, {"peak_bytes": 100, "gpu_resource": "nvidia.com/gpu"}]
    for number, placement in enumerate(placements):
        execution = {} if placement is None else {"placement": placement}
        shop.write("policy", f"{number}" * 64, metrics={"measured_peak_bytes": 100.0}, execution=execution)
    shop.write("policy", "9" * 64, metrics={"measured_peak_bytes": None}, execution={"placement": None})
    (shop.home / "store" / "artifacts" / "policy" / "notes.txt").write_text("mine")
    assert json.loads(shop.ft("plan", "--calibration", "--json").stdout) == {"runs": 0, "trainings": []}
