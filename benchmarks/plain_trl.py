"""The demo's SFT as a plain TRL script: what one would write without this project. Prints the training loop's seconds."""

import json
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset, concatenate_datasets
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

base, adapter, rows, validation, identity, micro_batch, dtype, out = sys.argv[1:9]
settings = json.loads(identity)
training = settings["training"]
torch.manual_seed(settings["seed"])
model = PeftModel.from_pretrained(
    AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype)), adapter, is_trainable=True
)


def dataset(folder: str) -> Dataset:
    shards = [Dataset.from_file(str(file)) for file in sorted(Path(folder).glob("*.arrow"))]
    return concatenate_datasets(shards).select_columns(["input_ids", "labels"])


trainer = SFTTrainer(
    model=model,
    processing_class=AutoTokenizer.from_pretrained(base),
    train_dataset=dataset(rows),
    eval_dataset=dataset(validation),
    args=SFTConfig(
        output_dir=out,
        per_device_train_batch_size=int(micro_batch),
        gradient_accumulation_steps=training["global_batch_size"] // int(micro_batch),
        learning_rate=training["learning_rate"],
        num_train_epochs=training["num_train_epochs"],
        warmup_steps=training["warmup_steps"],
        lr_scheduler_type=training["lr_scheduler_type"],
        seed=settings["seed"],
        use_cpu=True,
        bf16=False,
        max_length=None,
        packing=False,
        gradient_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        save_steps=10,
        save_total_limit=2,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
    ),
)
started = time.perf_counter()
trainer.train()
print(f"TRAIN_SECONDS {time.perf_counter() - started:.2f}")
trainer.evaluate()
trainer.save_model(f"{out}/final")
