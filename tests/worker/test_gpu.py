"""What a GPU computes with: the worker's own path on CUDA. Skipped where there is none."""

import pytest
import torch
from splitting import HALF, TEST, Splitter, talks
from training import BATCHES, LORA, STEPS, School, losses, settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
FULL = {"method": "full"}
GPU = {"device": "cuda", "dtype": "bfloat16"}
# bfloat16 holds three digits.
TOLERANCE = 0.05


def school(folder, base, adapter, batches=None, **data):
    return School(Splitter(folder, base, settings(adapter, sft={})), data, batches or BATCHES)


@pytest.mark.parametrize("method", ["full", "lora", "dora", "qlora", "lora_8bit", "prompt_tuning"])
def test_each_method_learns_on_a_gpu_what_it_learns_on_a_cpu(tmp_path, tiny_base, method):
    adapter = {
        "full": FULL,
        "prompt_tuning": {"method": method, "num_virtual_tokens": 4},
    }.get(method, LORA | {"method": method})
    runs = {}
    for name, execution in (("cpu", {}), ("cuda", GPU)):
        runs[name] = losses(school(tmp_path / name, tiny_base, adapter).train("sft_adapter", **execution))
    assert len(runs["cuda"]) == STEPS
    assert runs["cuda"] == pytest.approx(runs["cpu"], abs=TOLERANCE)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_packed_rows_train_with_the_variable_length_kernel(tmp_path, tiny_base, method):
    adapter = FULL if method == "full" else LORA
    batches = {"sft:s@1": talks(400), **TEST}
    made = [
        school(tmp_path / name, tiny_base, adapter, batches, packing=True, split=HALF).train("sft_adapter", **execution)
        for name, execution in (("cpu", {}), ("cuda", GPU))
    ]
    kernels = made[1].manifest.execution["kernels"]
    assert (kernels["attn_implementation"], kernels["fused_lora"]) == ("torch_varlen", True)
    assert losses(made[1]) == pytest.approx(losses(made[0]), abs=TOLERANCE)


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_deepspeed_in_bfloat16_learns_the_same(tmp_path, tiny_base, monkeypatch, zero_stage):
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(29600 + zero_stage))
    expected = losses(school(tmp_path / "cpu", tiny_base, FULL).train("sft_adapter"))
    spread = {**GPU, "placement": {"zero_stage": zero_stage}}
    found = losses(school(tmp_path / "cuda", tiny_base, FULL).train("sft_adapter", **spread))
    assert found == pytest.approx(expected, abs=TOLERANCE)


def test_what_was_measured_is_of_the_gpu(tmp_path, tiny_base):
    metrics = school(tmp_path, tiny_base, LORA).train("sft_adapter", **GPU).manifest.metrics
    assert 0 < metrics["peak_memory_bytes"] < 2e9
    assert metrics["tokens_per_second"] > 0


def test_policies_and_reward_models_train_on_a_gpu(tmp_path, tiny_base):
    online = {"beta": 0.1, "max_completion_length": 8, "temperature": 1.0}
    for stages in (
        {"sft": {}, "policy": {"method": "dpo", "beta": 0.1}},
        {"sft": {}, "reward": {}, "policy": {"method": "grpo", **online}},
    ):
        made = School(Splitter(tmp_path, tiny_base, settings(LORA, **stages)), {})
        assert len(losses(made.train("policy", **GPU))) == STEPS
