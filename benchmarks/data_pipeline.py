"""``make bench-data``: raw rows to packed token sequences, against the same work written with datasets and datasketch.

Prints rows per second of both, the share of each of our steps, our peak memory (all processes together), what 1% new rows
cost, and the packing efficiency. ``--rows N`` sets the number of rows, ``--no-plain`` leaves the other pipeline out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks import data_rows

RECIPE = """
name: bench
base_model: embedded
seed: 1
data:
  max_length: 1024
  overlong: drop
  packing: true
  near_duplicates: {threshold: 0.8, ngram_words: 5}
  decontamination: {ngram_words: 13}
  split: {validation: 0, test: 0}
  sft: [bench_rows]
  test: [bench_test]
adapter: {method: lora, r: 4, lora_alpha: 8, lora_dropout: 0.0, target_modules: all-linear}
sft: {learning_rate: 1.0e-3, global_batch_size: 2, num_train_epochs: 1}
evaluation: {metric: exact_match, few_shot: 0, max_new_tokens: 4}
publish: {to: published/bench}
sources:
  bench_rows: {kind: instruction, location: rows, format: alpaca, licence: CC0-1.0}
  bench_test: {kind: instruction, location: test, format: alpaca, licence: CC0-1.0}
"""


class Bench:
    """A recipes folder and a home of their own, in ``folder``."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.store = folder / "home" / "store"
        self.env = {**os.environ, "FT_HOME": str(folder / "home"), "FT_RECIPES": str(folder), "FT_WANDB": "disabled"}
        self.env.pop("DAGSTER_HOME", None)
        (folder / "bench.yaml").write_text(RECIPE)

    def ft(self, *words: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "ft_assets.cli", "run", "bench", "--json", *words]
        done = subprocess.run(command, env=self.env, check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def manifests(self, stage: str) -> list[dict[str, Any]]:
        return [json.loads(file.read_text()) for file in (self.store / "artifacts" / stage).glob("*/manifest.json")]


class PeakMemory(threading.Thread):
    """The most memory that this process's children held at once, in bytes of resident pages (shared ones split)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.5):
            held = 0
            for child in psutil.Process().children(recursive=True):
                try:
                    held += child.memory_full_info().pss
                except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
                    continue
            self.most = max(self.most, held)

    def __enter__(self) -> "PeakMemory":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.join()


def timed(bench: Bench) -> tuple[float, dict[str, float]]:
    """Seconds from raw rows to packed sequences, and those of each asset."""
    started = time.perf_counter()
    outcome = bench.ft("--until", "tokenized_splits")
    seconds = time.perf_counter() - started
    steps: dict[str, float] = {}
    for row in outcome["rows"]:
        steps[row["asset"]] = steps.get(row["asset"], 0.0) + row["seconds"]
    return seconds, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--no-plain", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        data_rows.write(bench.folder / "test" / "one.jsonl", 1000, seed=7)
        data_rows.write(bench.folder / "rows" / "one.jsonl", 1000, seed=8)
        bench.ft("--until", "tokenized_splits")  # The base model is made, the libraries are in the page cache.
        data_rows.write(bench.folder / "rows" / "one.jsonl", options.rows, seed=1)
        with PeakMemory() as memory:
            seconds, steps = timed(bench)
        report(bench, options.rows, seconds, steps, memory.most)
        data_rows.write(bench.folder / "rows" / "two.jsonl", options.rows // 100, seed=2)
        os.sync()  # The new rows wait for their own writes, not for those of the million.
        more, _ = timed(bench)
        print(f"1% new rows: {more:.1f} s, {more / seconds:.1%} of the full time (target at most 3%)", flush=True)
        if not options.no_plain:
            against_plain(bench, seconds)


def report(bench: Bench, rows: int, seconds: float, steps: dict[str, float], peak: int) -> None:
    print(f"ours: {rows:,} rows in {seconds:.1f} s, {rows / seconds:,.0f} rows/s", flush=True)
    for asset, spent in steps.items():
        print(f"  ours: {asset} {spent:.1f} s, {spent / seconds:.0%}")
    for stage in ("prepared_batch", "overlap"):
        spent = max(manifest["seconds"] for manifest in bench.manifests(stage))
        print(f"  ours: of which {stage} {spent:.1f} s, {spent / seconds:.0%}")
    parts = max((m["metrics"]["parts"]["sft"] for m in bench.manifests("tokenized_splits")), key=lambda p: p["rows_in"])
    print(f"  ours: {parts['rows_kept']:,} rows kept, dropped {parts['dropped']}")
    print(f"peak memory, all processes: {peak / 2**30:.2f} GiB (target under 4)")
    print(f"packing efficiency: {parts['packing']['efficiency']:.2%} (target at least 98%)", flush=True)


def against_plain(bench: Bench, ours: float) -> None:
    base = next((bench.store / "artifacts" / "base_model").glob("*"))
    arguments = [bench.folder / "rows" / "one.jsonl", bench.folder / "test" / "one.jsonl", base, bench.folder / "cache"]
    script = Path(__file__).with_name("plain_datasets.py")
    started = time.perf_counter()
    command = [sys.executable, str(script), *map(str, arguments), str(os.cpu_count())]
    subprocess.run(command, check=True, env={**bench.env, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
    seconds = time.perf_counter() - started
    print(f"plain: {seconds:.1f} s; ours is {seconds / ours:.2f} times as fast (target at least 1.5)")


if __name__ == "__main__":
    main()
