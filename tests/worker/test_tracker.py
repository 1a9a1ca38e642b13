"""PyTorch's memory tracker, under tensors that have no memory, counts what the plan's formulas count."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import LlamaConfig, LlamaForCausalLM

from ft_assets.core.activations import Compute, layer_bytes
from ft_assets.core.shape import Linears, Shape
from ft_assets.recipes.training import Full, Lora
from ft_assets.worker import lora_linear

ROWS, TOKENS, LAYERS = 2, 64, 3
HIDDEN, INNER, HEADS, KEY_VALUE_HEADS, WIDTH = 96, 272, 6, 2, 16
LINEAR = {
    "self_attn.q_proj": (HEADS * WIDTH, HIDDEN),
    "self_attn.k_proj": (KEY_VALUE_HEADS * WIDTH, HIDDEN),
    "self_attn.v_proj": (KEY_VALUE_HEADS * WIDTH, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * WIDTH),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
ADAPTER = {"r": 8, "lora_alpha": 8, "target_modules": "all-linear"}
COMPUTE = Compute(device="cpu", width=4, cast=False, masked=False, fused_lora=True, liger=False)


def shape(layers):
    linear = {f"model.layers.{at}.{name}": size for at in range(layers) for name, size in LINEAR.items()}
    counted = sum(out * into for out, into in linear.values())
    return Shape(
        parameters=counted + 128 * HIDDEN + HIDDEN * (2 * layers + 1),
        hidden=HIDDEN,
        layers=layers,
        vocabulary=128,
        linear=linear,
        intermediate=INNER,
        heads=HEADS,
        query=HEADS * WIDTH,
        key_value=KEY_VALUE_HEADS * WIDTH,
    )


def model(adapter, dtype, layers=LAYERS):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    made = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=HIDDEN,
            intermediate_size=INNER,
            num_hidden_layers=layers,
            num_attention_heads=HEADS,
            num_key_value_heads=KEY_VALUE_HEADS,
            head_dim=WIDTH,
            vocab_size=128,
            tie_word_embeddings=True,
        )
    )
    torch.set_default_dtype(before)
    if isinstance(adapter, Lora):
        dora = adapter.method == "dora"
        made = get_peft_model(
            made, LoraConfig(**ADAPTER, lora_dropout=adapter.lora_dropout, use_dora=dora, task_type="CAUSAL_LM")
        )
        lora_linear.fuse(made)
    return made.train()


def tracked(trained):
    """Bytes of each class of the tracker, after a forward pass and after a whole step."""
    optimizer = torch.optim.AdamW(trained.parameters())
    ids = torch.zeros(ROWS, TOKENS, dtype=torch.long)
    tracker = MemTracker()
    tracker.track_external(trained, optimizer)
    moments = []

    def now():
        found = tracker.get_tracker_snapshot("current")[torch.device("cpu")]
        moments.append({str(kind).rpartition(".")[2]: size for kind, size in found.items()})

    with tracker:
        out = trained(input_ids=ids, use_cache=False).logits
        now()
        out.sum().backward()
        optimizer.step()
        now()
    return moments


def saved_bytes(trained, rows):
    """Of what autograd keeps that is no weight."""
    weights = {each.untyped_storage().data_ptr() for each in trained.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trained(input_ids=torch.zeros(rows, TOKENS, dtype=torch.long), use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)


def kept_by_a_layer(adapter, dtype):
    """Bytes per token: what a deeper model keeps more, and of that what more rows do."""
    deep, flat = (model(adapter, dtype, layers) for layers in (LAYERS + 1, LAYERS))
    more, less = (saved_bytes(deep, rows) - saved_bytes(flat, rows) for rows in (2 * ROWS, ROWS))
    return (more - less) / (ROWS * TOKENS)


def test_weights_gradients_and_states_of_a_whole_model_are_counted_to_the_byte():
    with FakeTensorMode():
        trained = model(Full(method="full"), torch.float32)
        found = tracked(trained)[1]
    parameters = shape(LAYERS).parameters
    steps = 4 * sum(1 for _ in trained.parameters())  # of each weight's state, a number
    assert (found["PARAM"], found["GRAD"]) == (4 * parameters, 4 * parameters)
    assert found["OPT"] == 8 * parameters + steps


def test_the_tracker_counts_the_activations_of_the_formula_and_an_eighth_at_most_beside():
    """It counts what a forward pass leaves behind, kept for the backward pass or not."""
    with FakeTensorMode():
        found = [
            tracked(model(Full(method="full"), torch.float32, layers))[0]["ACT"] for layers in (LAYERS, LAYERS + 1)
        ]
    expected = layer_bytes(shape(LAYERS), Full(method="full"), Linears.of(()), COMPUTE, TOKENS)
    assert expected <= (found[1] - found[0]) / (ROWS * TOKENS) <= 1.125 * expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "adapter",
    [
        Full(method="full"),
        Lora(method="lora", lora_dropout=0.0, **ADAPTER),
        Lora(method="lora", lora_dropout=0.1, **ADAPTER),
        Lora(method="dora", lora_dropout=0.0, **ADAPTER),
    ],
    ids=["full", "lora", "dropout", "dora"],
)
def test_what_a_layer_keeps_is_what_the_formula_says(adapter, dtype):
    on = shape(LAYERS).linears if isinstance(adapter, Lora) else Linears.of(())
    expected = layer_bytes(shape(LAYERS), adapter, on, replace(COMPUTE, width=dtype.itemsize), TOKENS)
    assert kept_by_a_layer(adapter, dtype) == pytest.approx(expected, rel=0.01)
