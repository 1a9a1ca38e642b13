"""With ``metric_for_best_model`` the result is the weights that did best on the validation rows, killed in between or not."""

import json

import pytest
from conftest import Workshop
from driving import Training
from waiting import until

pytestmark = [pytest.mark.graph, pytest.mark.slow]
# More entropy counts as better (transformers: whatever does not end in "loss"), and training takes it away.
BEST = {
    "training": {
        "num_train_epochs": 8.0,
        "learning_rate": 0.01,
        "metric_for_best_model": "entropy",
        "eval_steps": 7,
    },
    "checkpoint_every_steps": 5,
    "keep_checkpoints": 1,
}


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.faults)])
def test_the_best_weights_are_the_result_and_a_kill_changes_nothing(prepared: Workshop, ranks: int) -> None:
    plain = Training(prepared, f"best-{ranks}", ranks=ranks, **BEST)
    plain.run()
    history = json.loads((plain.artifact / "history.json").read_text())
    measured = {entry["step"]: entry for entry in history if "eval_loss" in entry}
    metrics = plain.manifest()["metrics"]
    best = max(measured, key=lambda step: measured[step]["eval_entropy"])
    assert best < max(measured), "the last weights are the best: this tests nothing"
    assert metrics["best_step"] == best
    assert metrics["validation_loss"] == pytest.approx(measured[best]["eval_loss"], rel=1e-5)

    killed = Training(prepared, f"best-killed-{ranks}", ranks=ranks, **BEST)
    process = killed.start()
    until(lambda: killed.steps() and killed.steps()[-1] >= best + 12, 240, f"a step past the best one\n{killed.log()}")
    for one in killed.processes():
        one.kill()
    process.wait(60)
    until(lambda: not killed.processes(), 90, "their end")
    assert best in killed.checkpoints()
    killed.run()
    assert killed.manifest()["execution"]["resumed_from_step"] > best
    assert killed.weights() == plain.weights()


@pytest.mark.faults
def test_a_metric_that_nobody_measures_is_named_with_those_that_are(prepared: Workshop) -> None:
    settings = {"metric_for_best_model": "beauty", "eval_steps": 2}
    training = Training(prepared, "best-beauty", training=settings)
    training.run(code=2)
    assert "'eval_beauty', which is not found in the evaluation metrics" in training.log()
    assert "eval_loss" in training.log()
