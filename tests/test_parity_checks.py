"""A file that is broken after it was written stops the graph by the check that is there for it, and nothing after it is made."""

import os
from pathlib import Path

import pytest
from conftest import ROOT, Workshop, make_tiny_model, open_workshop

pytestmark = pytest.mark.graph
BREAKING = ROOT / "tests" / "breaking"


def stopped(shop: Workshop, asset: str, check: str, **broken: str) -> str:
    """What ``ft run`` says of a run in which ``asset`` is broken and fails ``check``."""
    places = os.pathsep.join(filter(None, [str(BREAKING), os.environ.get("PYTHONPATH", "")]))
    shop.env |= {"PYTHONPATH": places, "BREAK_STAGE": asset} | {f"BREAK_{name}": to for name, to in broken.items()}
    done = shop.ft("run", "tiny", "--until", "eval_report", code=3)
    told = done.stdout + done.stderr
    assert check in told
    return told


def test_a_merge_with_one_transposed_tensor_is_not_quantized(made: Workshop, tmp_path: Path) -> None:
    shop = made.copy(tmp_path)
    for stage in ("merged_model", "quantized_model", "evaluation", "eval_report"):
        shop.forget(stage)
    told = stopped(shop, "merged_model", "merge_parity", TENSOR="layers.1.self_attn.q_proj.weight", HOW="transposed")
    assert "weight_error" in told
    assert "layers.1.self_attn.q_proj.weight" in told
    assert not (shop.home / "store" / "artifacts" / "quantized_model").exists()


@pytest.mark.slow
def test_an_int8_file_with_wrong_scales_is_not_evaluated(made: Workshop, tmp_path: Path) -> None:
    shop = made.copy(tmp_path)
    for stage in ("quantized_model", "evaluation", "eval_report"):
        shop.forget(stage)
    told = stopped(shop, "quantized_model", "quantize_parity", TENSOR="layers.0.mlp.down_proj.SCB")
    assert "layers.0.mlp.down_proj.weight" in told
    assert not (shop.home / "store" / "artifacts" / "eval_report").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "tensor"), [("nf4", "layers.0.mlp.down_proj.weight.absmax"), ("gguf_q8_0", "blk.0.attn_v.weight")]
)
def test_a_broken_form_is_not_evaluated(tmp_path: Path, form: str, tensor: str) -> None:
    make_tiny_model(tmp_path / "base", merges=[("i", "n"), ("e", "r")], width=64)
    (tmp_path / "shop").mkdir()
    shop = open_workshop(tmp_path / "shop", tmp_path / "base")
    shop.edit("quantize: [int8]", f"quantize: [{form}]")
    assert "quantize_parity" in stopped(shop, "quantized_model", "quantize_parity", TENSOR=tensor)


def test_a_form_that_the_base_model_cannot_have_is_refused_with_the_plan(made: Workshop, tmp_path: Path) -> None:
    shop = made.copy(tmp_path)
    shop.edit("quantize: [int8]", "quantize: [int8, gguf_q8_0]")
    for words, code in ((("plan", "tiny"), 2), (("run", "tiny"), 1)):
        done = shop.ft(*words, code=code)
        assert "cannot be written as GGUF: its tokenizer" in " ".join((done.stdout + done.stderr).split())
    assert shop.status()["sft_adapter"]["status"] == "made", "which was made before; nothing was trained again"
