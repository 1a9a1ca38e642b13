"""A model folder as one GGUF file, with its tokenizer and chat template, written by llama.cpp's own ``gguf`` library.

One tensor is in memory at a time. Which models it can be: :mod:`ft_assets.core.gguf`. Layout and names are those of llama.cpp's
``convert_hf_to_gguf.py`` (version b8200 of its ``conversion`` folder), which no package brings along in a form to rely on.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import (
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
    LlamaFileType,
    TokenType,
    get_tensor_name_map,
    quant_shape_to_byte_shape,
    quants,
)
from safetensors import safe_open

from ft_assets.core.errors import FineTuneError
from ft_assets.core.gguf import ARCHITECTURES, check_gguf, head_width, rope
from ft_assets.worker.tokenizer import load_tokenizer

FILE = "model.gguf"
TYPES = {
    "gguf_f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "gguf_q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "gguf_q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
# What every token goes through is kept in 8 bits where the rest has 4, as llama.cpp does with 6.
KEPT_IN_8_BITS = ("token_embd.weight", "output.weight")
BLOCK = 32  # numbers that share a scale, in each of these types


def export(folder: Path, file: Path, form: str) -> None:
    """Writes ``form`` of the model in ``folder``.

    Raises:
        FineTuneError: the architecture, the tokenizer or a tensor has no place in a GGUF file; or a weight is too large for
            16 bits.
    """
    cuts = check_gguf(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = ARCHITECTURES[config["model_type"]]
    writer = GGUFWriter(file, architecture)
    writer.add_file_type(TYPES[form][1])
    writer.add_quantization_version(2)
    _describe(writer, config)
    _add_tokenizer(writer, folder, config["vocab_size"], cuts)
    names = _tensor_names(folder, architecture, config)
    types: dict[str, GGMLQuantizationType] = {}
    for name, _, shape in _headers(folder):
        if name in names:
            kind = types[name] = _type(names[name], shape, form)
            size = int(np.prod(quant_shape_to_byte_shape(shape, kind)))
            # As bytes or as numbers, whichever the library then writes the shape from.
            writer.add_tensor_info(names[name], shape, np.dtype(np.float32), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, path, _ in _headers(folder):
        if name in names:
            with safe_open(path, framework="pt") as weights:
                tensor = weights.get_tensor(name).float()
            if architecture == "llama":
                tensor = _permuted(names[name], tensor, config)
            writer.write_tensor_data(_packed(name, tensor.numpy(), types[name]))
    writer.close()


def _describe(writer: GGUFWriter, config: dict[str, Any]) -> None:
    width = head_width(config)
    writer.add_name("model")  # of what is written alike the file is alike, whoever trained it
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config.get("num_key_value_heads") or config["num_attention_heads"])
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(rope(config)[1])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer: GGUFWriter, folder: Path, size: int, cuts: str) -> None:
    tokenizer = load_tokenizer(folder)
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, kinds = [], []
    for number in range(size):
        tokens.append(by_id.get(number, f"[PAD{number}]"))  # a row of the embedding that no token has
        if number not in by_id:
            kinds.append(TokenType.UNUSED)
        elif number in added:
            kinds.append(TokenType.CONTROL if added[number].special else TokenType.USER_DEFINED)
        else:
            kinds.append(TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cuts)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    for name, add in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("unk", writer.add_unk_token_id),
        ("pad", writer.add_pad_token_id),
    ):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None:
            add(number)
    first = tokenizer("a")["input_ids"][0]
    writer.add_add_bos_token(first == tokenizer.bos_token_id and tokenizer.bos_token_id is not None)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _tensor_names(folder: Path, architecture: str, config: dict[str, Any]) -> dict[str, str]:
    """llama.cpp's name of each tensor that a file is to hold."""
    kind = next(number for number, name in MODEL_ARCH_NAMES.items() if name == architecture)
    known = get_tensor_name_map(kind, config["num_hidden_layers"])
    names = {}
    for name, _, _ in _headers(folder):
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        found = known.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise FineTuneError(
                f"{folder}: a GGUF file of {architecture} has no place for {name}; leave the gguf forms out"
            )
        names[name] = found
    return names


def _headers(folder: Path) -> Iterator[tuple[str, Path, tuple[int, ...]]]:
    """Name, file and shape of each tensor."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            for name in sorted(weights.keys()):
                yield name, path, tuple(weights.get_slice(name).get_shape())


def _type(name: str, shape: tuple[int, ...], form: str) -> GGMLQuantizationType:
    wanted = TYPES[form][0]
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    if wanted is GGMLQuantizationType.F16 or shape[-1] % BLOCK:
        return GGMLQuantizationType.F16
    return GGMLQuantizationType.Q8_0 if name in KEPT_IN_8_BITS else wanted


def _permuted(name: str, tensor: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """Queries and keys of a llama: its rotary embedding turns neighbours, that of transformers the two halves of a head."""
    heads = config["num_attention_heads"]
    if ".attn_k." in name:
        heads = config.get("num_key_value_heads") or heads
    elif ".attn_q." not in name:
        return tensor
    rows = len(tensor)
    return tensor.reshape(heads, 2, rows // heads // 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def _packed(name: str, tensor: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    if kind is GGMLQuantizationType.F32:
        return np.ascontiguousarray(tensor)
    if kind is GGMLQuantizationType.F16:
        largest = float(np.abs(tensor).max())
        if not largest <= float(np.finfo(np.float16).max):
            raise FineTuneError(f"{name} holds {largest:.3g}, which 16 bits of a GGUF file cannot; leave gguf_f16 out")
    return np.ascontiguousarray(quants.quantize(tensor, kind))
