"""Laws of trials: what one is, where its measurements stand, and that it ends where Optuna would end it."""

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_assets.core.trials import Trial, best_of, mark, marks, pruned_at, stop_above, trial_stage

LOSS = st.floats(0.1, 10, allow_nan=False)


def trial(number, losses, state="complete"):
    return Trial(number, {}, state, losses[-1], losses, 1, 1, 1.0, str(number))


@given(st.integers(1, 5000), st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.25, 0.3, 1 / 3, 0.5, 0.7, 0.99]))
def test_no_two_measurements_of_a_trial_have_one_mark_and_its_end_has_the_last(max_steps, eval_steps):
    every = -(-max_steps * eval_steps // 1)  # as the trainer rounds: up
    steps = {int(step) for step in range(int(every), max_steps + 1, int(every))} | {max_steps}
    found = [mark(step, max_steps, eval_steps) for step in sorted(steps)]
    assert found == sorted(set(found))
    assert found[-1] == marks(eval_steps) - 1
    assert found[0] >= 0


def test_trials_of_different_length_meet_at_the_same_share():
    assert [mark(step, 8, 0.25) for step in (2, 4, 6, 8)] == [mark(step, 800, 0.25) for step in (200, 400, 600, 800)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(LOSS, min_size=4, max_size=4), min_size=1, max_size=6), st.lists(LOSS, min_size=4, max_size=4))
def test_a_trial_ends_where_optunas_median_pruner_would_end_it(before, losses):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=2))
    for earlier in before:
        study.add_trial(optuna.create_trial(value=earlier[-1], intermediate_values=dict(enumerate(earlier))))
    asked, wanted = study.ask(), None
    for at, loss in enumerate(losses[:-1]):  # at the end there is nothing left to save
        asked.report(loss, at)
        if asked.should_prune():
            wanted = at
            break
    allowed = stop_above([trial(number, earlier) for number, earlier in enumerate(before)], 4, 2)
    assert pruned_at(losses, allowed) == wanted


def test_pruned_and_diverged_trials_are_no_measure_for_others():
    found = [trial(1, [3.0, 2.0]), trial(2, [9.0, 9.0], "pruned"), trial(3, [0.1, 0.1], "diverged")]
    assert stop_above(found, 2, 1) == [3.0, None]
    assert stop_above(found, 2, 2) == [None, None]
    assert best_of(found).number == 1
    assert best_of(found[1:]) is None


def test_a_mark_without_a_measurement_ends_nothing():
    assert pruned_at([None, 5.0, None], [1.0, 6.0, None]) is None
    assert pruned_at([5.0, None, None], [6.0, 1.0, None]) is None


IDENTITY = {
    "seed": 1,
    "training": {"learning_rate": 1e-4, "global_batch_size": 8},
    "adapter": {"r": 8},
    "sweep": {"eval_steps": 0.5, "n_trials": 3, "pruner": "median"},
}
UPSTREAM = {"base_model": ["base_model", "b"]}


def test_a_trial_is_its_settings_and_what_ends_it():
    values = {"sft.learning_rate": 1e-3, "adapter.r": 4}
    stage = trial_stage(IDENTITY, UPSTREAM, values, [None, None])
    assert stage.identity["training"] == {"learning_rate": 1e-3, "global_batch_size": 8}
    assert stage.identity["adapter"] == {"r": 4}
    assert IDENTITY["training"]["learning_rate"] == 1e-4
    others = [
        trial_stage(IDENTITY, UPSTREAM, {**values, "adapter.r": 5}, [None, None]),
        trial_stage(IDENTITY, UPSTREAM, values, [2.0, None]),
        trial_stage({**IDENTITY, "seed": 2}, UPSTREAM, values, [None, None]),
        trial_stage(IDENTITY, {"base_model": ["base_model", "c"]}, values, [None, None]),
    ]
    assert len({stage.fingerprint, *(other.fingerprint for other in others)}) == 5


@pytest.mark.parametrize(("field", "value"), [("n_trials", 30), ("pruner", "none"), ("n_startup_trials", 9)])
def test_a_longer_sweep_finds_the_trials_of_a_shorter_one(field, value):
    longer = {**IDENTITY, "sweep": {**IDENTITY["sweep"], field: value}}
    found, again = (trial_stage(identity, UPSTREAM, {"adapter.r": 4}, [None, None]) for identity in (IDENTITY, longer))
    assert found.fingerprint == again.fingerprint
