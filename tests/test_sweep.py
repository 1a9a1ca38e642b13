"""A search for the settings of SFT, really run through the graph: its best trial's values are what is trained with."""

import json

import optuna
import pytest
from conftest import Workshop
from waiting import until

pytestmark = [pytest.mark.graph, pytest.mark.slow]
# Long enough to be killed in the middle of a trial.
SFT = "sft: {{learning_rate: 1.0e-3, global_batch_size: 2, num_train_epochs: {}}}"
CPT = "cpt: {learning_rate: 1.0e-3, global_batch_size: 2, num_train_epochs: 1}\n"
SWEEP = """
hyperparameters:
  search:
    sft:
      learning_rate: {low: 1.0e-5, high: 1.0e-2, log: true}
      global_batch_size: {choices: [2, 4]}
    adapter: {r: {low: 2, high: 8, step: 2}}
  n_trials: 3
  n_startup_trials: 2
  eval_steps: 0.25
  pruner: median
"""


@pytest.fixture(scope="module")
def unswept(made: Workshop, tmp_path_factory) -> Workshop:
    """The tiny recipe with a sweep that has not been run, and all before it made."""
    shop = made.copy(tmp_path_factory.mktemp("unswept"))
    shop.edit(CPT, "")
    shop.edit(SFT.format(1), SFT.format(8))
    (shop.recipes / "tiny.yaml").open("a").write(SWEEP)
    shop.run("--until", "cpt_adapter")
    return shop


@pytest.fixture(scope="module")
def swept(unswept: Workshop, tmp_path_factory) -> Workshop:
    """The same, run up to its SFT; tests that share it only read."""
    shop = unswept.copy(tmp_path_factory.mktemp("swept"))
    shop.first = shop.run("--until", "sft_adapter")
    return shop


def trials(shop: Workshop) -> list[dict]:
    found = json.loads((shop.artifact("sft_sweep") / "trials.json").read_text())
    return [{name: value for name, value in trial.items() if name != "seconds"} for trial in found]


def manifests(shop: Workshop, stage: str) -> dict[str, dict]:
    found = (shop.home / "store" / "artifacts" / stage).glob("*/manifest.json")
    return {path.parent.name: json.loads(path.read_text()) for path in found}


def newest(shop: Workshop, stage: str) -> dict:
    return json.loads((shop.artifact(stage) / "manifest.json").read_text())


def test_the_best_trials_values_are_what_the_adapter_is_trained_with(swept: Workshop) -> None:
    best = min((trial for trial in trials(swept) if trial["state"] == "complete"), key=lambda trial: trial["loss"])
    shown = swept.first["sft_sweep", "tiny"]["key_metric"]
    assert shown == f"best loss {best['loss']:.3f} in trial {best['number']} of 3"
    adapter = newest(swept, "sft_adapter")
    assert (adapter["metrics"]["sweep_trial"], adapter["metrics"]["sweep_values"]) == (best["number"], best["values"])
    assert adapter["upstream"]["sft_sweep"] == newest(swept, "sft_sweep")["fingerprint"]
    history = json.loads((swept.artifact("sft_adapter") / "history.json").read_text())
    assert history[0]["learning_rate"] == best["values"]["sft.learning_rate"], "there is no warm-up"
    config = json.loads((swept.artifact("sft_adapter") / "adapter_config.json").read_text())
    assert config["r"] == best["values"]["adapter.r"]
    assert adapter["metrics"]["validation_loss"] == pytest.approx(best["loss"], rel=1e-4)


def test_every_trial_is_told_with_what_it_came_to(swept: Workshop) -> None:
    found, metrics = trials(swept), newest(swept, "sft_sweep")["metrics"]
    assert [trial["number"] for trial in found] == [1, 2, 3]
    assert metrics["complete"] + metrics["pruned"] + metrics["diverged"] == metrics["trials"] == 3
    made = manifests(swept, "sft_trial")
    for trial in found:
        metrics = made[trial["fingerprint"]]["metrics"]
        assert (trial["loss"], trial["steps"]) == (metrics["loss"], metrics["steps"])
        assert trial["state"] == "pruned" or trial["steps"] == trial["planned_steps"]


def test_optunas_own_tools_read_the_study(swept: Workshop) -> None:
    backend = optuna.storages.journal.JournalFileBackend(str(swept.artifact("sft_sweep") / "study.journal"))
    study = optuna.load_study(study_name="tiny", storage=optuna.storages.JournalStorage(backend))
    found = trials(swept)
    assert [trial.params for trial in study.trials] == [trial["values"] for trial in found]
    assert [trial.state.name.lower() for trial in study.trials] == [trial["state"] for trial in found]


def test_a_second_run_searches_nothing(swept: Workshop, tmp_path) -> None:
    outcome = swept.copy(tmp_path).run("--until", "sft_adapter")
    assert (outcome["sft_sweep", "tiny"]["status"], outcome["sft_adapter", "tiny"]["status"]) == ("reused", "reused")


def test_a_killed_sweep_goes_on_to_what_it_would_have_come_to(unswept: Workshop, swept: Workshop, tmp_path) -> None:
    shop = unswept.copy(tmp_path)
    process = shop.start("run", "tiny", "--until", "sft_sweep")

    def second_is_under_way() -> bool:
        done = manifests(shop, "sft_trial")
        return bool(done) and any(path.parents[2].name not in done for path in shop.checkpoints())

    until(second_is_under_way, 120, "a second trial's checkpoint")
    process.kill()
    process.communicate()
    until(lambda: not shop.workers(), 90, "the workers' end")
    before = manifests(shop, "sft_trial")
    assert 0 < len(before) < 3
    assert shop.status()["sft_sweep"]["status"] == "partial"
    shop.run("--until", "sft_sweep")
    assert trials(shop) == trials(swept)
    after = manifests(shop, "sft_trial")
    assert {name: after[name] for name in before} == before, "a finished trial is not made again"
    resumed = [manifest["execution"]["resumed_from_step"] for name, manifest in after.items() if name not in before]
    assert max(resumed) > 0, "the trial that was cut goes on from its checkpoint"
    assert not list((shop.home / "store" / ".scratch").iterdir())


def test_a_longer_sweep_trains_its_new_trials_alone_and_two_at_a_time(swept: Workshop, tmp_path) -> None:
    shop = swept.copy(tmp_path)
    before = manifests(shop, "sft_trial")
    shop.edit("n_trials: 3", "n_trials: 5")
    shop.edit("checkpoint_every_steps: 2,", "checkpoint_every_steps: 2, parallel_trials: 2,")
    shop.run("--until", "sft_sweep")
    assert trials(shop)[:3] == trials(swept)
    after = manifests(shop, "sft_trial")
    assert {name: after[name] for name in before} == before
    assert len(trials(shop)) == 5


def test_a_trial_that_cannot_train_stops_the_sweep_with_its_own_words(unswept: Workshop, tmp_path) -> None:
    shop = unswept.copy(tmp_path)
    shop.edit("target_modules: all-linear", "target_modules: [q_proj]")
    shop.edit(
        "    adapter: {r: {low: 2, high: 8, step: 2}}\n", "    adapter: {target_modules: {choices: [q_proj, .*x]}}\n"
    )
    message = shop.run("--until", "sft_sweep", code=1)[None]["failed"][0][1]
    assert "ended with exit code" in message
    assert "Target modules .*x not found" in message
