"""Tokens and padding are counted as the trainer sees them, and what a run computes with follows from the machine."""

import pytest
import torch
from conftest import make_tiny_model
from safetensors.torch import load_file
from splitting import Splitter
from training import School, settings

from ft_assets.core.errors import FineTuneError
from ft_assets.worker import hardware
from ft_assets.worker.packing import PackedCollator
from ft_assets.worker.speed import Counter, kernels, measured


class Trainer:
    """What a counter needs of a trainer."""

    def training_step(self, model, inputs):
        return inputs

    def evaluate(self):
        return {"eval_loss": 1.0}

    def _save_checkpoint(self):
        pass


def counted(*batches):
    trainer = Trainer()
    counter = Counter(trainer)
    for batch in batches:
        assert trainer.training_step(None, batch) is batch
    return counter


@pytest.mark.parametrize(
    ("speeds", "dtype"),
    [
        pytest.param(
            {64: (1.3, 72.0)}, torch.float32, id="a chip without bfloat16, for which the large product is not made"
        ),
        pytest.param({64: (60.0, 72.0), 512: (150.0, 100.0)}, torch.bfloat16, id="faster where it counts"),
        pytest.param({64: (60.0, 72.0), 512: (110.0, 100.0)}, torch.float32, id="hardly faster"),
    ],
)
def test_auto_takes_the_number_type_that_multiplies_faster(monkeypatch, speeds, dtype):
    def timed(dtype, probe=hardware.PROBE):
        return speeds[probe[0]][0 if dtype is torch.bfloat16 else 1]

    monkeypatch.setattr(hardware, "matmul_flops", timed)
    assert hardware.pick_dtype("cpu", "auto") is dtype


def test_padding_is_what_no_mask_covers():
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    counter = counted({"input_ids": mask, "attention_mask": mask}, {"input_ids": mask, "attention_mask": mask})
    assert (counter.tokens, int(counter.padding)) == (8, 8)


def test_of_a_packed_batch_only_the_end_is_padding():
    rows = [
        {"input_ids": [5, 6, 7, 8, 9], "labels": [5, 6, 7, 8, 9], "seq_lengths": [3, 2]},
        {"input_ids": [5, 6], "labels": [5, 6], "seq_lengths": [2]},
    ]
    counter = counted(PackedCollator(0)(rows))
    assert (counter.tokens, int(counter.padding)) == (7, 3)


def test_both_sides_of_a_pair_count_and_its_prompt_alone_does_not():
    one = torch.ones(2, 3, dtype=torch.long)
    sides = {f"{side}_attention_mask": one for side in ("chosen", "rejected", "prompt")}
    assert counted(sides).tokens == 12


def test_prompts_that_have_no_tokens_yet_count_nothing():
    counter = counted([{"prompt": "Why?"}])
    assert counter.tokens == 0
    assert "tokens_per_second" not in measured(counter, 1.0, torch.nn.Linear(2, 2), True, "cpu", torch.float32, 1)


def test_validating_and_saving_are_no_training():
    trainer = Trainer()
    counter = Counter(trainer)
    mask = torch.ones(1, 10, dtype=torch.long)
    trainer.training_step(None, {"attention_mask": mask, "KL_attention_mask": mask})
    assert trainer.evaluate() == {"eval_loss": 1.0}
    trainer._save_checkpoint()
    assert 0 < counter.seconds_beside < 1
    counter.seconds_beside = 3.0
    found = measured(counter, 5.0, torch.nn.Linear(2, 2), True, "cpu", torch.float32, 1)
    assert (found["train_seconds"], found["tokens_per_second"]) == (2.0, 5.0)


def test_utilization_counts_four_operations_with_an_adapter_and_six_without():
    mask = torch.ones(1, 10, dtype=torch.long)
    model = torch.nn.Linear(4, 5)
    found = {
        trains_all: measured(counted({"attention_mask": mask}), 1.0, model, trains_all, "cpu", torch.float32, 1)
        for trains_all in (True, False)
    }
    assert found[True]["tokens_per_second"] == found[False]["tokens_per_second"] == 10
    # The peak is measured anew each time, and a busy machine's differs.
    ratio = found[True]["model_flops_utilization"] / found[False]["model_flops_utilization"]
    assert ratio == pytest.approx(1.5, rel=0.6)


@pytest.mark.parametrize(
    ("device", "packed", "zero_stage", "expected"),
    [
        ("cpu", True, 0, ("sdpa", True)),
        ("cpu", False, 3, ("sdpa", False)),
        ("cuda", True, 0, ("torch_varlen", True)),
        ("cuda", False, 2, ("sdpa", True)),
        ("cuda", True, 3, ("torch_varlen", False)),
    ],
)
def test_kernels_follow_the_device_and_the_rows(device, packed, zero_stage, expected):
    found = kernels(device, packed, zero_stage)
    assert (found.attn_implementation, found.fused_lora) == expected


def test_the_manifest_says_how_fast_and_with_what(tmp_path, tiny_base):
    artifact = School(Splitter(tmp_path, tiny_base, settings(sft={})), {}).train("sft_adapter")
    metrics = artifact.manifest.metrics
    assert metrics["tokens_per_second"] > 0
    assert 0 <= metrics["padding_share"] < 1
    assert 0 < metrics["model_flops_utilization"] < 1
    assert metrics["peak_memory_bytes"] <= metrics["measured_peak_bytes"]
    # Linux counts pages for each thread and adds them up now and then; this process may have been larger before.
    assert 1e8 < metrics["measured_idle_bytes"] < metrics["measured_peak_bytes"] + 2**20
    assert artifact.manifest.execution["kernels"]["attn_implementation"] == "sdpa"


def test_an_eight_bit_optimizer_takes_other_steps_and_learns(tmp_path):
    """A model so wide that its projections have 4,096 numbers each, the fewest that are kept in 8 bits; its embedding never is."""
    (tmp_path / "base").mkdir()
    make_tiny_model(tmp_path / "base", width=64)
    losses, projections = [], []
    for optim in ("adamw_torch_fused", "adamw_bnb_8bit"):
        own = settings({"method": "full"}, sft={"optim": optim})
        artifact = School(Splitter(tmp_path, tmp_path / "base", own), {}).train("sft_adapter")
        losses.append(artifact.manifest.metrics["final_loss"])
        weights = load_file(artifact.file("model.safetensors"))
        projections.append(weights["model.layers.0.self_attn.q_proj.weight"])
    assert losses[0] == pytest.approx(losses[1], abs=0.2)
    assert (projections[0] != projections[1]).float().mean() > 0.1


@pytest.mark.parametrize("writes", [True, False])
def test_liger_is_for_models_that_write(monkeypatch, writes):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert kernels("cuda", packed=False, zero_stage=0, writes=writes).use_liger_kernel == writes
    assert not kernels("cuda", packed=False, zero_stage=0, writes=writes, liger=False).use_liger_kernel


def test_liger_that_was_planned_with_must_be_there(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not kernels("cuda", packed=False, zero_stage=0).use_liger_kernel
    assert not kernels("cpu", packed=False, zero_stage=0, liger=True).use_liger_kernel
    with pytest.raises(FineTuneError, match="use_liger_kernel is true"):
        kernels("cuda", packed=False, zero_stage=0, liger=True)
