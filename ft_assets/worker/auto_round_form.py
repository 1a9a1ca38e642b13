"""A model in 4 bits by AutoRound (https://arxiv.org/abs/2309.05516): how each weight is rounded is learned, block by block, from
rows that the model was trained on. Stored in GPTQ's layout under AutoRound's name, which transformers (with the ``auto-round``
package) and vLLM load.
"""

import shutil
from pathlib import Path
from typing import Any

import torch

from ft_assets.core.auto_round import group_size
from ft_assets.core.errors import FineTuneError
from ft_assets.core.shape import read_shape
from ft_assets.worker.models import load_causal
from ft_assets.worker.parity import Row
from ft_assets.worker.tokenizer import load_tokenizer

# The library's own defaults, and what they are measured with in its paper; rows are joined to blocks of so many tokens.
ITERATIONS, BLOCKS, BATCH, TOKENS = 200, 128, 8, 512


def check_installed() -> None:
    """
    Raises:
        FineTuneError: the library is not there.
    """
    try:
        import auto_round  # noqa: F401
    except ImportError as error:
        raise FineTuneError(
            "quantize: auto_round needs a package that this worker has not; install ft-assets[auto-round], or leave it out"
        ) from error


def export(folder: Path, target: Path, rows: list[Row], device: str, seed: int) -> None:
    """Writes the model in ``folder``, with its tokenizer, tuned on ``rows``."""
    from auto_round import AutoRound

    tokenizer = load_tokenizer(folder)
    blocks = _blocks(rows)
    # float32 on a CPU, where half the bits are not half the time.
    model = load_causal(folder, torch.bfloat16 if device == "cuda" else torch.float32)
    rounding: Any = AutoRound(
        model,
        tokenizer,
        scheme="W4A16",
        group_size=group_size(read_shape(folder)),
        iters=ITERATIONS,
        nsamples=len(blocks),
        seqlen=blocks[0].shape[1],
        batch_size=min(BATCH, len(blocks)),
        dataset=[{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in blocks],
        device_map=device,
        enable_torch_compile=False,
        seed=seed,
    )
    made = target / "made"
    rounding.quantize_and_save(str(made), format="auto_round")
    [config] = made.rglob("config.json")  # in a folder that the library names
    for path in config.parent.iterdir():
        path.rename(target / path.name)
    shutil.rmtree(made)
    tokenizer.save_pretrained(target)


def _blocks(rows: list[Row]) -> list[torch.Tensor]:
    """(1, tokens) each, all as long: the library passes over samples that are shorter than the rest."""
    joined = [number for row in rows for number in row.ids][: BLOCKS * TOKENS]
    length = min(TOKENS, len(joined))
    return [torch.tensor([joined[at : at + length]]) for at in range(0, len(joined) - length + 1, length)]
