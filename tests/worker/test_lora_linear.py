"""LoRA in one function against PEFT's own: the same numbers, wherever it takes part, and PEFT's elsewhere."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from ft_assets.worker.lora_linear import fuse


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 20, bias=True), nn.Linear(20, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.nn.functional.silu(self.first(x)))


def _adapted(**options: object) -> nn.Module:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["first", "second"], init_lora_weights=False, **options)
    return get_peft_model(_Two(), config)


def _gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    x = torch.randn(3, 5, 12, requires_grad=True)
    model(x).square().sum().backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert x.grad is not None
    return {**found, "input": x.grad}


def test_output_and_gradients_are_those_of_peft() -> None:
    theirs, ours = _adapted(), _adapted()
    assert fuse(ours) == 2
    x = torch.randn(2, 7, 12)
    torch.testing.assert_close(ours(x), theirs(x))
    right, found = _gradients(theirs), _gradients(ours)
    assert set(found) == set(right)
    for name, gradient in right.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_gradients_arrive_in_the_type_of_the_adapter_under_autocast() -> None:
    model = _adapted()
    fuse(model)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(torch.randn(3, 12))
    assert out.dtype is torch.bfloat16
    out.float().sum().backward()
    assert all(weight.grad.dtype is torch.float32 for weight in model.parameters() if weight.grad is not None)


def test_a_disabled_adapter_does_nothing() -> None:
    model = _adapted()
    fuse(model)
    x = torch.randn(3, 12)
    with model.disable_adapter():
        torch.manual_seed(0)
        torch.testing.assert_close(model(x), _Two()(x))


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_dropout": 0.5}, {"lora_bias": True}])
def test_what_is_not_plain_stays_with_peft(options: dict[str, object]) -> None:
    assert fuse(_adapted(**options)) == 0


def test_an_nf4_weight_is_computed_as_bitsandbytes_does() -> None:
    from bitsandbytes.nn import Linear4bit, Params4bit

    def quantized() -> nn.Module:
        torch.manual_seed(0)
        model = nn.ModuleDict({"first": Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4")})
        model["first"].weight = Params4bit(torch.randn(64, 64), requires_grad=False, quant_type="nf4")
        model.is_loaded_in_4bit = True
        model.to("cpu")
        return get_peft_model(model, LoraConfig(r=4, target_modules=["first"], init_lora_weights=False))

    theirs, ours = quantized(), quantized()
    assert fuse(ours) == 1
    x = torch.randn(5, 64)
    layers = [model.base_model.model["first"] for model in (theirs, ours)]
    right, found = (layer(x) for layer in layers)
    torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-3)
    right.square().sum().backward()
    found.square().sum().backward()
    for side in ("lora_A", "lora_B"):
        grads = [getattr(layer, side)["default"].weight.grad for layer in layers]
        torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-2)
