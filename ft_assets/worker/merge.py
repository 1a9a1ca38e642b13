"""Stage ``merged_model``: the last adapter folded into the base weights, checked against adapter-on-base."""

import torch

from ft_assets.worker import parity
from ft_assets.worker.hardware import pick_device
from ft_assets.worker.job import Job
from ft_assets.worker.models import load_causal, load_trained, without_peft
from ft_assets.worker.tokenizer import load_tokenizer


def run(job: Job) -> None:
    device = pick_device(job.execution["device"])
    base = job.input("base_model")
    adapter = job.input("adapter") if job.has("adapter") else None
    tokenizer = load_tokenizer(base.folder)
    rows = parity.prompts(job)
    with job.commit() as staging:
        job.progress("merging the adapter into the base weights")
        # Folded in float32, then rounded once to the base's bfloat16.
        adapted = load_trained(base, adapter, torch.float32).to(device)
        before = parity.logits(adapted, rows)
        without_peft(adapted).to(torch.bfloat16).save_pretrained(staging.folder)
        tokenizer.save_pretrained(staging.folder)
        job.progress("checking the merged weights against adapter on base")
        after = parity.logits(load_causal(staging.folder, torch.float32).to(device), rows)
        staging.metrics = {"parity": parity.compared(before, after), "parity_rows": len(rows)}
