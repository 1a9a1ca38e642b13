"""The shipped recipe ``demo_rloo`` with the real embedded model: RLOO against the graph's own reward model."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_rloo_runs_the_whole_graph_on_the_embedded_model(tmp_path) -> None:
    env = {
        **os.environ,
        "FT_HOME": str(tmp_path),
        "FT_WANDB": "offline",
        "DAGSTER_HOME": str(tmp_path / "dagster_home"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "ft_assets.cli", "run", "demo_rloo", "--json"],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1700,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    rows = {row["asset"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["cpt_adapter"]["status"] == "passes through"
    policy = json.loads(next((tmp_path / "store/artifacts/policy").glob("*/manifest.json")).read_text())
    assert policy["identity"]["training"]["method"] == "rloo"
    assert policy["identity"]["rows"] == "prompt"
    assert (
        policy["upstream"]["reward_model"]
        == json.loads(next((tmp_path / "store/artifacts/reward_model").glob("*/manifest.json")).read_text())[
            "fingerprint"
        ]
    )
    history = json.loads(next((tmp_path / "store/artifacts/policy").glob("*/history.json")).read_text())
    assert any("reward" in entry for entry in history)
    assert list((tmp_path / "wandb" / "wandb").glob("offline-run-*")), "W&B kept its runs offline"
