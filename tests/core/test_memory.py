"""Laws of a stage's memory: each part by hand."""

import pytest
import yaml

from ft_assets.core.plan import plan_recipe
from ft_assets.core.shape import Shape
from ft_assets.recipes.load import SHIPPED
from ft_assets.recipes.schema import Recipe


def bytes_of(adapter, policy=None, device="cuda", checkpointing=False):
    """Frozen and trainable bytes, and activations of one row, of the last planned stage on a shape of ten linear weights."""
    big = Shape(1_000_000, 100, 10, 1000, {f"model.layers.{n}.q_proj": (100, 800) for n in range(10)})
    body = yaml.safe_load((SHIPPED / "demo.yaml").read_text()) | {"adapter": adapter, "quantize": [], "cpt": None}
    body["hardware"] = {"memory_gib": 80, "activation_checkpointing": checkpointing}
    body["policy"] = policy
    body["reward"] = body["reward"] if adapter["method"] != "prompt_tuning" else None
    splits = {part: {"rows": 8, "tokens": 800, "longest": 100} for part in ("cpt", "sft", "preference")}
    plan = plan_recipe(Recipe.model_validate(body), big, splits, device)[0 if policy is None else -1]
    return plan.weights_bytes, plan.trainable_bytes, plan.activations_bytes // plan.micro_batch


RANK_4 = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"}
LOGITS = 100 * 3 * 4 * 1000


@pytest.mark.parametrize(
    ("adapter", "frozen", "trainable"),
    [
        ({"method": "full"}, 0, 16 * 1_000_000),
        ({"method": "lora", **RANK_4}, 2 * 1_000_000, 16 * 10 * 4 * 900),
        ({"method": "lora_8bit", **RANK_4}, 2 * 200_000 + 800_000, 16 * 10 * 4 * 900),
        ({"method": "qlora", **RANK_4}, 2 * 200_000 + 413_000, 16 * 10 * 4 * 900),
        ({"method": "prompt_tuning", "num_virtual_tokens": 7}, 2 * 1_000_000, 16 * 7 * 100),
    ],
)
def test_weights_and_what_is_trained_by_hand(adapter, frozen, trainable):
    assert bytes_of(adapter)[:2] == (frozen, trainable)


def test_checkpointing_keeps_two_bytes_of_each_layer_and_all_of_one():
    adapter = {"method": "lora", **RANK_4}
    assert bytes_of(adapter)[2] == 100 * 45 * 100 * 10 + LOGITS
    assert bytes_of(adapter, checkpointing=True)[2] == 100 * 100 * (2 * 10 + 45) + LOGITS


@pytest.mark.parametrize(
    ("method", "adapter", "beside"),
    [
        ("dpo", {"method": "lora", **RANK_4}, 0),
        ("dpo", {"method": "full"}, 4),
        ("orpo", {"method": "full"}, 0),
        ("grpo", {"method": "lora", **RANK_4}, 2),
        ("grpo", {"method": "full"}, 6),
    ],
)
def test_a_policy_holds_its_reference_and_its_reward_model_too(method, adapter, beside):
    policy = {"method": method, "beta": 0.1, "learning_rate": 1e-5, "global_batch_size": 8, "num_train_epochs": 1}
    own = 0 if adapter["method"] == "full" else 2
    assert bytes_of(adapter, policy)[0] == (own + beside) * 1_000_000
