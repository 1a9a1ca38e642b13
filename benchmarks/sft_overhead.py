"""``make bench``: the demo's ``sft_adapter`` against the same training as a plain TRL script, in pairs on this machine.

Needs the demo made once. Prints the wall-clock ratio (ours / plain), what each spends outside the training loop, and the
load time of ``definitions``. ``--pairs N`` sets the number of pairs.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ft_assets.core.recipe_run import RecipeRun, placement, stages_of
from resources.environment import catalog, settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    pairs = parser.parse_args().pairs
    found = settings()
    subprocess.run(
        [sys.executable, "-m", "ft_assets.cli", "run", "demo", "--until", "training_plan"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    known = catalog(found)
    run = stages_of(known, known.recipe("demo"), found.open_store())
    ours, plain = [], []
    for pair in range(pairs):
        for measure, results in ((time_ours, ours), (time_plain, plain)):
            results.append(measure(run))
        print(
            f"pair {pair + 1}: ours {ours[-1][0]:.1f} s ({ours[-1][1]:.1f} s outside training), "
            f"plain {plain[-1][0]:.1f} s ({plain[-1][1]:.1f} s outside training)",
            flush=True,
        )
    ratio = statistics.median(a[0] / b[0] for a, b in zip(ours, plain, strict=True))
    overhead = statistics.median(a[1] - b[1] for a, b in zip(ours, plain, strict=True))
    print(f"wall-clock ratio ours / plain TRL: {ratio:.3f} (target at most 1.05)")
    print(f"fixed overhead: {overhead:.1f} s (target at most 10)")
    print(
        f"definitions load in a fresh process: {statistics.median(load_seconds() for _ in range(5)):.2f} s (target under 3)"
    )


def time_ours(run: RecipeRun) -> tuple[float, float]:
    """Seconds of the asset as Dagster records them, and those of them outside the training loop."""
    name, stage = run.recipe.name, run.stages["sft_adapter"]
    shutil.rmtree(run.store.local / "artifacts" / "sft_adapter" / stage.fingerprint, ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-m", "ft_assets.cli", "run", name, "--until", "sft_adapter", "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    row = next(row for row in json.loads(done.stdout)["rows"] if row["asset"] == "sft_adapter")
    assert row["status"] == "made", row
    history = run.artifact("sft_adapter").json("history.json")
    trained = next(entry["train_runtime"] for entry in history if "train_loss" in entry)
    return row["seconds"], row["seconds"] - trained


def time_plain(run: RecipeRun) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as out:
        inputs = [
            run.artifact("base_model").folder,
            run.artifact("cpt_adapter").folder,
            run.artifact("tokenized_splits").file("sft_train"),
            run.artifact("tokenized_splits").file("sft_validation"),
            json.dumps(run.stages["sft_adapter"].identity),
            placement(run, "sft_adapter")["micro_batch"],
            run.artifact("sft_adapter").manifest.execution["dtype"],
            out,
        ]
        script = Path(__file__).with_name("plain_trl.py")
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(script), *map(str, inputs)],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        seconds = time.perf_counter() - started
        trained = float(done.stdout.rpartition("TRAIN_SECONDS ")[2].split()[0])
    return seconds, seconds - trained


def load_seconds() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import definitions"], check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
