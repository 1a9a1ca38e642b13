"""Recipes that could not train are refused when they are read, with what would do."""

import pytest
import yaml
from pydantic import ValidationError

from ft_assets.recipes.load import SHIPPED
from ft_assets.recipes.schema import Recipe

BASE = yaml.safe_load((SHIPPED / "demo.yaml").read_text())
LORA = BASE["adapter"]
PROMPT = {"method": "prompt_tuning", "num_virtual_tokens": 4}
POLICY = BASE["policy"]
GPU = {
    "name": "l4",
    "memory_gib": 24,
    "bf16_tflops": 121,
    "usd_per_hour": 0.6,
    "node_memory_gib": 190,
    "node_cpus": 48,
}
BEST = {"metric_for_best_model": "loss", "eval_steps": 5}


def fault(**changes):
    """What is said of the demo's recipe with these sections in place of its own."""
    with pytest.raises(ValidationError) as raised:
        Recipe.model_validate(BASE | changes)
    return str(raised.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": POLICY | {"beta": 0}}, "dpo with beta 0 learns nothing"),
        ({"policy": POLICY | {"method": "kto", "beta": 0}}, "kto with beta 0 learns nothing"),
        ({"policy": POLICY | {"method": "grpo", "num_generations": 3}}, "no multiple of num_generations 3"),
        ({"policy": POLICY | {"method": "rloo", **BEST}}, "rloo is measured on no validation rows"),
        (
            {"policy": POLICY | {"method": "orpo"}, "adapter": PROMPT, "reward": None, "quantize": []},
            "orpo does not train",
        ),
        ({"adapter": PROMPT}, "nothing to quantize and no reward model"),
        ({"sft": BASE["sft"] | {"metric_for_best_model": "loss"}}, "give both or neither"),
        ({"sft": BASE["sft"] | BEST | {"metric_for_best_model": "runtime"}}, "tells of the machine"),
        (
            {"sft": BASE["sft"] | BEST, "data": BASE["data"] | {"split": {"validation": 0.0, "test": 0.1}}},
            "data.split.validation is 0",
        ),
        ({"adapter": LORA | {"target_modules": ["q_proj", "lm_head"]}}, "not lm_head"),
        ({"adapter": LORA | {"target_modules": []}}, "names linear modules"),
        ({"adapter": LORA | {"target_modules": "("}}, "is no regular expression"),
        ({"sft": BASE["sft"] | {"optim": "adafactor"}, "hardware": {"processes": 2}}, "sft.optim adafactor depends on"),
        ({"sft": BASE["sft"] | {"optim": "adamw_bnb_8bit"}, "hardware": {"zero_stage": 1}}, "use adamw_torch_fused"),
        ({"hardware": {"zero_stage": 1, "deepspeed": {"zero_optimization": 3}}}, "is 3, not a mapping"),
        ({"hardware": {"zero_stage": 1, "deepspeed": {"zero_optimization": None}}}, "is None, not a mapping"),
        ({"hardware": {"zero_stage": 1, "deepspeed": {"zero_optimization": {"stage": 3}}}}, "sets stage"),
        ({"hardware": {"zero_stage": 1, "deepspeed": {"zero_optimisation": {}}}}, "deepspeed has zero_optimisation"),
        ({"hardware": {"zero_stage": 1, "deepspeed": {"bf16": {"enabled": True}}}}, "deepspeed has bf16"),
        ({"hardware": {"deepspeed": {"steps_per_print": 5}}}, "deepspeed needs zero_stage 1 or more"),
        ({"hardware": {"zero_stage": 2, "offload_param": "cpu"}}, "offload_param needs zero_stage 3"),
        ({"hardware": {"processes": 3, "nodes": 2}}, "processes 3 is no multiple of nodes 2"),
        (
            {"hardware": {"gpus": [GPU | {"counts": [2, 12]}]}},
            "counts has 12, which is more than one node and no multiple of 8",
        ),
        *(
            ({"hardware": {"gpus": [GPU | {"name": name}]}}, "a name in print")
            for name in ("l\n4", "l\t4", "\x1b[31ml4", " ", " l4", "l4\u202e")
        ),
        ({"hardware": {"gpus": [GPU, GPU]}}, "gpus names l4 twice"),
        ({"hardware": {"gpus": [GPU], "device": "cpu"}}, "device is cpu and gpus are on offer"),
        ({"hardware": {"offload_optimizer": "cpu"}}, "offload_optimizer needs zero_stage 1 or more"),
    ],
)
def test_a_recipe_that_could_not_train_is_refused(changes, words):
    assert words in fault(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": POLICY | {"method": "orpo", "beta": 0}},
        {"policy": POLICY | {"method": "grpo", "num_generations": 4, "beta": 0}},
        {"sft": BASE["sft"] | BEST},
        {"sft": BASE["sft"] | {"optim": "adafactor"}},
        {"sft": BASE["sft"] | {"optim": "adafactor"}, "hardware": {"processes": 2, "zero_stage": 0}},
        {"adapter": LORA | {"target_modules": ".*_proj"}},
        {
            "hardware": {
                "zero_stage": 3,
                "deepspeed": {"zero_optimization": {"overlap_comm": True}, "steps_per_print": 5},
            }
        },
    ],
)
def test_what_can_train_is_taken(changes):
    Recipe.model_validate(BASE | changes)
