"""Laws of packing: packed conversations train as the same conversations apart, and a model that mixes them is refused."""

import json
from itertools import chain

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from ft_assets.core.errors import FineTuneError
from ft_assets.worker.packing import PackedCollator, refuse_bleeding
from ft_assets.worker.template import IGNORED

LENGTHS = [[7, 3, 12], [1, 9, 2, 5], [20]]
PAD = 0


def conversation(length, seed):
    ids = torch.randint(3, 200, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    told = length // 3
    return {"input_ids": ids, "labels": [IGNORED] * told + ids[told:]}


APART = [[conversation(length, 100 * at + n) for n, length in enumerate(row)] for at, row in enumerate(LENGTHS)]


def packed(conversations):
    return {
        **{name: list(chain.from_iterable(one[name] for one in conversations)) for name in ("input_ids", "labels")},
        "seq_lengths": [len(one["input_ids"]) for one in conversations],
    }


@pytest.fixture(scope="module")
def models(tiny_base):
    """The tiny llama in float32 with its weights scaled up, so that what it attends to shows in what it says."""
    found = {}
    for kernel in ("sdpa", "eager"):
        model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32, attn_implementation=kernel).eval()
        with torch.no_grad():
            for weights in model.parameters():
                weights.mul_(4.0 if weights.dim() > 1 else 1.0)
        found[kernel] = model
    return found


def forward(model, batch, **more):
    inputs = {name: values for name, values in batch.items() if name != "labels"}
    return model(**inputs, use_cache=False, **more).logits


def loss_of(model, rows):
    """Summed loss over supervised tokens, and how many there are, as the trainer counts them."""
    batch = PackedCollator(PAD)(rows)
    labels = batch["labels"][..., 1:]
    logits = forward(model, batch)[:, :-1]
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=IGNORED
    )
    return loss, int((labels != IGNORED).sum())


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_packed_logits_are_those_of_the_conversations_apart(models, kernel):
    model = models[kernel]
    with torch.inference_mode():
        together = forward(model, PackedCollator(PAD)([packed(row) for row in APART]))
        for at, row in enumerate(APART):
            apart = torch.cat([forward(model, PackedCollator(PAD)([one]))[0] for one in row])
            torch.testing.assert_close(together[at, : len(apart)], apart, atol=1e-4, rtol=1e-4)


def test_the_law_above_can_fail(models):
    batch = PackedCollator(PAD)([packed(APART[0])])
    with torch.inference_mode():
        right, wrong = (forward(models["sdpa"], {**batch, **more}) for more in ({}, {"position_ids": None}))
    assert (right - wrong).abs().max() > 0.1


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_loss_token_count_and_gradient_are_those_of_the_conversations_apart(models, kernel):
    model = models[kernel]
    found = []
    for rows in ([packed(row) for row in APART], list(chain.from_iterable(APART))):
        model.zero_grad()
        loss, count = loss_of(model, rows)
        (loss / count).backward()
        found.append((loss.item(), count, [weights.grad.clone() for weights in model.parameters()]))
    (one, some, packed_grads), (other, same, grads) = found
    assert some == same == sum(max(0, n - max(1, n // 3)) for row in LENGTHS for n in row)
    assert one == pytest.approx(other, rel=1e-5)
    for left, right in zip(packed_grads, grads, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-3)


def test_a_batch_is_drawn_as_it_says():
    rows = [
        {
            "input_ids": [11, 12, 13, 21, 22, 31, 32, 33, 34],
            "labels": [IGNORED, 12, 13, 21, 22, 31, 32, 33, 34],
            "seq_lengths": [3, 2, 4],
        },
        {"input_ids": [41, 42], "labels": [41, 42]},
    ]
    batch = {name: values.tolist() for name, values in PackedCollator(PAD)(rows).items()}
    assert batch == {
        "input_ids": [[11, 12, 13, 21, 22, 31, 32, 33, 34], [41, 42, *[PAD] * 7]],
        "labels": [[IGNORED, 12, 13, IGNORED, 22, IGNORED, 32, 33, 34], [IGNORED, 42, *[IGNORED] * 7]],
        "position_ids": [[0, 1, 2, 0, 1, 0, 1, 2, 3], [0, 1, *[0] * 7]],
    }


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_a_model_that_keeps_conversations_apart_is_taken(tiny_base, kernel, scale):
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=dtype, attn_implementation=kernel)
        with torch.no_grad():
            for weights in model.parameters():
                weights.mul_(scale if weights.dim() > 1 else 1.0)
        model.train()
        refuse_bleeding(model, 2)
        assert model.training, "it is left as it was"


class Ignores(torch.nn.Module):
    """A model that does not hear of positions, or hears of them for a single row alone, as flash attention does."""

    def __init__(self, model, rows_heard):
        super().__init__()
        self.model, self.config, self.device, self.rows_heard = model, model.config, model.device, rows_heard

    def forward(self, input_ids, position_ids, **more):
        heard = position_ids if len(input_ids) <= self.rows_heard else None
        return self.model(input_ids=input_ids, position_ids=heard, **more)


@pytest.mark.parametrize("rows_heard", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_lets_one_conversation_see_another_is_refused(tiny_base, rows_heard, dtype):
    """Even one of random weights, which attends to everything a little."""
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=dtype)
    with pytest.raises(FineTuneError, match=r"data.packing: .* see another .* set data.packing: false"):
        refuse_bleeding(Ignores(model, rows_heard), rows=4)
    if rows_heard:
        refuse_bleeding(Ignores(model, rows_heard), rows=1)


def test_a_recurrent_model_is_refused():
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=64, hidden_size=32, state_size=4, num_hidden_layers=2)
    with pytest.raises(FineTuneError, match="see another"):
        refuse_bleeding(MambaForCausalLM(config), 1)


def test_a_large_vocabulary_or_few_words_are_no_hindrance():
    torch.manual_seed(0)
    for size in (16, 50_000):
        config = LlamaConfig(
            vocab_size=size, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
        refuse_bleeding(LlamaForCausalLM(config), 8)


@pytest.mark.graph
def test_the_worker_trains_on_packed_rows(made, tmp_path):
    shop = made.copy(tmp_path)
    shop.edit("  overlong: drop", "  overlong: drop\n  packing: true")
    outcome = shop.run("--until", "sft_adapter")
    assert outcome["sft_adapter", "tiny"]["status"] == "made"
    manifest, splits = (
        json.loads((shop.artifact(stage) / "manifest.json").read_text())
        for stage in ("sft_adapter", "tokenized_splits")
    )
    part = splits["metrics"]["parts"]["sft"]
    assert part["packing"]["sequences"] == part["rows"]["train"] < part["packing"]["conversations"]
    assert manifest["metrics"]["steps"] == -(-part["rows"]["train"] // 2)
    assert manifest["metrics"]["input_tokens"] == part["tokens"], "every token once, and no padding"
    plan = json.loads((shop.artifact("training_plan") / "plan.json").read_text())
    [placed] = [stage for stage in plan if stage["stage"] == "sft"]
    assert placed["longest_row_tokens"] == part["longest"]
    assert manifest["metrics"]["final_loss"] < manifest["metrics"]["first_loss"]
