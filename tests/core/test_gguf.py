"""Which models can be a GGUF file is known before anything trains, and what is in the way is said."""

import json
from pathlib import Path

import pytest

from ft_assets.core.errors import FineTuneError
from ft_assets.core.gguf import LLAMA_3, QWEN, check_gguf, rope

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "hidden_act": "silu",
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
MERGING = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
DIGITS = {"type": "Digits", "individual_digits": True}
GPT_2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"


def split(pattern: str) -> dict:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def model(folder: Path, config: dict | None = None, before: dict | None = None, **tokenizer) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    words = {"type": "BPE", "merges": [["a", "b"]], **tokenizer}
    (folder / "tokenizer.json").write_text(json.dumps({"model": words, "pre_tokenizer": before or BYTES}))
    return folder


@pytest.mark.parametrize(
    ("before", "name"),
    [
        (BYTES, "gpt-2"),
        ({"type": "Sequence", "pretokenizers": [DIGITS, BYTES]}, "smollm"),
        ({"type": "Sequence", "pretokenizers": [split(LLAMA_3), MERGING]}, "llama-bpe"),
        ({"type": "Sequence", "pretokenizers": [split(QWEN), MERGING]}, "qwen2"),
    ],
)
def test_a_tokenizer_is_known_by_how_it_cuts_texts(tmp_path: Path, before: dict, name: str) -> None:
    assert check_gguf(model(tmp_path, before=before)) == name


def test_the_patterns_are_those_that_transformers_reads_a_file_with() -> None:
    mapping = pytest.importorskip("transformers.integrations.gguf.gguf_tokenizer_mapping")
    assert mapping.GGUF_PRE_TOKENIZER_SPLITS["llama-bpe"] == LLAMA_3
    assert mapping.GGUF_PRE_TOKENIZER_SPLITS["qwen2"] == QWEN


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "gemma2"}, "model_type is 'gemma2', and the exporter knows llama, mistral, qwen2, qwen3"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rotary embedding is scaled .llama3"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "scaled .linear"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu"),
        ({"attention_bias": True}, "have a bias"),
        ({"mlp_bias": True}, "have a bias"),
        ({"model_type": "mistral", "sliding_window": 4096}, "sliding window of 4096 tokens"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 512}, "sliding window of 512"),
        ({"model_type": "qwen2", "head_dim": 128}, "not as wide together as hidden_size"),
        ({"model_type": "qwen3", "head_dim": 64}, "64 wide, not 128"),
    ],
)
def test_an_architecture_that_has_no_place_is_refused(tmp_path: Path, config: dict, told: str) -> None:
    with pytest.raises(FineTuneError, match=f"{told}.*leave the gguf forms out"):
        check_gguf(model(tmp_path, config))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 4096},
        {"model_type": "mistral", "sliding_window": None},
        {"rope_parameters": None, "rope_theta": 5e5},
    ],
)
def test_a_window_that_is_not_used_is_in_nobodys_way(tmp_path: Path, config: dict) -> None:
    assert check_gguf(model(tmp_path, config)) == "gpt-2"


@pytest.mark.parametrize(
    ("before", "tokenizer"),
    [
        (None, {"type": "Unigram"}),
        (None, {"byte_fallback": True}),
        (None, {"merges": []}),
        (BYTES | {"add_prefix_space": True}, {}),
        ({"type": "Metaspace"}, {}),
        ({"type": "Sequence", "pretokenizers": [split("[a-z]+"), MERGING]}, {}),
        ({"type": "Sequence", "pretokenizers": [split(GPT_2), BYTES]}, {}),
        ({"type": "Sequence", "pretokenizers": [split(QWEN) | {"behavior": "Removed"}, MERGING]}, {}),
        ({"type": "Sequence", "pretokenizers": [DIGITS | {"individual_digits": False}, BYTES]}, {}),
        ({"type": "Sequence", "pretokenizers": []}, {}),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_cut_otherwise_is_refused(
    tmp_path: Path, before: dict, tokenizer: dict
) -> None:
    with pytest.raises(FineTuneError, match=r"byte-level BPE.*leave the gguf forms out"):
        check_gguf(model(tmp_path, before=before, **tokenizer))


def test_a_model_without_a_tokenizer_json_is_refused(tmp_path: Path) -> None:
    (model(tmp_path) / "tokenizer.json").unlink()
    with pytest.raises(FineTuneError, match=r"tokenizer\.json is not there"):
        check_gguf(tmp_path)


def test_the_base_frequency_is_found_in_either_place() -> None:
    assert rope({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}) == ("default", 5e5)
    assert rope({"rope_theta": 1e6, "rope_scaling": None}) == ("default", 1e6)
    assert rope({}) == ("default", 1e4)
