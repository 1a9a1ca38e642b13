"""Laws of a stage's memory: states by hand and from the literature, and what makes activations more or less."""

from dataclasses import replace

import pytest
import yaml

from ft_assets.core.activations import Compute, layer_bytes
from ft_assets.core.memory import GIB, IMPORTED_BYTES, ONEDNN_BYTES, WORKER_BYTES, Layout, stage_memory
from ft_assets.core.shape import Shape
from ft_assets.recipes.load import SHIPPED
from ft_assets.recipes.schema import Recipe
from ft_assets.recipes.training import Full, Lora

RANK_4 = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"}
FULL, LORA, QLORA = {"method": "full"}, {"method": "lora", **RANK_4}, {"method": "qlora", **RANK_4}
ROWS = {"rows": 64, "tokens": 6400, "longest": 100}
ONE = Layout("cuda", 1, 1, 2, 0, "none", "none", False)
CPU = replace(ONE, device="cpu")
# Ten linear weights of (800, 100), an embedding, norms: 1,000,000 in all.
BIG = Shape(1_000_000, 100, 10, 1000, {f"model.layers.{n}.q_proj": (800, 100) for n in range(10)}, 400, 4, 100, 50)


def recipe(adapter, policy=None, hardware=None, reward=False, data=None, **sft):
    body = yaml.safe_load((SHIPPED / "demo.yaml").read_text())
    body |= {"adapter": adapter, "quantize": [], "cpt": None, "policy": policy}
    body["hardware"] = hardware or {"dtype": "bfloat16"}
    body["reward"] = body["reward"] if reward else None
    body["sft"] = {**body["sft"], "global_batch_size": 2, **sft}
    body["data"] = {**body["data"], **(data or {})}
    return Recipe.model_validate(body)


def policy(method):
    return {"method": method, "beta": 0.1, "learning_rate": 1e-5, "global_batch_size": 2, "num_train_epochs": 1}


def memory(adapter, layout=ONE, shape=BIG, stage="sft", rows=ROWS, **more):
    return stage_memory(recipe(adapter, **more), stage, shape, rows, layout)


def states(found):
    return found.weights + found.gradients + found.optimizer


@pytest.mark.parametrize(("zero_stage", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_states_are_those_of_the_zero_paper(zero_stage, gigabytes):
    """7.5 billion parameters with Adam in mixed precision on 64 GPUs: arXiv 1910.02054, figure 1."""
    large = Shape(7_500_000_000, 1, 1, 1, {})
    layout = replace(ONE, processes=64, nodes=8, micro_batch=1, zero_stage=zero_stage)
    if not zero_stage:  # of one process: several keep a copy of all gradients besides (DDP's buckets)
        layout = replace(layout, processes=1, nodes=1)
    found = memory(FULL, layout, large, rows={"rows": 64, "tokens": 64, "longest": 1}, global_batch_size=64)
    assert states(found) / 1e9 == pytest.approx(gigabytes, abs=0.05)


def test_thirteen_billion_parameters_in_16_bit_are_26_gigabytes():
    shape = Shape(13_000_000_000, 1, 1, 1, {"model.layers.0.q_proj": (1, 1)})
    assert memory(LORA, shape=shape).weights == pytest.approx(26e9, rel=1e-6)


LINEAR, ADAPTER = 10 * 800 * 100, 10 * 4 * 900


@pytest.mark.parametrize(
    ("adapter", "frozen", "trained"),
    [
        (FULL, 0, 1_000_000),
        (LORA, 2 * 1_000_000, ADAPTER),
        ({"method": "dora", **RANK_4}, 2 * 1_000_000, ADAPTER + 10 * 800),
        (QLORA, 2 * 200_000 + LINEAR * 4.127 / 8, ADAPTER),
        ({"method": "lora_8bit", **RANK_4}, 2 * 200_000 + LINEAR + 4 * 10 * 800, ADAPTER),
        ({"method": "prompt_tuning", "num_virtual_tokens": 7}, 2 * 1_000_000, 7 * 100),
    ],
    ids=lambda value: value["method"] if isinstance(value, dict) else None,
)
def test_states_by_hand(adapter, frozen, trained):
    """What is trained is in float32, and AdamW keeps two more of it. A batch that is accumulated has all gradients at its end."""
    found = memory(adapter, global_batch_size=4)
    assert found.weights == pytest.approx(frozen + 4 * trained, abs=1)
    assert (found.gradients, found.optimizer) == (4 * trained, 8 * trained)


@pytest.mark.parametrize(
    ("dtype", "device", "width"), [("auto", "cpu", 4), ("bfloat16", "cpu", 2), ("float32", "cuda", 4)]
)
def test_frozen_weights_are_in_what_is_computed_in(dtype, device, width):
    found = memory(LORA, replace(ONE, device=device), hardware={"dtype": dtype})
    assert found.weights == width * 1_000_000 + 4 * ADAPTER


@pytest.mark.parametrize(
    ("optim", "least", "most"),
    [("adamw_torch_fused", 8.0, 8.0), ("adamw_bnb_8bit", 2.6, 2.7), ("adafactor", 0.0, 0.1)],
)
def test_an_optimizer_with_smaller_states_takes_less(optim, least, most):
    """In 8 bit all but the embedding, a tenth of these parameters."""
    assert least <= memory(FULL, optim=optim, global_batch_size=4).optimizer / 1e6 <= most


@pytest.mark.parametrize(
    ("method", "adapter", "beside"), [("dpo", LORA, 4 * ADAPTER), ("dpo", FULL, 4e6), ("orpo", FULL, 0), ("kto", FULL, 4e6),
    ("grpo", LORA, 2e6 + 4 * ADAPTER), ("grpo", FULL, 6e6)],
)  # fmt: skip
def test_a_policy_holds_its_reference_and_its_reward_model_too(method, adapter, beside):
    found = memory(adapter, stage="policy", policy=policy(method), reward=True)
    assert found.beside == beside


def test_offload_moves_what_it_names_to_the_host():
    spread = replace(ONE, processes=4, zero_stage=3)
    plain = memory(FULL, spread, global_batch_size=16)
    moved = memory(FULL, replace(spread, offload_optimizer="cpu", offload_param="cpu"), global_batch_size=16)
    assert states(plain) == 16 * 1_000_000 / 4
    assert states(moved) == 0
    assert moved.host > plain.host


def test_checkpointing_keeps_the_stream_of_each_layer_and_all_of_one():
    rows = {"rows": 8, "tokens": 8000, "longest": 1000}
    plain, lean = (memory(LORA, replace(ONE, activation_checkpointing=on), rows=rows) for on in (False, True))
    assert lean.peak < plain.peak
    deeper = replace(
        BIG, layers=20, linear={**BIG.linear, **{f"model.layers.{n}.q_proj": (800, 100) for n in range(10, 20)}}
    )
    more = memory(LORA, replace(ONE, activation_checkpointing=True), deeper, rows=rows).activations - lean.activations
    assert more == 10 * 2 * 100 * 2000  # ten layers, two bytes, hidden units, tokens


LLAMA_8B = Shape(
    8_030_261_248, 4096, 32, 128_256,
    {
        f"model.layers.{n}.{name}": size
        for n in range(32)
        for name, size in {
            "q_proj": (4096, 4096), "k_proj": (1024, 4096), "v_proj": (1024, 4096), "o_proj": (4096, 4096),
            "gate_proj": (14336, 4096), "up_proj": (14336, 4096), "down_proj": (4096, 14336),
        }.items()
    },
    14336, 32, 4096, 1024,
)  # fmt: skip


@pytest.mark.parametrize(
    ("adapter", "masked", "per_hidden"),
    [(Lora(method="lora", **RANK_4), False, 45), (Full(method="full"), False, 49), (Full(method="full"), True, 53)],
)
def test_a_llama_keeps_what_was_measured(adapter, masked, per_hidden):
    """Bytes per token, layer and hidden unit in bfloat16, as measured with ``saved_tensors_hooks``; a mask takes keys and values of
    each query head, and itself.
    """
    compute = Compute("cuda", 2, cast=False, masked=masked, fused_lora=True, liger=False)
    found = layer_bytes(LLAMA_8B, adapter, LLAMA_8B.linears, compute, 1024)
    assert found / 4096 == pytest.approx(per_hidden, abs=0.8)


MORE = {
    "longer rows": ({"rows": {**ROWS, "longest": 400}}, {}),
    "more rows": ({"layout": replace(ONE, micro_batch=4), "global_batch_size": 4}, {}),
    "every weight": ({"adapter": FULL}, {}),
    "dropout": ({"adapter": {**LORA, "lora_dropout": 0.1}, "shape": LLAMA_8B}, {"shape": LLAMA_8B}),
    "DoRA": ({"adapter": {"method": "dora", **RANK_4}}, {}),
    "padding": ({}, {"data": {"packing": True}}),
    "accumulated gradients": ({"adapter": FULL, "global_batch_size": 8}, {"adapter": FULL}),
    "a copy of DDP's": ({"adapter": FULL, "layout": replace(ONE, processes=2), "global_batch_size": 4}, {"adapter": FULL}),
    "without Liger": ({}, {"layout": replace(ONE, liger=True)}),
    "longer answers": (
        {"adapter": LORA, "stage": "policy", "policy": {**policy("grpo"), "num_generations": 2}, "reward": True, "rows": {**ROWS, "longest": 300}},
        {"adapter": LORA, "stage": "policy", "policy": {**policy("grpo"), "num_generations": 2}, "reward": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MORE)
def test_more_is_held(case):
    more, less = MORE[case]
    assert memory(**{"adapter": LORA, **more}).peak > memory(**{"adapter": LORA, **less}).peak


def test_a_cpu_folds_scores_in_torch_and_its_heap_has_holes():
    cpu, gpu = (memory(LORA, layout) for layout in (CPU, ONE))
    assert cpu.logits > gpu.logits
    assert cpu.overhead - WORKER_BYTES > 0.2 * (cpu.activations + cpu.logits)


def test_with_checkpointing_a_cpu_gives_large_blocks_back():
    def share(layout):
        found = memory(LORA, layout)
        return (found.overhead - WORKER_BYTES - IMPORTED_BYTES - ONEDNN_BYTES) / (found.activations + found.logits)

    assert 0 < 4 * share(replace(CPU, activation_checkpointing=True)) < share(CPU)


def test_answers_are_written_with_keys_and_values_of_each_token_and_layer():
    """Where many answers are written at once that is the peak, and not the step on a few of them."""
    wide = {**policy("grpo"), "global_batch_size": 256, "num_generations": 2}
    layout = replace(ONE, micro_batch=1)
    found = memory(LORA, layout, stage="policy", policy=wide, reward=True)
    assert found.cache == 256 * 100 * 10 * 2 * 50 * 2  # answers, tokens, layers, keys and values, width, bytes


@pytest.mark.parametrize(("processes", "nodes", "shm"), [(1, 1, 0), (8, 1, GIB), (2, 2, 0), (16, 2, GIB)])
def test_processes_of_one_node_share_memory(processes, nodes, shm):
    assert memory(FULL, replace(ONE, processes=processes, nodes=nodes), global_batch_size=32).shm == shm


def test_the_disk_holds_one_checkpoint_more_than_are_kept_and_the_artifact():
    keep = {"dtype": "bfloat16", "keep_checkpoints": 3}
    assert memory(FULL, hardware=keep).disk == 4 * 12 * 1_000_000 + 2 * 1_000_000
    assert memory(LORA, hardware=keep).disk == 4 * 12 * ADAPTER + 4 * ADAPTER
