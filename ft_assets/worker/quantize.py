"""Stage ``quantized_model``: the merged model in bitsandbytes' NF4 and int8, each a folder that transformers loads."""

from ft_assets.core.shape import weights_bytes
from ft_assets.worker import parity
from ft_assets.worker.hardware import pick_device, pick_dtype
from ft_assets.worker.job import Job
from ft_assets.worker.models import load_causal, quantization_config
from ft_assets.worker.tokenizer import load_tokenizer


def run(job: Job) -> None:
    merged = job.input("merged_model")
    device = pick_device(job.execution["device"])
    dtype = pick_dtype(device, job.execution["dtype"])
    sizes, compared = {"merged": weights_bytes(merged.folder)}, {}
    rows = parity.prompts(job)
    expected = parity.logits(load_causal(merged.folder, dtype).to(device), rows)
    with job.commit() as staging:
        for name in job.identity["formats"]:
            job.progress(f"quantizing to {name}")
            model = load_causal(merged.folder, dtype, quantization_config=quantization_config(name, dtype))
            target = staging.folder / name
            model.save_pretrained(target)
            load_tokenizer(merged.folder).save_pretrained(target)
            sizes[name] = weights_bytes(target)
            job.progress(f"checking {name} against the merged model")
            # As its users load it: what a file holds counts, not what was to be written.
            compared[name] = parity.compared(expected, parity.logits(load_causal(target, dtype).to(device), rows))
        staging.metrics = {"size_bytes": sizes, "parity": compared, "parity_rows": len(rows)}
