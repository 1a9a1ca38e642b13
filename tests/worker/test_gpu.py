"""What a GPU computes with: the worker's own path on CUDA. Skipped where there is none."""

import pytest
import torch
from splitting import HALF, TEST, Splitter, talks
from training import BATCHES, LORA, STEPS, School, losses, recorded, settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
FULL = {"method": "full"}
GPU = {"device": "cuda", "dtype": "bfloat16"}
PACKED = {"sft:s@1": talks(400), **TEST}
# bfloat16 holds three digits.
TOLERANCE = 0.05


def school(folder, base, adapter, batches=None, **data):
    return School(Splitter(folder, base, settings(adapter, sft={})), data, batches or BATCHES)


@pytest.fixture(scope="module", autouse=True)
def packed_on_cpu(tmp_path_factory, tiny_base):
    """Before anything else: Liger's kernels replace the model's own code for the whole process, and know no CPU."""
    folder = tmp_path_factory.mktemp("packed")
    return {
        name: losses(school(folder, tiny_base, adapter, PACKED, packing=True, split=HALF).train("sft_adapter"))
        for name, adapter in (("full", FULL), ("lora", LORA))
    }


@pytest.mark.parametrize("method", ["full", "lora", "dora", "qlora", "lora_8bit"])
def test_each_method_learns_on_a_gpu_what_it_learns_on_a_cpu(tmp_path, tiny_base, method):
    adapter = FULL if method == "full" else LORA | {"method": method}
    found = losses(school(tmp_path, tiny_base, adapter).train("sft_adapter", **GPU))
    assert found == pytest.approx(recorded(f"sft-{method}")["loss"], abs=TOLERANCE)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_packed_rows_train_with_the_variable_length_kernel(tmp_path, tiny_base, packed_on_cpu, method):
    adapter = FULL if method == "full" else LORA
    made = school(tmp_path, tiny_base, adapter, PACKED, packing=True, split=HALF).train("sft_adapter", **GPU)
    kernels = made.manifest.execution["kernels"]
    assert (kernels["attn_implementation"], kernels["fused_lora"]) == ("torch_varlen", True)
    assert losses(made) == pytest.approx(packed_on_cpu[method], abs=TOLERANCE)


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


# The last: transformers tells accelerate of DeepSpeed through the environment of the process.
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_deepspeed_in_bfloat16_learns_the_same(tmp_path, tiny_base, monkeypatch, zero_stage):
    group = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29611"}
    for name, value in group.items():
        monkeypatch.setenv(name, value)
    spread = {**GPU, "placement": {"zero_stage": zero_stage}}
    found = losses(school(tmp_path, tiny_base, FULL).train("sft_adapter", **spread))
    assert found == pytest.approx(recorded("sft-full")["loss"], abs=TOLERANCE)
