"""Models that should say the same are compared on rows of the recipe, and a broken one shows."""

from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from ft_assets.assets.quantized_model import LEAST_AGREEMENT
from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.errors import MissingInput
from ft_assets.worker.job import Job
from ft_assets.worker.models import load_causal, quantization_config
from ft_assets.worker.parity import ROWS, compared, logits, prompts

SPLITS = ("tokenized_splits", "d" * 64)
PARTS = ("sft_validation", "sft_train", "cpt_validation", "cpt_train", "preference_train", "prompt_train")


def job_over(store: ArtifactStore, folder: Path) -> Job:
    return Job(
        stage="merged_model",
        fingerprint="e" * 64,
        code_version="1",
        identity={},
        upstream={},
        execution={"splits": list(SPLITS)},
        store=store,
        progress_file=folder / "progress.jsonl",
        cache=folder,
    )


def make_splits(store: ArtifactStore, rows: dict[str, int]) -> None:
    with store.write(*SPLITS, code_version="1", identity={}, upstream={}) as staging:
        for name in PARTS:
            column = "prompt_ids" if name.startswith("p") else "input_ids"
            ids = [[row, PARTS.index(name)] for row in range(rows.get(name, 0))]
            pl.DataFrame({column: ids}, schema={column: pl.List(pl.Int32)}).write_ipc_stream(
                staging.file(f"{name}/00000.arrow")
            )


def test_held_out_rows_come_first(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    make_splits(store, {"sft_validation": 20, "sft_train": 20})
    assert prompts(job_over(store, tmp_path)) == [[row, 0] for row in range(ROWS)]


@pytest.mark.parametrize("rows", [None, {}])
def test_without_rows_the_merge_stops(tmp_path: Path, rows: dict[str, int] | None) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    if rows is not None:
        make_splits(store, rows)
    with pytest.raises(MissingInput, match="tokenized_splits dddddddddddd"):
        prompts(job_over(store, tmp_path))


@pytest.mark.parametrize("form", ["nf4", "int8"])
@pytest.mark.parametrize("fault", [None, "scales of another model", "scales in another order"])
def test_a_quantized_file_with_wrong_scales_says_something_else(tmp_path, form, fault):
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=259, **shape))
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:  # sharp enough to prefer one token, and each row on a scale of its own
                weights.mul_(6.0 * (1 + torch.rand(len(weights), 1)))
    model.save_pretrained(tmp_path / "whole")
    quantized = load_causal(
        tmp_path / "whole", torch.float32, quantization_config=quantization_config(form, torch.float32)
    )
    quantized.save_pretrained(tmp_path / form)
    file = tmp_path / form / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if name.endswith((".absmax", ".SCB")) and fault is not None:
            tensors[name] = tensor.flip(0) if fault == "scales in another order" else torch.ones_like(tensor)
    save_file(tensors, file, metadata={"format": "pt"})
    rows = torch.randint(3, 250, (4, 30), generator=torch.Generator().manual_seed(1)).tolist()
    found = compared(
        logits(load_causal(tmp_path / "whole", torch.float32), rows),
        logits(load_causal(tmp_path / form, torch.float32), rows),
    )
    assert (found["token_agreement"] >= LEAST_AGREEMENT) == (fault is None)
