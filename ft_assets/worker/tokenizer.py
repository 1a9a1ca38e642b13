"""Loading a base model's tokenizer; without torch, which tokenizing does not need."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from ft_assets.core.errors import FineTuneError


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a base model, padding on the left.

    Raises:
        FineTuneError: it has no pad token.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        raise FineTuneError(f"{folder}: the tokenizer has no pad token; set pad_token in its tokenizer_config.json")
    return tokenizer
