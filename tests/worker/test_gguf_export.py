"""A GGUF file says what the model says that it was made of, read by transformers and by llama.cpp, with its own tokenizer."""

from pathlib import Path

import pytest
import torch
from conftest import make_tiny_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from ft_assets.core.errors import FineTuneError
from ft_assets.worker.gguf_export import export
from ft_assets.worker.models import load_causal, load_form

FILE = "model.gguf"
MERGES = [("i", "n"), ("e", "r"), ("Ġ", "a"), ("t", "h"), ("th", "e")]
TEXTS = ("Where is the answer?", "<|start|>user\nHé, 1234 ¿qué?<|end|>\n", "  two spaces\tand a tab\n\n", "it's 🤖 in")
SHAPE = {
    "vocab_size": 300,  # more rows than the tokenizer has tokens
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama untied": LlamaConfig(**SHAPE, tie_word_embeddings=False, rope_theta=5e5, head_dim=32),
    "mistral": MistralConfig(**SHAPE, sliding_window=None, head_dim=16),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=128),
}
# Of 4 bits; the rest is of 8 and 16.
FURTHEST = {"gguf_f16": 1e-3, "gguf_q8_0": 0.05, "gguf_q4_0": 0.6}


def make(folder: Path, kind: str) -> Path:
    """A model of this architecture with weights that are sharp enough to tell, and the tiny model's tokenizer."""
    make_tiny_model(folder, merges=MERGES)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind])
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.mul_(6.0)
            else:  # biases, which are zero, and norms, which are one
                weights.add_(torch.rand_like(weights) * 0.3)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def ids(count: int) -> torch.Tensor:
    return torch.randint(3, 260, (1, count), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", CONFIGS)
def test_each_architecture_says_the_same_in_each_form(tmp_path: Path, kind: str) -> None:
    folder = make(tmp_path / "model", kind)
    with torch.inference_mode():
        expected = load_causal(folder, torch.float32)(input_ids=ids(40)).logits
        for form, furthest in FURTHEST.items():
            (tmp_path / form).mkdir()
            export(folder, tmp_path / form / FILE, form)
            found = load_form(tmp_path / form, torch.float32)(input_ids=ids(40)).logits
            assert float((found - expected).square().mean().sqrt() / expected.std()) < furthest


def test_two_files_of_one_model_are_alike(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "llama")
    for name in ("one", "two"):
        export(folder, tmp_path / name, "gguf_q8_0")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_tokenizer_and_chat_template_are_inside(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "llama")
    export(folder, tmp_path / FILE, "gguf_f16")
    own, read = (
        AutoTokenizer.from_pretrained(folder),
        AutoTokenizer.from_pretrained(tmp_path, gguf_file=FILE, local_files_only=True),
    )
    assert [read(text)["input_ids"] for text in TEXTS] == [own(text)["input_ids"] for text in TEXTS]
    assert read.chat_template == own.chat_template
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        assert getattr(read, name) == getattr(own, name)


def test_a_weight_too_large_for_16_bits_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "llama")
    model = load_causal(folder, torch.bfloat16)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 4] = 1e5
    model.save_pretrained(folder)
    with pytest.raises(FineTuneError, match=r"layers\.1\.mlp\.down_proj\.weight holds 9\.98e\+04.*leave gguf_f16 out"):
        export(folder, tmp_path / FILE, "gguf_f16")


def test_a_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "llama")
    file = folder / "model.safetensors"
    save_file(load_file(file) | {"model.layers.0.own.weight": torch.zeros(4, 4)}, file, metadata={"format": "pt"})
    with pytest.raises(FineTuneError, match=r"no place for model\.layers\.0\.own\.weight"):
        export(folder, tmp_path / FILE, "gguf_f16")


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("form", FURTHEST)
def test_llama_cpp_reads_the_same_tokens_and_says_the_same(tmp_path: Path, kind: str, form: str) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    folder = make(tmp_path / "model", kind)
    export(folder, tmp_path / FILE, form)
    own = AutoTokenizer.from_pretrained(folder)
    read = llama_cpp.Llama(str(tmp_path / FILE), n_ctx=128, logits_all=True, verbose=False, n_threads=2)
    for text in TEXTS:
        assert read.tokenize(text.encode(), add_bos=False, special=True) == own(text)["input_ids"]
    assert read.metadata["tokenizer.chat_template"] == own.chat_template
    given = ids(40)
    with torch.inference_mode():
        (tmp_path / "form").mkdir()
        (tmp_path / FILE).rename(tmp_path / "form" / FILE)
        expected = load_form(tmp_path / "form", torch.float32)(input_ids=given).logits[0]
    read.eval(given[0].tolist())
    found = torch.tensor(read.scores[: given.shape[1]])
    assert float((found - expected).square().mean().sqrt() / expected.std()) < 0.05
