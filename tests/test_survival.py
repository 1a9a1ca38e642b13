"""Killed, cancelled, doubled and spread over ranks: the same artifact comes out, or a clear stop."""

import json
import os
import signal

import numpy as np
import psutil
import pytest
from conftest import Workshop
from safetensors.numpy import load_file
from waiting import until

pytestmark = pytest.mark.graph
LONG = (
    "sft: {learning_rate: 1.0e-3, global_batch_size: 2, num_train_epochs: 1}",
    "sft: {learning_rate: 1.0e-3, global_batch_size: 2, num_train_epochs: 12}",
)


@pytest.fixture
def long_sft(made: Workshop, tmp_path) -> Workshop:
    """Everything made but an SFT that takes long enough to be interrupted."""
    shop = made.copy(tmp_path)
    shop.edit(*LONG)
    shop.run("--until", "cpt_adapter")
    return shop


def weights(shop: Workshop) -> bytes:
    return (shop.artifact("sft_adapter") / "adapter_model.safetensors").read_bytes()


def test_sigkill_in_the_middle_of_sft_resumes_to_the_same_bits(long_sft: Workshop, tmp_path_factory) -> None:
    other = long_sft.copy(tmp_path_factory.mktemp("other"))
    other.run("--until", "sft_adapter")
    process = long_sft.start("run", "tiny", "--until", "sft_adapter")
    until(lambda: len(long_sft.checkpoints()) >= 2, 90, "two checkpoints")
    process.kill()
    process.communicate()
    until(lambda: not long_sft.workers(), 90, "the workers' end")
    assert long_sft.status()["sft_adapter"]["status"] == "partial"
    torn = long_sft.checkpoints()[-1]
    (torn.parent / "optimizer.pt").write_bytes(b"cut short")
    outcome = long_sft.run("--until", "sft_adapter")
    assert outcome["sft_adapter", "tiny"]["status"] == "made"
    manifest = json.loads((long_sft.artifact("sft_adapter") / "manifest.json").read_text())
    assert 0 < manifest["execution"]["resumed_from_step"] < manifest["metrics"]["steps"]
    assert weights(long_sft) == weights(other)
    steps = [
        entry["step"]
        for entry in json.loads((long_sft.artifact("sft_adapter") / "history.json").read_text())
        if "loss" in entry
    ]
    assert steps == list(range(1, manifest["metrics"]["steps"] + 1))


def test_cancelling_ends_every_rank_within_seconds(long_sft: Workshop) -> None:
    process = long_sft.start("run", "tiny", "--until", "sft_adapter")
    until(lambda: len(long_sft.workers()) >= 2 and long_sft.checkpoints(), 90, "training")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130, out
    assert "resumes where it stopped" in out
    assert not long_sft.workers()


def test_two_runs_of_one_fingerprint_end_with_one_artifact(long_sft: Workshop) -> None:
    both = [long_sft.start("run", "tiny", "--until", "sft_adapter", "--json") for _ in range(2)]
    outcomes = [json.loads(process.communicate(timeout=300)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    fingerprint = long_sft.status()["sft_adapter"]["fingerprint"]
    folders = [path.name for path in (long_sft.home / "store" / "artifacts" / "sft_adapter").iterdir()]
    assert [name[:12] for name in folders].count(fingerprint) == 1
    assert all(row["status"] in ("made", "reused", "passes through") for outcome in outcomes for row in outcome["rows"])
    assert not list((long_sft.home / "store" / ".staging").iterdir())


def test_two_ranks_under_deepspeed_train_the_same_model(made: Workshop, tmp_path) -> None:
    alone = load_file(made.artifact("sft_adapter") / "adapter_model.safetensors")
    shop = made.copy(tmp_path)
    shop.forget("sft_adapter")
    shop.edit("checkpoint_every_steps: 2", "checkpoint_every_steps: 50, processes: 2, zero_stage: 2")
    shop.run("--until", "sft_adapter")
    manifest = json.loads((shop.artifact("sft_adapter") / "manifest.json").read_text())
    assert manifest["execution"]["placement"]["processes"] == 2
    config = json.loads((shop.artifact("sft_adapter") / "deepspeed.json").read_text())
    assert config["zero_optimization"]["stage"] == 2
    spread = load_file(shop.artifact("sft_adapter") / "adapter_model.safetensors")
    assert set(spread) == set(alone)
    for name, tensor in alone.items():
        np.testing.assert_allclose(spread[name], tensor, atol=2e-3, err_msg=name)


def test_a_killed_rank_stops_the_job_with_its_cause(long_sft: Workshop) -> None:
    process = long_sft.start("run", "tiny", "--until", "sft_adapter", "--json")
    until(lambda: long_sft.checkpoints(), 90, "training")
    rank = next(p for p in long_sft.workers() if "ft_assets.worker.torchrun" not in " ".join(p.cmdline()))
    os.kill(rank.pid, signal.SIGKILL)
    outcome = json.loads(process.communicate(timeout=60)[0])
    assert process.returncode == 1
    assert "rank 0 failed first" in outcome["failed"][0][1]
    assert not [p for p in long_sft.workers() if p.status() != psutil.STATUS_ZOMBIE]


def test_a_checkpoint_of_another_world_size_is_refused_with_the_way_out(long_sft: Workshop) -> None:
    process = long_sft.start("run", "tiny", "--until", "sft_adapter")
    until(long_sft.checkpoints, 90, "a checkpoint")
    process.kill()
    process.communicate()
    long_sft.edit("checkpoint_every_steps: 2", "checkpoint_every_steps: 2, processes: 2, zero_stage: 2")
    outcome = long_sft.run("--until", "sft_adapter", code=1)
    message = outcome[None]["failed"][0][1]
    assert "saved with 1 processes and ZeRO 0, the plan now wants 2 processes and ZeRO 2" in message
