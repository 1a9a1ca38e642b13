"""A search for the settings of SFT, really run through the graph: its best trial's values are what is trained with."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from conftest import Workshop
from waiting import until

pytestmark = pytest.mark.graph
SWEEP = """
hyperparameters:
  search:
    sft:
      learning_rate: {low: 1.0e-5, high: 1.0e-2, log: true}
      global_batch_size: {choices: [2, 3]}
  n_trials: 3
  n_startup_trials: 2
  eval_steps: 0.25
  pruner: median
"""


def open_search(shop: Workshop, text: str = SWEEP) -> Workshop:
    path = shop.recipes / "tiny.yaml"
    path.write_text(path.read_text() + text)
    return shop


@pytest.fixture(scope="module")
def swept(made: Workshop, tmp_path_factory) -> Workshop:
    """The tiny recipe with a sweep of three trials, up to its SFT; tests that share it only read."""
    shop = open_search(made.copy(tmp_path_factory.mktemp("swept")))
    shop.first = shop.run("--until", "sft_adapter")
    return shop


def trials(shop: Workshop) -> list[dict]:
    return json.loads((shop.artifact("sft_sweep") / "trials.json").read_text())


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_the_best_trials_values_are_what_the_adapter_is_trained_with(swept: Workshop) -> None:
    found = trials(swept)
    best = min((trial for trial in found if trial["state"] == "complete"), key=lambda trial: trial["loss"])
    assert (
        swept.first["sft_sweep", "tiny"]["key_metric"] == f"best loss {best['loss']:.3f} in trial {best['number']} of 3"
    )
    adapter = manifest(swept.artifact("sft_adapter"))
    assert adapter["metrics"]["sweep_trial"] == best["number"]
    assert adapter["metrics"]["sweep_values"] == best["values"]
    assert adapter["upstream"]["sft_sweep"] == manifest(swept.artifact("sft_sweep"))["fingerprint"]
    history = json.loads((swept.artifact("sft_adapter") / "history.json").read_text())
    first = next(entry["learning_rate"] for entry in history if "learning_rate" in entry)
    assert first == best["values"]["sft.learning_rate"], "no warm-up: the first step is taken at the full rate"
    assert adapter["metrics"]["validation_loss"] == pytest.approx(best["loss"], rel=1e-4)
