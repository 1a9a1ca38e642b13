"""What the slower tests share: one made-up tiny model, so that every stage really trains in seconds."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import containers as box
import psutil
import pytest
from buckets import bucket, server  # noqa: F401
from filelock import FileLock
from hub import hub  # noqa: F401
from splitting import Splitter

from ft_assets.core.read import read_records

if TYPE_CHECKING:
    from cluster import Cluster

ROOT = Path(__file__).parent.parent
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: more threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where the fault suite kills; the same number kills at the same points.
FAULT_SEED = int(os.environ.get("FT_FAULT_SEED") or random.randrange(10**6))


def pytest_report_header() -> str:
    return f"fault suite: FT_FAULT_SEED={FAULT_SEED}"


TINY_RECIPE = """
name: tiny
description: A made-up model of two layers, for tests.
base_model: base
seed: 5
data:
  max_length: 192
  overlong: drop
  split: {{validation: 0.1, test: 0.1}}
  cpt: [tiny_text]
  sft: [tiny_rows]
  preference: [tiny_pairs]
  test: [tiny_test]
adapter: {{method: lora, r: 4, lora_alpha: 8, lora_dropout: 0.0, target_modules: all-linear}}
cpt: {{learning_rate: 1.0e-3, global_batch_size: 2, num_train_epochs: 1}}
sft: {{learning_rate: 1.0e-3, global_batch_size: 2, num_train_epochs: 1}}
reward: {{learning_rate: 1.0e-3, global_batch_size: 2, num_train_epochs: 1, max_steps: 3}}
policy: {policy}
quantize: [int8]
evaluation:
  {{metric: entity_f1, few_shot: 1, retrieval: 1, memorization: 4, max_new_tokens: 4, bootstrap_samples: 100}}
gate: [candidate.entity_f1 >= 0, candidate not worse than incumbent at 95%]
publish: {{to: published/tiny}}
hardware: {hardware}
sources:
  tiny_text: {{kind: text, location: data/text, format: text, licence: CC0-1.0}}
  tiny_rows: {{kind: instruction, location: data/rows, format: alpaca, licence: CC0-1.0}}
  tiny_pairs: {{kind: preference, location: data/pairs, format: preference, licence: CC0-1.0}}
  tiny_test: {{kind: instruction, location: data/test, format: alpaca, licence: CC0-1.0}}
"""
DPO = "{method: dpo, beta: 0.1, learning_rate: 1.0e-3, global_batch_size: 2, num_train_epochs: 1, max_steps: 3}"
# float32, as chips differ in what they are fast in.
ONE_PROCESS = "{checkpoint_every_steps: 2, device: cpu, dtype: float32, threads_per_process: 1}"


@pytest.fixture
def cluster() -> "Iterator[Cluster]":
    """A Kubernetes cluster with an API server at ``cluster.url`` and a clock that stands still."""
    from cluster import Cluster  # and with it the kubernetes client, a second that only these tests are worth

    with Cluster() as made:
        yield made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share what takes long to make go to one process: another would make it too, or wait for it."""
    for item in items:
        shared = [found[-1] for found in item._fixtureinfo.name2fixturedefs.values()]
        workshop = any(each.argname == "made" and each.scope == "session" for each in shared)
        if item.get_closest_marker("xdist_group") is None and (workshop or any(s.scope == "module" for s in shared)):
            item.add_marker(pytest.mark.xdist_group("made" if workshop else item.module.__name__))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="record the runs of tests/worker/test_methods.py anew")


class Workshop:
    """A recipes folder with a tiny base model and data, and an ``ft`` command over a home of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.recipes = folder / "recipes"
        self.home = folder / "home"
        self.env = {
            **os.environ,
            "FT_HOME": str(self.home),
            "FT_RECIPES": str(self.recipes),
            "FT_WANDB": "disabled",
            "DAGSTER_HOME": str(self.home / "dagster_home"),
            "HF_HUB_OFFLINE": "1",
        }

    def write(self, rows: int = 40, policy: str = DPO, hardware: str = ONE_PROCESS) -> None:
        sentences = [
            (f"Person{i} lives in Place{i}.", {f"Person{i}": "person", f"Place{i}": "place"}) for i in range(rows)
        ]
        questions = [{"instruction": "List.", "input": text, "output": json.dumps(found)} for text, found in sentences]
        self.write_rows("rows/one.jsonl", questions[4:])
        self.write_rows("test/one.jsonl", questions[:4])
        self.write_rows(
            "text/one.jsonl", [{"text": text + " It is a place where a person can live."} for text, _ in sentences]
        )
        pairs = [
            {"prompt": f"List. {text}", "chosen": json.dumps(found), "rejected": "{}"}
            for text, found in sentences[4:20]
        ]
        self.write_rows("pairs/one.jsonl", pairs)
        (self.recipes / "tiny.yaml").write_text(TINY_RECIPE.format(policy=policy, hardware=hardware))

    def write_rows(self, name: str, rows: list) -> None:
        path = self.recipes / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def edit(self, old: str, new: str) -> None:
        path = self.recipes / "tiny.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "ft_assets.cli", *words]

    def ft(self, *words: str, code: int = 0) -> subprocess.CompletedProcess:
        done = subprocess.run(self.command(*words), env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=500)
        assert done.returncode == code, f"exit {done.returncode}, wanted {code}\n{done.stdout}\n{done.stderr}"
        return done

    def run(self, *words: str, code: int = 0) -> dict:
        """``ft run tiny --json``, as {(asset, partition): row} and the whole outcome under the key None."""
        return outcome_of(self.ft("run", "tiny", "--json", *words, code=code).stdout)

    def status(self) -> dict[str, dict]:
        states = json.loads(self.ft("status", "tiny", "--json").stdout)["tiny"]
        return {state["asset"]: state for state in states}

    def copy(self, folder: Path) -> "Workshop":
        """A workshop with the same recipes and artifacts, free to be changed."""
        for name in ("recipes", "home"):
            shutil.copytree(self.folder / name, folder / name, symlinks=True)
        return Workshop(folder)

    def forget(self, stage: str) -> None:
        shutil.rmtree(self.home / "store" / "artifacts" / stage)

    def start(self, *words: str) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(*words), env=self.env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def checkpoints(self) -> list[Path]:
        """Checkpoints saved in full by runs that have not finished."""
        return sorted((self.home / "store" / ".scratch").glob("*/checkpoints/checkpoint-*/signature.json"))

    def workers(self) -> list[psutil.Process]:
        """Worker processes of this workshop that are alive, ranks included."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = " ".join(process.info["cmdline"] or [])
            if "ft_assets.worker" in words and str(self.home) in words:
                found.append(process)
        return found

    def artifact(self, stage: str) -> Path:
        found = sorted((self.home / "store" / "artifacts" / stage).iterdir(), key=lambda path: path.stat().st_mtime)
        return found[-1]


def outcome_of(text: str) -> dict:
    outcome = json.loads(text)
    return {(row["asset"], row["partition"]): row for row in outcome["rows"]} | {None: outcome}


def make_tiny_model(folder: Path, merges: list[tuple[str, str]] | None = None, width: int = 32) -> None:
    """Two llama layers with random weights, and a byte-level tokenizer with a chat template.

    Args:
        merges: of two bytes each; without any the tokenizer cannot be written as GGUF.
        width: NF4 on a CPU wants 64 or more.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|pad|>", "<|start|>", "<|end|>"]
    words = [*special, *alphabet, *(left + right for left, right in merges or [])]
    bytes_only = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges or []))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, pad_token="<|pad|>", bos_token="<|start|>", eos_token="<|end|>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
    )
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_tiny_model(folder)
    return folder


@pytest.fixture
def splitter(tmp_path: Path, tiny_base: Path) -> Splitter:
    """Makes ``tokenized_splits`` in this process, in a store of this test's own."""
    return Splitter(tmp_path, tiny_base)


@pytest.fixture
def workshop(tmp_path: Path, tiny_base: Path) -> Workshop:
    """A workshop of this test's own."""
    return open_workshop(tmp_path, tiny_base)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Workshop:
    """A workshop in which the tiny recipe has been run to its end; tests that share it only read.

    Processes that test side by side share one: the first makes it, the others wait.
    """
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    folder = tmp_path_factory.mktemp("made") if alone else tmp_path_factory.getbasetemp().parent / "made"
    outcome = folder / "first.json"
    with FileLock(f"{folder}.lock"):
        if not outcome.is_file():
            folder.mkdir(exist_ok=True)
            outcome.write_text(open_workshop(folder, tiny_base).ft("run", "tiny", "--json").stdout)
    shop = Workshop(folder)
    shop.first = outcome_of(outcome.read_text())
    return shop


@pytest.fixture(scope="session")
def prepared(made: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A copy of the made workshop, in which tests put trainings of their own side by side."""
    return made.copy(tmp_path_factory.mktemp("prepared"))


def open_workshop(folder: Path, base: Path) -> Workshop:
    shop = Workshop(folder)
    shop.recipes.mkdir()
    (shop.recipes / "base").symlink_to(base)
    shop.write()
    return shop


@pytest.fixture
def read(tmp_path):
    """Writes bytes under a name and reads them as records."""

    def run(name, data):
        return list(read_records(box.written(tmp_path, name, data), name))

    return run
