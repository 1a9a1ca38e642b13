"""The gate as asset checks: what is shut stops what follows, what is overridden is seen and does not."""

import dagster as dg
import pytest

from ft_assets.assets import gating
from ft_assets.core.conditions import check_name
from ft_assets.core.gate import as_body, judge

MET, MISSED = "policy.f1 >= 0.5", "policy.f1 >= 0.9"
RESULTS = {"metric": "f1", "candidate": "policy", "incumbent": None, "comparisons": []}
OVERRIDE = {"by": "Ada", "reason": "a demo", "at": "now", "conditions": [MISSED]}


def body(*conditions, override=None):
    return as_body(judge(conditions, {"policy.f1": 0.7}, RESULTS, override), override)


def materialized(found, declared):
    """Whether what follows ran, and the checks by name, of an asset with these checks."""
    ran = []

    @dg.asset(check_specs=gating.specs(declared))
    def eval_report():
        return dg.MaterializeResult(check_results=gating.results(found, declared))

    @dg.asset(deps=[eval_report])
    def published_model():
        ran.append(True)

    done = dg.materialize([eval_report, published_model], raise_on_error=False)
    return bool(ran), {check.check_name: check for check in done.get_asset_check_evaluations()}


@pytest.mark.parametrize(
    ("conditions", "declared", "runs"),
    [
        ([MET], [MET], True),
        ([MET, MISSED], [MET, MISSED], False),
        ([MET, MISSED], [], False),
        ([MET], [MET, MISSED], True),
        ([], [MET], True),
    ],
    ids=["met", "missed", "not known when definitions were loaded", "of another recipe", "none"],
)
def test_a_condition_that_is_missed_stops_what_follows(conditions, declared, runs):
    ran, checks = materialized(body(*conditions), declared)
    assert ran == runs
    assert set(checks) == {"gate", *map(check_name, declared)}
    assert checks["gate"].passed == runs
    for text in declared:
        check = checks[check_name(text)]
        assert check.passed == (text not in conditions or text == MET)
        if text not in conditions:
            assert check.description == "The recipe has no such condition."
        else:
            assert check.metadata["policy.f1"].value == 0.7


def test_what_is_overridden_stays_missed_and_stops_nothing():
    ran, checks = materialized(body(MET, MISSED, override=OVERRIDE), [MET, MISSED])
    assert ran
    assert checks["gate"].passed
    assert "overridden by Ada at now: a demo" in checks["gate"].description
    missed = checks[check_name(MISSED)]
    assert (missed.passed, missed.severity) == (False, dg.AssetCheckSeverity.WARN)


def test_conditions_with_one_name_are_one_check():
    alike = ["policy.f1 >= 0.5", "policy_f1.x >= 0.5"]
    specs = gating.specs(["a.b_c > 1", "a_b.c > 1", *alike])
    assert len({spec.name for spec in specs}) == len(specs) == 4
