"""How far sound and broken files of the demo's embedded model are from what they were made of: what the limits of
``ft_assets/core/parity.py`` stand on.

Needs ``ft run demo --until tokenized_splits``. The adapter is made up, of the size of a trained one. ``--forms`` names the forms to make, ``--broken``
also breaks one tensor of the merged model after another, in the first, the middle and the last layer.
"""

import argparse
import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers.utils import logging as of_transformers

from ft_assets.core.parity import LIMITS, faults
from ft_assets.core.recipe_run import stages_of
from ft_assets.core.shape import weights_bytes
from ft_assets.worker import parity
from ft_assets.worker.models import load_causal, load_form, without_peft
from ft_assets.worker.quantize import quantize
from resources.environment import catalog, settings

SHOWN = ("weight_error", "logit_error", "kl_nats", "token_agreement", "perplexity_ratio")
LARGEST = 0.01  # spread of the adapter's second matrix, near what an epoch of the demo leaves
LEARNED = "auto_round"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    plain = [form for form in LIMITS if form not in ("merged", LEARNED)]
    parser.add_argument("--forms", nargs="*", default=plain, choices=plain)
    parser.add_argument("--broken", action="store_true")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    of_transformers.disable_progress_bar()
    found = settings()
    known = catalog(found)
    run = stages_of(known, known.recipe("demo"), found.open_store())
    rows = parity.rows_in(run.artifact("tokenized_splits"), parity.MOST_TOKENS, ("validation", "train"))
    print(f"{len(rows)} rows of {sum(len(row.ids) for row in rows)} tokens")
    with tempfile.TemporaryDirectory() as folder:
        measure(run.artifact("base_model").folder, Path(folder), rows, given)


def measure(base: Path, folder: Path, rows: list[parity.Row], given: argparse.Namespace) -> None:
    torch.manual_seed(0)
    model = get_peft_model(
        load_causal(base, torch.float32), LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
    )
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.normal_(0, LARGEST)
    before = parity.logits(model.eval(), rows)
    merged = folder / "merged"
    shutil.copytree(base, merged, ignore=shutil.ignore_patterns("*.safetensors", "manifest.json"))
    model = without_peft(model).to(torch.bfloat16)
    model.save_pretrained(merged)
    layers = model.config.num_hidden_layers
    del model
    sound = folder / "sound"
    shutil.copytree(merged, sound)
    show("merged", "merged", rows, before, merged, sound)
    if given.broken:
        for layer in (0, layers // 2, layers - 1):
            for part, how in (
                ("self_attn.q_proj", torch.t),
                ("self_attn.v_proj", torch.zeros_like),
                ("self_attn.o_proj", torch.t),
                ("mlp.down_proj", torch.zeros_like),
            ):
                break_tensor(sound, merged, f"model.layers.{layer}.{part}.weight", how)
                show(f"merged, {layer}.{part} {how.__name__}", "merged", rows, before, merged, sound)
    expected = parity.logits(load_form(sound, torch.float32), rows)
    for form in given.forms:
        (folder / form).mkdir()
        started = time.monotonic()
        quantize(sound, folder / form, form, torch.float32)
        told = f"{form}, {weights_bytes(folder / form) / 1e6:.0f} MB in {time.monotonic() - started:.0f} s"
        show(told, form, rows, expected, folder / form, sound)


def break_tensor(sound: Path, target: Path, name: str, how: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = load_file(sound / "model.safetensors")
    tensors[name] = how(tensors[name]).contiguous()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def show(
    title: str, form: str, rows: list[parity.Row], before: list[torch.Tensor], folder: Path, reference: Path
) -> None:
    model = load_form(folder, torch.float32)
    weights = parity.weight_error(model, reference)
    found: dict[str, Any] = parity.compared(rows, before, parity.logits(model, rows)) | weights
    verdict = "beyond its limits" if faults(form, found) else "within"
    print(f"{title:40}", "  ".join(f"{name} {found[name]:.4g}" for name in SHOWN), f" {verdict}", flush=True)


if __name__ == "__main__":
    main()
