"""Loading a base model's tokenizer; without torch, which tokenizing does not need."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from ft_assets.core.errors import FineTuneError


def whole_texts(tokenizer: Any, texts: list[str], max_length: int | None = None) -> list[list[int]]:
    """Tokens of each text with the special ones that the tokenizer puts around it, as a classifier reads it.

    Args:
        max_length: longer texts are cut to so many tokens; the special ones stay.
    """
    if not texts:
        return []
    cut = {} if max_length is None else {"truncation": True, "max_length": max_length}
    found: list[list[int]] = tokenizer(texts, return_attention_mask=False, **cut)["input_ids"]
    return found


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder, or of the GGUF file that is all there is in it; padding on the left.

    Raises:
        FineTuneError: it has no pad token.
    """
    file = next(folder.glob("*.gguf"), None)
    inside = {} if file is None else {"gguf_file": file.name}
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **inside)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        raise FineTuneError(f"{folder}: the tokenizer has no pad token; set pad_token in its tokenizer_config.json")
    return tokenizer
