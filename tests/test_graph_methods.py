"""The whole graph where the adapter is no adapter: whole models and virtual tokens pass through what merges."""

import json
from pathlib import Path

import pytest
import torch
from conftest import Workshop
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = [pytest.mark.graph, pytest.mark.slow]
LORA = "adapter: {method: lora, r: 4, lora_alpha: 8, lora_dropout: 0.0, target_modules: all-linear}"
REWARD = "reward: {learning_rate: 1.0e-3, global_batch_size: 2, num_train_epochs: 1, max_steps: 3}\n"


def release(shop: Workshop) -> Path:
    root = shop.home / "published" / "tiny"
    return root / json.loads((root / "champion.json").read_text())["folder"]


def answers(model) -> bool:
    with torch.inference_mode():
        return bool(torch.isfinite(model(input_ids=torch.tensor([[1, 40, 50]])).logits).all())


def test_a_whole_model_goes_from_stage_to_stage_and_is_the_release(workshop: Workshop) -> None:
    workshop.edit(LORA, "adapter: {method: full}")
    outcome = workshop.run()
    assert outcome["merged_model", "tiny"]["status"] == "passes through"
    assert outcome["quantized_model", "tiny"]["status"] == "made"
    folder = release(workshop)
    assert answers(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert not (folder / "adapter").exists()
    assert "AutoModelForCausalLM.from_pretrained(FOLDER)" in (folder / "README.md").read_text()
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_virtual_tokens_are_released_as_an_adapter_for_their_base(workshop: Workshop, tiny_base: Path) -> None:
    workshop.edit(LORA, "adapter: {method: prompt_tuning, num_virtual_tokens: 4}")
    workshop.edit(REWARD, "")
    workshop.edit("quantize: [int8]\n", "")
    outcome = workshop.run()
    assert {outcome[asset, "tiny"]["status"] for asset in ("reward_model", "merged_model", "quantized_model")} == {
        "passes through"
    }
    folder = release(workshop)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32), folder)
    assert model.peft_config["default"].num_virtual_tokens == 4
    assert answers(model)
    assert "PeftModel.from_pretrained(model, FOLDER)" in (folder / "README.md").read_text()
