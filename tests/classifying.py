"""What the tests of classifiers share: a recipe, rows whose label follows from a word, and a made-up encoder of two layers."""

from pathlib import Path
from typing import Any

WORDS = {
    "refund": "money",
    "invoice": "money",
    "price": "money",
    "crash": "fault",
    "error": "fault",
    "hello": "other",
    "thanks": "other",
}
RECIPE = """
name: tiny
base_model: base
seed: 5
data:
  max_length: 16
  overlong: truncate
  split: {validation: 0.1, test: 0.0}
  classification: [tickets]
  test: [tickets_test]
adapter: {method: full}
classifier: {learning_rate: 1.0e-3, global_batch_size: 2, num_train_epochs: 4}
evaluation: {metric: accuracy, bootstrap_samples: 200}
publish: {to: published/tiny}
hardware: {device: cpu, dtype: float32, threads_per_process: 1}
"""
SOURCES = """
sources:
  tickets: {kind: classification, location: data/tickets, format: classification, licence: CC0-1.0}
  tickets_test: {kind: classification, location: data/test, format: classification, licence: CC0-1.0}
"""
EVALUATION = {"metric": "accuracy"}


def tickets(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Texts that hold one of :data:`WORDS`, in turn, so that three of seven have the label ``money``."""
    words = list(WORDS)
    return [
        {"text": f"ticket {n} {words[n % len(words)]}", "label": WORDS[words[n % len(words)]]}
        for n in range(start, start + count)
    ]


def make_tiny_encoder(folder: Path) -> None:
    """A BERT of width 64 with random weights, saved as its makers do: with the head that guesses masked words, and so
    without a pooler. Its tokenizer knows the words of :func:`tickets`, and letters.
    """
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,?!"
    words = [*special, "ticket", *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    pieces = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )
    torch.manual_seed(0)
    BertForMaskedLM(
        BertConfig(
            vocab_size=len(words),
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
