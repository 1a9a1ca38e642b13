"""What of a model a GGUF file holds: the architectures and tokenizers that the exporter knows, told before anything trains.

Names are those of llama.cpp: ``general.architecture`` and ``tokenizer.ggml.pre``.
"""

import json
from pathlib import Path
from typing import Any

from ft_assets.core.errors import FineTuneError

# The model_type of a config.json, and what llama.cpp calls it: it runs a Mistral as a llama.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
FORMS = ("gguf_f16", "gguf_q8_0", "gguf_q4_0")
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# How a tokenizer.json cuts a text before it merges bytes, and llama.cpp's name for the same.
LLAMA_3, QWEN = f"{_WORDS}{{1,3}}{_REST}", f"{_WORDS}{_REST}"


def check_gguf(folder: Path) -> str:
    """llama.cpp's name of the way the tokenizer of a model cuts texts.

    Raises:
        FineTuneError: the exporter does not know the architecture, or the tokenizer; it says what is in the way.
    """
    config = _read(folder / "config.json")
    why = _in_the_way(config)
    if why is None:
        name = _pre_tokenizer(_read(folder / "tokenizer.json"))
        if name is not None:
            return name
        why = "its tokenizer is no byte-level BPE with merges that cuts texts as GPT-2, SmolLM, Llama 3 or Qwen do"
    raise FineTuneError(f"quantize: {folder} cannot be written as GGUF: {why}; leave the gguf forms out")


def rope(config: dict[str, Any]) -> tuple[str, float]:
    """Type and base frequency of the rotary embedding, in whichever of its two places a ``config.json`` has them."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = found.get("rope_type", found.get("type", "default"))
    return kind, float(found.get("rope_theta", config.get("rope_theta", 10_000.0)))


def head_width(config: dict[str, Any]) -> int:
    """Numbers in one attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _in_the_way(config: dict[str, Any]) -> str | None:
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        return f"its model_type is {kind!r}, and the exporter knows {', '.join(ARCHITECTURES)}"
    if rope(config)[0] != "default":
        # llama.cpp would follow it, transformers would load the file without it and say nothing.
        return f"its rotary embedding is scaled ({rope(config)[0]})"
    if config.get("hidden_act", "silu") != "silu":
        return f"its hidden_act is {config['hidden_act']}"
    if config.get("mlp_bias") or (config.get("attention_bias") and kind != "qwen2"):
        return "its linear layers have a bias"
    windowed = config.get("use_sliding_window", kind == "mistral") and config.get("sliding_window")
    if windowed:
        return f"its attention has a sliding window of {config['sliding_window']} tokens"
    if kind == "qwen2" and head_width(config) * config["num_attention_heads"] != config["hidden_size"]:
        return "its heads are not as wide together as hidden_size"
    if kind == "qwen3" and head_width(config) != 128:  # transformers reads a Qwen 3 so, whatever its file says
        return f"its heads are {head_width(config)} wide, not 128"
    return None


def _pre_tokenizer(tokenizer: dict[str, Any]) -> str | None:
    """llama.cpp's name for what a ``tokenizer.json`` does before it merges; None where it has none."""
    model, before = tokenizer.get("model") or {}, tokenizer.get("pre_tokenizer") or {}
    if model.get("type") != "BPE" or model.get("byte_fallback") or not model.get("merges"):
        return None
    steps = before.get("pretokenizers", []) if before.get("type") == "Sequence" else [before]
    if any(step.get("type") == "Digits" and not step.get("individual_digits") for step in steps):
        return None
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    kinds = [step["type"] for step in steps]
    if steps[-1].get("use_regex", True):
        return {("ByteLevel",): "gpt-2", ("Digits", "ByteLevel"): "smollm"}.get(tuple(kinds))
    if kinds == ["Split", "ByteLevel"] and steps[0].get("behavior") == "Isolated" and not steps[0].get("invert"):
        return {LLAMA_3: "llama-bpe", QWEN: "qwen2"}.get(steps[0]["pattern"].get("Regex"))
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FineTuneError(
            f"quantize: {path} is not there, and a GGUF file is made from it; leave the gguf forms out"
        ) from error
    return found
