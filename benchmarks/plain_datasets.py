"""The work of ``make bench-data`` as one would write it with datasets, datasketch and TRL. Prints what is left of the rows.

Validation, exact and MinHash de-duplication, decontamination, chat template and labels, best-fit packing.
"""

import hashlib
import json
import re
import sys
import time
import unicodedata

from datasets import Dataset, disable_progress_bars, load_dataset
from datasketch import MinHash, MinHashLSH
from transformers import AutoTokenizer
from trl import pack_dataset

train_file, test_file, base, cache, processes = sys.argv[1:6]
WORKERS = int(processes)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
SPECIAL = re.compile(r"<\|[a-zA-Z0-9_]{1,40}\|>")
SCHEME = MinHash(num_perm=126, seed=42).scheme
EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")
PHONE = re.compile(r"\+?\d[\d ().-]{7,}\d")
NGRAM, CONTAMINATION, MAX_LENGTH = 5, 13, 1024
disable_progress_bars()
started = last = time.perf_counter()


def step(name: str, rows: int) -> None:
    global last
    now = time.perf_counter()
    print(f"  plain: {name} {now - last:.1f} s, {rows:,} rows", flush=True)
    last = now


def valid(row: dict) -> bool:
    fields = [row.get(name) for name in ("instruction", "input", "output")]
    if not all(isinstance(field, str) for field in fields) or not fields[2].strip() or not fields[0].strip():
        return False
    text = "\n".join(fields)
    return not (CONTROL.search(text) or SPECIAL.search(text) or EMAIL.search(text) or PHONE.search(text))


def normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def whole(row: dict) -> str:
    return normal(f"{row['instruction']}\n{row['input']}\n{row['output']}")


def grams(text: str, n: int) -> list[str]:
    words = re.findall(r"\w+", text)
    return [" ".join(words[at : at + n]) for at in range(max(1, len(words) - n + 1))]


def sketch(row: dict) -> dict:
    minhash = MinHash(num_perm=126, seed=42)
    minhash.update_batch([gram.encode() for gram in grams(whole(row), NGRAM)])
    return {"minhash": minhash.hashvalues}


tokenizer = AutoTokenizer.from_pretrained(base)


def tokenize(rows: dict) -> dict:
    found: dict = {"input_ids": [], "labels": []}
    for instruction, context, output in zip(rows["instruction"], rows["input"], rows["output"], strict=True):
        turns = [{"role": "user", "content": f"{instruction}\n\n{context}"}, {"role": "assistant", "content": output}]
        asked = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
        both = tokenizer.apply_chat_template(turns, return_dict=False)
        found["input_ids"].append(both)
        found["labels"].append([-100] * len(asked) + both[len(asked) :])
    return found


rows = load_dataset("json", data_files=train_file, split="train", cache_dir=cache)
test = load_dataset("json", data_files=test_file, split="train", cache_dir=cache)
step("read", len(rows))
rows = rows.filter(valid, num_proc=WORKERS)
step("validate", len(rows))
keys = rows.map(lambda row: {"key": hashlib.sha256(whole(row).encode()).hexdigest()}, num_proc=WORKERS)["key"]
seen: set[str] = set()
rows = rows.select([at for at, key in enumerate(keys) if not (key in seen or seen.add(key))])
step("exact duplicates", len(rows))
held_out = {gram for row in test for gram in grams(whole(row), CONTAMINATION)}
rows = rows.filter(lambda row: held_out.isdisjoint(grams(whole(row), CONTAMINATION)), num_proc=WORKERS)
step("decontaminate", len(rows))
hashed = rows.map(sketch, num_proc=WORKERS).with_format("numpy")
index = MinHashLSH(threshold=0.8, num_perm=126)
kept = []
for at, values in enumerate(hashed["minhash"]):
    minhash = MinHash(num_perm=126, seed=42, hashvalues=values, scheme=SCHEME)
    if not index.query(minhash):
        index.insert(at, minhash)
        kept.append(at)
rows = rows.select(kept)
step("near-duplicates", len(rows))
tokens = rows.map(tokenize, batched=True, num_proc=WORKERS, remove_columns=rows.column_names)
step("tokenize", len(tokens))
packed: Dataset = pack_dataset(tokens, seq_length=MAX_LENGTH, strategy="bfd")
step("pack", len(packed))
print(json.dumps({"rows": len(tokens), "sequences": len(packed), "seconds": time.perf_counter() - started}))
