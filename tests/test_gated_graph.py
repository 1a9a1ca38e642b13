"""The gate in the graph: what it shuts out is not published, what a person lets through is, and what was withdrawn stays so."""

import json
from pathlib import Path

import dagster as dg
import pytest
from conftest import Workshop

from definitions import build
from ft_assets.core import champion
from ft_assets.core.batches import SHUT_OUT, TRAINED_ON
from resources.environment import Settings, catalog

pytestmark = pytest.mark.graph

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
WHO = ("--by", "Ada", "--reason", "for the demo")
GATE = "gate: [candidate.entity_f1 >= 0, candidate not worse than incumbent at 95%]"
SHUT = "candidate.entity_f1 > 1"


class Release:
    """The last two assets of the made workshop, run in this process."""

    def __init__(self, shop: Workshop, folder: Path):
        self.shop, self.instance = shop, dg.DagsterInstance.ephemeral()
        self.settings = Settings(shop.home, str(shop.home / "store"), (shop.recipes,), folder, "disabled")
        self.store = self.settings.open_store()

    def run(self, *assets: str) -> dg.ExecuteInProcessResult:
        job = build(self.settings, catalog(self.settings)).resolve_job_def("fine_tune")
        return job.execute_in_process(
            instance=self.instance,
            partition_key="tiny",
            raise_on_error=False,
            run_config=QUIET,
            asset_selection=[dg.AssetKey(asset) for asset in assets or ("eval_report", "published_model")],
        )

    def champion(self) -> str:
        record = champion.read(self.store, "tiny")
        pointer = json.loads((self.shop.home / "published" / "tiny" / "champion.json").read_text())
        assert pointer["fingerprint"] == record["champion"]
        return record["champion"]


def made_in(result: dg.ExecuteInProcessResult) -> list[str]:
    return [event.step_key for event in result.all_events if event.is_step_materialization]


def cause_of(result: dg.ExecuteInProcessResult) -> str:
    error = next(event.step_failure_data.error for event in result.all_events if event.is_step_failure)
    while error.cause:
        error = error.cause
    return error.message


def test_what_the_gate_shuts_out_is_published_only_by_a_persons_word(made: Workshop, tmp_path: Path) -> None:
    shop = made.copy(tmp_path)
    release = Release(shop, tmp_path)
    first = release.champion()
    shop.edit(GATE, f"gate: [candidate.entity_f1 >= 0, {SHUT}]")

    shut = release.run()
    assert made_in(shut) == ["eval_report"], "the report is there, the release is not"
    checks = {check.check_name: check.passed for check in shut.get_asset_check_evaluations()}
    assert (checks["gate"], checks["gate_candidate_entity_f1_above_1"], checks["gate_candidate_entity_f1_at_least_0"]) == (
        False, False, True,
    )  # fmt: skip
    assert release.champion() == first
    assert release.store.get_ref(SHUT_OUT, "tiny") == release.store.get_ref(TRAINED_ON, "tiny")

    alone = release.run("published_model")
    assert "the gate of tiny is shut" in cause_of(alone)
    assert SHUT in cause_of(alone)
    assert release.champion() == first

    shop.ft("override", "tiny", *WHO)
    assert release.run().success
    second = release.champion()
    assert second != first
    manifest = release.store.lookup("published_model", second)
    assert {**manifest.identity["override"], "at": ""} == {
        "by": "Ada",
        "reason": "for the demo",
        "at": "",
        "conditions": [SHUT],
    }
    assert champion.read(release.store, "tiny")["history"][-1]["override"] == manifest.identity["override"]
    for page in ("README.md", "report.html"):
        assert "for the demo" in (shop.home / "published" / "tiny" / second[:16] / page).read_text(encoding="utf-8")

    shop.ft("rollback", "tiny", *WHO)
    assert release.champion() == first
    assert "was withdrawn by Ada" in cause_of(release.run())
    assert release.champion() == first, "what was withdrawn is not published unasked"
