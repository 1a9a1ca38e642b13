"""Stage ``quantized_model``: the merged model in each form of the recipe, in a folder of its own that is loaded as it is."""

from pathlib import Path
from typing import Any

import torch

from ft_assets.core.gguf import FORMS as GGUF_FORMS
from ft_assets.core.shape import weights_bytes
from ft_assets.worker import gguf_export, parity
from ft_assets.worker.hardware import pick_device, pick_dtype
from ft_assets.worker.job import Job
from ft_assets.worker.models import load_causal, load_form, quantization_config
from ft_assets.worker.tokenizer import load_tokenizer


def run(job: Job) -> None:
    merged = job.input("merged_model")
    device = pick_device(job.execution["device"])
    dtype = pick_dtype(device, job.execution["dtype"])
    sizes, compared = {"merged": weights_bytes(merged.folder)}, {}
    rows = parity.rows_of(job)
    expected = parity.logits(load_form(merged.folder, dtype).to(device), rows)
    with job.commit() as staging:
        for form in job.identity["formats"]:
            job.progress(f"quantizing to {form}")
            target = staging.folder / form
            target.mkdir()
            quantize(merged.folder, target, form, dtype)
            sizes[form] = weights_bytes(target)
            job.progress(f"checking {form} against the merged model")
            parity.freed()
            # As its users load it: what a file holds counts, not what was to be written.
            model = load_form(target, dtype).to(device)
            weights = parity.weight_error(model, merged.folder)
            compared[form] = parity.compared(rows, expected, parity.logits(model, rows)) | weights
            del model
        staging.metrics = {"size_bytes": sizes, "parity": compared, "parity_rows": len(rows)}


def quantize(folder: Path, target: Path, form: str, dtype: torch.dtype) -> None:
    """Writes a form of the model in ``folder``. ``dtype`` is what NF4 computes in, unless its user says otherwise."""
    if form in GGUF_FORMS:
        gguf_export.export(folder, target / gguf_export.FILE, form)
        return
    model: Any = load_causal(folder, dtype, quantization_config=quantization_config(form, dtype))
    model.save_pretrained(target)
    load_tokenizer(folder).save_pretrained(target)
