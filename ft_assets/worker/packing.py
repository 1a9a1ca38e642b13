"""Training on packed sequences: several conversations in one row, none of which sees another.

A packed row of three conversations, and what the collator makes of it (``.`` is padding)::

    seq_lengths    3     2   4
    input_ids    a a a  b b  c c c c  .
    position_ids 0 1 2  0 1  0 1 2 3  0
    labels       - 1 1  - 1  - 1 1 1  -

Positions that begin anew are what tells transformers' attention kernels apart which tokens belong together; it reads them
where there is no attention mask and no cache. Whether a model really honours them is tried before it is trained.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from transformers import TrainerCallback

from ft_assets.core.errors import FineTuneError
from ft_assets.worker.template import IGNORED

PROBE = (([5, 9, 7, 8, 6], [11, 6, 5, 12]), ([8, 10, 5], [7, 12, 9], [6, 11]))
# Far above what another order of float additions does to a logit, far below what another context does.
PROBE_TOLERANCE = 0.05


class PackedCollator:
    """Rows of ``input_ids``, ``labels`` and, where packed, ``seq_lengths``, padded on the right to one length."""

    def __init__(self, pad_token_id: int):
        self.pad = {"input_ids": pad_token_id, "labels": IGNORED, "position_ids": 0}

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        columns: dict[str, list[list[int]]] = {name: [] for name in self.pad}
        for row in rows:
            lengths = row.get("seq_lengths") or [len(row["input_ids"])]
            positions = [position for length in lengths for position in range(length)]
            # The first token of a conversation would be learned from the end of the one before.
            labels = [IGNORED if not at else label for at, label in zip(positions, row["labels"], strict=True)]
            filled = {"input_ids": row["input_ids"], "labels": labels, "position_ids": positions}
            for name, values in filled.items():
                columns[name].append([*values, *[self.pad[name]] * (longest - len(values))])
        return {name: torch.tensor(values) for name, values in columns.items()}


class TryPacking(TrainerCallback):
    """Runs :func:`refuse_bleeding` when all is in its place: the model on its device, its weights with their ranks."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        refuse_bleeding(model, args.per_device_train_batch_size)


def refuse_bleeding(model: Any, rows: int) -> None:
    """Runs short conversations apart and packed.

    Args:
        rows: of a training batch; a kernel may read positions where there is one, and not where there are more.

    Raises:
        FineTuneError: the logits differ, so this model lets one packed conversation see another.
    """
    collate = PackedCollator(0)
    probe = PROBE[:rows]
    was_training = model.training
    model.eval()
    with torch.no_grad():  # ZeRO-3 gathers weights on the way, which inference mode would spoil for training
        together = _logits(model, collate([_row(conversations) for conversations in probe]))
        apart = [
            torch.cat([_logits(model, collate([_row([ids])]))[0] for ids in conversations]) for conversations in probe
        ]
    model.train(was_training)
    error = max(float((one - other[: len(one)]).abs().max()) for one, other in zip(apart, together, strict=True))
    if not error <= PROBE_TOLERANCE * max(float(logits.abs().max()) for logits in apart):
        kernel = getattr(model.config, "_attn_implementation", "unknown")
        raise FineTuneError(
            f"data.packing: with attention {kernel!r} and {rows} rows in a batch this model lets one packed conversation "
            f"see another (logits differ by {error:.3g}); set data.packing: false, or use another attention kernel"
        )


def _row(conversations: Sequence[list[int]]) -> dict[str, Any]:
    whole = [*chain.from_iterable(conversations)]
    return {"input_ids": whole, "labels": whole, "seq_lengths": [len(ids) for ids in conversations]}


def _logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    inputs = {name: values.to(model.device) for name, values in batch.items() if name != "labels"}
    return model(**inputs, use_cache=False).logits.float()
