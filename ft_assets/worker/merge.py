"""Stage ``merged_model``: the last adapter folded into the base weights, checked against adapter-on-base."""

import torch

from ft_assets.core.errors import FineTuneError
from ft_assets.worker import parity
from ft_assets.worker.hardware import pick_device
from ft_assets.worker.job import Job
from ft_assets.worker.models import load_form, load_trained, without_peft
from ft_assets.worker.tokenizer import load_tokenizer


def run(job: Job) -> None:
    device = pick_device(job.execution["device"])
    base = job.input("base_model")
    adapter = job.input("adapter") if job.has("adapter") else None
    tokenizer = load_tokenizer(base.folder)
    rows = parity.rows_of(job)
    with job.commit() as staging:
        job.progress("merging the adapter into the base weights")
        # Folded in float32, then rounded once to the base's bfloat16.
        try:
            model = load_trained(base, adapter, torch.float32).to(device)
        except FineTuneError as error:
            raise FineTuneError(f"merge_parity: {error}") from error
        before = parity.logits(model, rows)
        model = without_peft(model).to(torch.bfloat16)
        model.save_pretrained(staging.folder)
        tokenizer.save_pretrained(staging.folder)
        written = parity.weight_error(model, staging.folder)
        del model
        parity.freed()
        job.progress("checking the merged weights against adapter on base")
        after = parity.logits(load_form(staging.folder, torch.float32).to(device), rows)
        staging.metrics = {"parity": parity.compared(rows, before, after) | written, "parity_rows": len(rows)}
