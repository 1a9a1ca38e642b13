"""The whole graph, really run through Dagster on a tiny model: made once, then reused, re-made and told the truth about."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from conftest import ROOT, Workshop
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from huggingface_hub import ModelCard

from ft_assets.core import scoring
from ft_assets.core.bill import BILL
from ft_assets.core.signing import faults
from ft_assets.recipes.gate import names, pairs
from ft_assets.recipes.load import load_catalog

MODEL_ASSETS = (
    "base_model",
    "tokenized_splits",
    "training_plan",
    "cpt_adapter",
    "sft_sweep",
    "sft_adapter",
    "reward_model",
    "policy",
    "classifier",
    "merged_model",
    "quantized_model",
    "eval_report",
    "published_model",
)

pytestmark = pytest.mark.graph


def test_a_run_makes_every_asset_and_says_where_the_page_is(made: Workshop) -> None:
    assert {asset for asset, partition in filter(None, made.first) if partition == "tiny"} == set(MODEL_ASSETS)
    passing = {name: made.first[name, "tiny"] for name in ("sft_sweep", "classifier")}
    assert {row["status"] for row in passing.values()} == {"passes through"}
    assert [row["key_metric"] for row in passing.values()] == ["no search in the recipe", "is policy"]
    assert {row["status"] for key, row in made.first.items() if key and key[0] not in passing} == {"made"}
    page = made.first[None]["report"]
    assert page.endswith(".html")
    assert "<html" in Path(page).read_text(encoding="utf-8")


def test_the_gate_was_judged_and_the_release_is_the_champion(made: Workshop) -> None:
    gate = json.loads(made.ft("gate", "tiny", "--json").stdout)
    assert [each["passed"] for each in gate["conditions"]] == [True, True]
    assert "there is no incumbent" in gate["conditions"][1]["sentence"]
    record = json.loads(made.ft("champion", "tiny", "--json").stdout)
    release = json.loads((made.artifact("published_model") / "manifest.json").read_text())["fingerprint"]
    assert [record["champion"]] == [entry["release"] for entry in record["history"]] == [release]
    assert json.loads((made.home / "published" / "tiny" / "champion.json").read_text())["fingerprint"] == release


def test_every_name_that_a_gate_may_use_has_a_number(made: Workshop) -> None:
    recipe = load_catalog([made.recipes]).recipe("tiny")
    results = json.loads((made.artifact("evaluation") / "results.json").read_text())
    allowed = {name for name in names(recipe) if not name.startswith("incumbent.")}
    unpriced = {name for name in allowed if name.endswith(".usd_per_1000_requests")}
    assert allowed - set(scoring.names(results)) == unpriced, "what costs nothing that is known has no number"
    compared = {(entry["left"], entry["right"]) for entry in results["comparisons"]}
    wanted = {pair for pair in pairs(recipe) if not {"candidate", "incumbent"} & set(pair)}
    assert wanted == compared


def test_status_agrees_with_the_store(made: Workshop) -> None:
    states = made.status()
    assert set(MODEL_ASSETS) <= set(states)
    assert states.pop("sft_sweep")["status"] == "passes cpt_adapter"
    assert states.pop("classifier")["status"] == "passes policy"
    assert {state["status"] for state in states.values()} == {"made"}


def test_every_contestant_has_answers_of_its_own(made: Workshop) -> None:
    results = json.loads((made.artifact("evaluation") / "results.json").read_text())
    contestants = ["base_zero_shot", "base_few_shot", "base_retrieval", "cpt", "sft", "policy", "merged", "int8"]
    assert list(results["contestants"]) == contestants
    assert len(list((made.home / "store" / "artifacts" / "answers").iterdir())) == len(contestants)
    assert {len(found["answers"]["test"]) for found in results["contestants"].values()} == {4}


def test_only_safetensors_hold_weights(made: Workshop) -> None:
    published = list((made.home / "published").rglob("*.*"))
    assert any(path.suffix == ".safetensors" for path in published)
    assert not [path for path in published if path.suffix in (".bin", ".pt", ".pkl", ".pth")]


def test_a_second_run_makes_nothing_and_is_quick(made: Workshop, tmp_path) -> None:
    shop = made.copy(tmp_path)
    started = time.monotonic()
    outcome = shop.run()
    assert {row["status"] for key, row in outcome.items() if key} == {"reused", "passes through"}
    assert time.monotonic() - started < 30


def test_hardware_forks_nothing_but_the_plan(made: Workshop, tmp_path) -> None:
    shop = made.copy(tmp_path)
    shop.edit("checkpoint_every_steps: 2", "checkpoint_every_steps: 3, memory_gib: 16")
    outcome = shop.run()
    assert {asset for asset, _ in filter(None, outcome) if outcome[asset, _]["status"] == "made"} == {"training_plan"}


def test_a_flipped_byte_is_named_and_the_artifact_made_again(made: Workshop, tmp_path) -> None:
    shop = made.copy(tmp_path)
    weights = shop.artifact("sft_adapter") / "adapter_model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    outcome = shop.run("--until", "sft_adapter")
    assert outcome["sft_adapter", "tiny"]["status"] == "remade"
    assert weights.read_bytes() == good
    assert list((shop.home / "store" / "corrupt" / "sft_adapter").iterdir())


def test_a_damaged_release_is_mended_and_the_champion_follows_the_recipe(made: Workshop, tmp_path) -> None:
    shop = made.copy(tmp_path)
    release = shop.home / "published" / "tiny"
    pointer = (release / "champion.json").read_bytes()
    (release / "champion.json").write_text('{"fingerprint": "another", "folder": "another"}')
    weights = next(release.glob("*/model.safetensors"))
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert shop.run()["published_model", "tiny"]["status"] == "reused"
    assert weights.read_bytes() == good
    assert (release / "champion.json").read_bytes() == pointer


def test_a_release_tells_what_it_holds_and_is_as_it_was_published(made: Workshop) -> None:
    release = next(path.parent for path in (made.home / "published" / "tiny").glob("*/README.md"))
    assert faults(release, None) == []
    body = json.loads((release / BILL).read_text())
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(body)) is None
    assert {part["bom-ref"] for part in body["components"] if part["type"] == "data"} == {
        f"data:tiny_{name}@one" for name in ("text", "rows", "pairs", "test")
    }
    card = ModelCard.load(release / "README.md")
    assert {result.metric_type for result in card.data.eval_results} >= {"entity_f1"}
    assert made.ft("verify", "tiny").stdout.startswith(f"{release} is as it was published")


def test_training_leaves_nothing_in_the_temporary_folder(made: Workshop, tmp_path) -> None:
    shop = made.copy(tmp_path)
    shop.forget("sft_adapter")
    shop.env["TMPDIR"] = str(tmp_path / "temporary")
    (tmp_path / "temporary").mkdir()
    shop.run("--until", "sft_adapter")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert list((shop.home / "store" / ".scratch").iterdir()) == []


def test_a_terminal_shows_progress_while_the_worker_runs(made: Workshop, tmp_path) -> None:
    shop = made.copy(tmp_path)
    shop.forget("sft_adapter")
    terminal, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    process = subprocess.Popen(
        shop.command("run", "tiny", "--until", "sft_adapter"),
        env={**shop.env, "TERM": "xterm"},
        cwd=ROOT,
        stdin=side,
        stdout=subprocess.DEVNULL,
        stderr=side,
    )
    os.close(side)
    shown = b""
    while b"sft_adapter [tiny] made" not in shown:
        shown += os.read(terminal, 65536)  # fails when the command ends without having said so
    assert b"sft_adapter: starting" in shown.partition(b"sft_adapter [tiny] made")[0]
    process.wait(timeout=60)
    os.close(terminal)


def test_new_data_remakes_what_depends_on_it(made: Workshop, tmp_path) -> None:
    shop = made.copy(tmp_path)
    shop.write_rows(
        "rows/two.jsonl",
        [{"instruction": "List.", "input": "Zed eats.", "output": '{"Zed": "person"}'}, {"instruction": "x"}],
    )
    outcome = shop.run("--until", "training_plan")
    assert outcome["validated_dataset", "tiny_rows@two"]["key_metric"] == "1 kept, 1 quarantined"
    assert outcome["validated_dataset", "tiny_rows@one"]["status"] == "reused"
    assert outcome["base_model", "tiny"]["status"] == "reused"
    assert outcome["tokenized_splits", "tiny"]["status"] == "made"
    assert shop.status()["sft_adapter"]["status"] == "absent"


def test_a_batch_of_bad_rows_stops_the_run_with_exit_code_3(workshop: Workshop) -> None:
    workshop.write_rows("rows/bad.jsonl", [{"nonsense": 1}] * 9)
    outcome = workshop.run(code=3)
    assert ["validated_dataset: quarantine_below_threshold", True] in outcome[None]["checks"]
    assert ("tokenized_splits", "tiny") not in outcome


def test_the_dagster_command_line_materializes_one_asset(made: Workshop, tmp_path) -> None:
    shop = made.copy(tmp_path)
    shop.forget("sft_adapter")
    command = [
        sys.executable,
        "-m",
        "dagster",
        "asset",
        "materialize",
        "-m",
        "definitions",
        "--select",
        "sft_adapter",
        "--partition",
        "tiny",
    ]
    done = subprocess.run(command, env=shop.env, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert shop.status()["sft_adapter"]["status"] == "made"


def test_an_input_that_was_not_made_is_named_with_the_next_command(workshop: Workshop) -> None:
    workshop.ft("run", "tiny", "--until", "validated_dataset")
    command = [
        sys.executable,
        "-m",
        "dagster",
        "asset",
        "materialize",
        "-m",
        "definitions",
        "--select",
        "sft_adapter",
        "--partition",
        "tiny",
    ]
    done = subprocess.run(command, env=workshop.env, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "ft run tiny --until base_model" in done.stderr


def test_a_failing_worker_shows_its_own_words(workshop: Workshop, tiny_base, tmp_path) -> None:
    (workshop.recipes / "base").unlink()
    copy = workshop.recipes / "base"
    copy.mkdir()
    for path in tiny_base.iterdir():
        if path.name != "chat_template.jinja":
            (copy / path.name).write_bytes(path.read_bytes())
    outcome = workshop.run(code=1)
    asset, message = outcome[None]["failed"][0]
    assert asset == "tokenized_splits"
    assert "no chat template" in message
    assert "exit code 2" in message


def test_manifests_tell_what_where_and_how_long(made: Workshop) -> None:
    manifest = json.loads((made.artifact("sft_adapter") / "manifest.json").read_text())
    assert manifest["seconds"] > 1
    assert manifest["versions"]["trl"]
    assert manifest["metrics"]["steps"] == manifest["execution"]["placement"]["steps"]
    assert set(manifest["upstream"]) == {"base_model", "tokenized_splits", "adapter"}
