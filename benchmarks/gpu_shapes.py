"""What ``make bench-gpu`` trains: models of real shapes with random weights, rows of random tokens, and what they cost."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, END, FIRST = 0, 1, 2
# Dense bf16 FLOP/s of a chip, from NVIDIA's data sheets (which print twice as much, with sparsity).
PEAK_FLOPS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}


@dataclass(frozen=True)
class Shape:
    """A Llama's shape, as its ``config.json`` has it."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    tied: bool

    @property
    def head(self) -> int:
        return 128 if self.hidden >= 3072 else 64

    @property
    def multiplied(self) -> int:
        """Parameters a token is multiplied with: all but the norms and the embedding, which is looked up."""
        attention = self.hidden * self.head * 2 * (self.heads + self.key_value_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate) + self.vocabulary * self.hidden

    def config(self) -> LlamaConfig:
        return LlamaConfig(
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            head_dim=self.head,
            vocab_size=self.vocabulary,
            tie_word_embeddings=self.tied,
            max_position_embeddings=8192,
            rms_norm_eps=1e-5,
            pad_token_id=PAD,
            bos_token_id=None,
            eos_token_id=END,
        )


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", 128, 384, 2, 2, 1, 1024, True),
        Shape("0.1B", 576, 1536, 30, 9, 3, 49152, True),  # SmolLM2-135M
        Shape("1B", 2048, 8192, 16, 32, 8, 128256, True),  # Llama-3.2-1B
        Shape("3B", 3072, 8192, 28, 24, 8, 128256, True),  # Llama-3.2-3B
        Shape("8B", 4096, 14336, 32, 32, 8, 128256, False),  # Llama-3.1-8B
    )
}


def flops_per_token(shape: Shape, method: str, context: float) -> float:
    """Model FLOP per token of text, forward and backward, without what checkpointing computes again.

    2 per parameter forward, 2 for the gradient of the activations, and 2 for that of the weights where they train (Kaplan et al.
    2020, arXiv 2001.08361): 6 for full, 4 for LoRA and QLoRA, whose adapter's own share is left out. Attention adds 12 * layers *
    heads * head width * context (Chowdhery et al. 2022, arXiv 2204.02311, appendix B), halved as half of it is masked.

    Args:
        context: length of the conversation that a token stands in, averaged over the tokens.
    """
    per_parameter = 6 if method == "full" else 4
    return per_parameter * shape.multiplied + 12 * shape.layers * shape.heads * shape.head * context / 2


def peak_flops() -> float | None:
    """Dense bf16 FLOP/s of the GPU at hand; None where there is none or it is not in the table."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((flops for chip, flops in PEAK_FLOPS.items() if chip in name), None)


def build_model(shape: Shape, device: str, dtype: torch.dtype, attention: str) -> LlamaForCausalLM:
    """Random weights, made on the device in their type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            config = shape.config()
            config._attn_implementation = attention
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.config.use_cache = False
    return model


def quantize_nf4(model: LlamaForCausalLM, device: str) -> None:
    """Puts the layers' linear weights into NF4 with double quantization, as loading with bitsandbytes does."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for parent in list(model.model.layers.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear:
                layer = Linear4bit(
                    child.in_features, child.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4",
                    device="meta",
                )  # fmt: skip
                layer.weight = Params4bit(child.weight.data, requires_grad=False, quant_type="nf4")
                setattr(parent, name, layer.to(device))
    model.is_loaded_in_4bit = True


def rows(shape: Shape, count: int, max_length: int, seed: int = 0) -> list[list[int]]:
    """Conversations of random tokens, the lengths as in chat data: log-normal, half of them under an eighth of ``max_length``
    (512 of 4,096), cut off there and at 16.
    """
    random = np.random.default_rng(seed)
    lengths = np.clip(random.lognormal(np.log(max_length / 8), 0.9, count).astype(int), 16, max_length)
    return [random.integers(FIRST, shape.vocabulary, length).tolist() for length in lengths]


def mean_context(lengths: Iterator[int]) -> float:
    """Length of the conversation a token stands in, averaged over the tokens."""
    found = np.fromiter(lengths, np.int64)
    return float((found**2).sum() / found.sum())


def no_text_tokenizer(shape: Shape) -> PreTrainedTokenizerFast:
    """A tokenizer that only knows which ids mean padding and end; the rows are ids already."""
    from tokenizers import Tokenizer, models

    words = {"<pad>": PAD, "<end>": END} | {f"w{number}": number for number in range(FIRST, FIRST + 8)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<end>")), pad_token="<pad>", eos_token="<end>"
    )
