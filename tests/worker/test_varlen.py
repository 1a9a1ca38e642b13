"""Variable-length attention: conversations of packed rows do not see each other, and a mask is never left out.

The kernel wants a GPU; on a CPU one conversation after another stands in for it, so that what is tried is what it is told.
"""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ft_assets.core.errors import FineTuneError
from ft_assets.worker import varlen
from ft_assets.worker.packing import refuse_bleeding

CUDA = torch.cuda.is_available()


def _one_by_one(query: Any, key: Any, value: Any, starts: Any, ends: Any, *_: Any, scale: float, **options: Any) -> Any:
    assert options["window_size"] == (-1, 0)
    assert torch.equal(starts, ends)
    out = []
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        part = [states[start:end].transpose(0, 1) for states in (query, key, value)]
        attended = torch.nn.functional.scaled_dot_product_attention(*part, is_causal=True, scale=scale, enable_gqa=True)
        out.append(attended.transpose(0, 1))
    return torch.cat(out)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> LlamaForCausalLM:
    if not CUDA:
        monkeypatch.setattr(varlen, "varlen_attn", _one_by_one)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2, attn_implementation=varlen.register(),
    )  # fmt: skip
    made = LlamaForCausalLM(config)
    return made.to("cuda", torch.bfloat16) if CUDA else made


@pytest.mark.parametrize("rows", [1, 2])
def test_packed_conversations_do_not_see_each_other(model: LlamaForCausalLM, rows: int) -> None:
    refuse_bleeding(model, rows)


def test_the_probe_sees_it_when_they_do(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = varlen._Boundaries()
    monkeypatch.setattr(varlen, "_boundaries", lambda positions: whole(torch.arange(positions.numel())[None]))
    with pytest.raises(FineTuneError, match="see another"):
        refuse_bleeding(model, 1)


def test_logits_are_those_of_sdpa(model: LlamaForCausalLM) -> None:
    ids = torch.arange(20, device=model.device)[None]
    positions = torch.tensor([[*range(12), *range(8)]], device=model.device)
    found = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    model.set_attn_implementation("sdpa")
    right = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(found, right, rtol=1e-4, atol=0.05 if CUDA else 1e-4)


def test_a_mask_is_refused() -> None:
    states = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="no mask"):
        varlen.attend(torch.nn.Module(), states, states, states, torch.ones(1, 3), torch.arange(3)[None])
