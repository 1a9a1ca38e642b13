"""``make bench-train``: tokens of text per second of the worker against TRL's own command line, in pairs on this machine.

The demo's rows and model, so many steps of its SFT from a new adapter. ``equal`` is ``trl sft`` with the worker's batch, number
type and no checkpointing; ``defaults`` is what it does when it is told the recipe's model, rows, adapter and learning rate and
nothing of how to compute, but for the number of threads: accelerate's launcher would take one. Each side is timed in its training loop, and counts the tokens that are no padding, as TRL's own
trainer logs them. ``--pairs N`` and ``--steps N`` set how much.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset, concatenate_datasets
from transformers import AutoTokenizer

from benchmarks.sft_overhead import time_ours
from ft_assets.core.recipe_run import RecipeRun, placement, stages_of
from ft_assets.recipes.load import SHIPPED, load_catalog
from ft_assets.worker.template import IGNORED
from resources.environment import settings

NAME = "demo_bench_train"
TARGETS = {"defaults": 1.5, "equal": 0.97}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = _prepare(Path(folder), options.steps)
        rows = _write_rows(run, Path(folder) / "rows")
        speeds: dict[str, list[float]] = {"ours": [], **{side: [] for side in TARGETS}}
        for pair in range(options.pairs):
            time_ours(run)
            speeds["ours"].append(_speed(run.artifact("sft_adapter").json("history.json"), "ours"))
            for side in TARGETS:
                speeds[side].append(_speed(_trl(run, rows, side, options.steps, Path(folder)), side))
            ratios = ", ".join(f"{speeds['ours'][-1] / speeds[side][-1]:.2f} of {side}" for side in TARGETS)
            print(f"pair {pair + 1}: {ratios}", flush=True)
    for side, target in TARGETS.items():
        ratio = statistics.median(ours / theirs for ours, theirs in zip(speeds["ours"], speeds[side], strict=True))
        print(f"tokens of text per second, ours / trl sft with {side} settings: {ratio:.2f} (target at least {target})")


def _prepare(folder: Path, steps: int) -> RecipeRun:
    """The demo's SFT alone, on a new adapter and for so many steps, as a recipe of its own in ``folder``."""
    recipe: dict[str, Any] = yaml.safe_load((SHIPPED / "demo.yaml").read_text())
    del recipe["cpt"]
    recipe["name"] = NAME
    recipe["sft"]["max_steps"] = steps
    recipes = folder / "recipes"
    recipes.mkdir()
    (recipes / f"{NAME}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    os.environ["FT_RECIPES"] = str(recipes)
    found = settings()
    command = [sys.executable, "-m", "ft_assets.cli", "run", NAME, "--until", "training_plan"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    known = load_catalog(found.recipe_folders)
    return stages_of(known, known.recipe(NAME), found.open_store())


def _write_rows(run: RecipeRun, folder: Path) -> Path:
    """The training rows as text for ``trl sft``: what is given and what is learned, template and all."""
    tokenizer = AutoTokenizer.from_pretrained(run.artifact("base_model").folder)
    shards = sorted(run.artifact("tokenized_splits").file("sft_train").glob("*.arrow"))
    folder.mkdir()
    with (folder / "train.jsonl").open("w") as stream:
        for row in concatenate_datasets([Dataset.from_file(str(shard)) for shard in shards]):
            given = next(at for at, label in enumerate(row["labels"]) if label != IGNORED)
            texts = {"prompt": row["input_ids"][:given], "completion": row["input_ids"][given:]}
            stream.write(json.dumps({name: tokenizer.decode(ids) for name, ids in texts.items()}) + "\n")
    return folder


def _trl(run: RecipeRun, rows: Path, side: str, steps: int, folder: Path) -> list[dict[str, Any]]:
    """Trains through ``trl sft``; the log of its trainer."""
    identity, place = run.stages["sft_adapter"].identity, placement(run, "sft_adapter")
    training, adapter = identity["training"], identity["adapter"]
    told: dict[str, Any] = {
        "model_name_or_path": run.artifact("base_model").folder,
        "dataset_name": rows,
        "output_dir": folder / side,
        "use_peft": True,
        "lora_r": adapter["r"],
        "lora_alpha": adapter["lora_alpha"],
        "lora_target_modules": adapter["target_modules"],
        "learning_rate": training["learning_rate"],
        "lr_scheduler_type": training["lr_scheduler_type"],
        "warmup_steps": training["warmup_steps"],
        "max_steps": steps,
        "seed": identity["seed"],
        "use_cpu": True,
    }
    if side == "equal":
        told |= {
            "per_device_train_batch_size": place["micro_batch"],
            "gradient_accumulation_steps": place["gradient_accumulation_steps"],
            "dtype": run.artifact("sft_adapter").manifest.execution["dtype"],
            "bf16": False,
            "gradient_checkpointing": False,
            "lora_dropout": adapter["lora_dropout"],
            "max_length": run.recipe.data.max_length,
            "save_steps": run.recipe.hardware.checkpoint_every_steps,
            "save_total_limit": 2,
            "logging_steps": 1,
        }
    arguments = [text for name, value in told.items() for text in (f"--{name}", str(value))]
    command = [str(Path(sys.executable).with_name("trl")), "sft", *arguments, "--report_to", "none"]
    known = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **known})
    if done.returncode:
        sys.exit(f"trl sft with {side} settings failed:\n{done.stderr[-3000:]}")
    lines = re.findall(r"^\{.*\}$", done.stdout, re.MULTILINE)
    return [{name: float(value) for name, value in json.loads(line.replace("'", '"')).items()} for line in lines]


def _speed(log: list[dict[str, Any]], side: str) -> float:
    """Tokens that are no padding per second of the training loop; each line of the log has the seconds until then."""
    seconds = next(entry["train_runtime"] for entry in log if "train_loss" in entry)
    tokens = max(entry["num_tokens"] for entry in log if "num_tokens" in entry)
    print(f"  {side}: {tokens:,.0f} tokens in {seconds:.1f} s, {tokens / seconds:.1f} tokens/s", flush=True)
    return float(tokens / seconds)


if __name__ == "__main__":
    main()
