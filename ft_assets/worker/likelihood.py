"""How likely a model finds given texts: expected answers, running text, and the choices of a question.

Every likelihood is the sum of the natural logarithms of the probabilities that the model, in one pass, gives each token
after those before it. A model with learned virtual tokens (``model.virtual_ids``) reads these before each text.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from ft_assets.worker.generate import room
from ft_assets.worker.template import IGNORED

# A longer text is read in windows, as it is where the model itself reaches less far.
WINDOW_TOKENS = 1024
# Logits held at once, in numbers of 4 bytes; a single row may take more.
MOST_LOGITS = 2**26

Row = dict[str, Any]
Labelled = tuple[list[int], list[int]]
Measured = TypeVar("Measured")


def answer_likelihoods(model: Any, rows: list[Labelled], batch_size: int, pad_token_id: int) -> list[tuple[float, int]]:
    """The negative log-likelihood, in nats, and the number of supervised tokens of each row, in the rows' order.

    Args:
        rows: (input ids, labels) of one length; labels of -100 do not count, nor does the first, which nothing comes before.
        batch_size: rows read together at most; fewer where their logits would take too much memory.
    """
    return read(model, rows, batch_size, pad_token_id, _sums)


def _sums(logits: torch.Tensor, labels: torch.Tensor) -> list[tuple[float, int]]:
    losses = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    ).double()
    return list(zip(losses.sum(1).tolist(), (labels != IGNORED).sum(1).tolist(), strict=True))


def read(
    model: Any,
    rows: list[Labelled],
    batch_size: int,
    pad_token_id: int,
    measure: Callable[[torch.Tensor, torch.Tensor], list[Measured]],
) -> list[Measured]:
    """What ``measure`` finds of each row, in the rows' order.

    Args:
        measure: takes the logits of a batch, of shape (rows, places, vocabulary), and the token that each of them is to tell,
            (rows, places), -100 where none is; gives one value a row.
    """
    virtual = list(getattr(model, "virtual_ids", []))
    whole = [([*virtual, *ids], [IGNORED] * len(virtual) + labels) for ids, labels in rows]
    order = sorted(range(len(whole)), key=lambda at: len(whole[at][0]))
    found: dict[int, Measured] = {}
    for together in _batches([len(whole[at][0]) for at in order], batch_size, model.config.vocab_size):
        chosen = order[together]
        found |= zip(chosen, measure(*_logits(model, [whole[at] for at in chosen], pad_token_id)), strict=True)
    return [found[at] for at in range(len(rows))]


def _batches(lengths: list[int], batch_size: int, vocabulary: int) -> list[slice]:
    """Rows, the shortest first, that are read together."""
    found, start = [], 0
    for end in range(1, len(lengths) + 1):
        full = end - start == batch_size
        if end == len(lengths) or full or (end + 1 - start) * lengths[end] * vocabulary > MOST_LOGITS:
            found.append(slice(start, end))
            start = end
    return found


def _logits(model: Any, rows: list[Labelled], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels wherever a row has a label. The last token of a row is not read, for nothing follows it."""
    longest = max(max(len(ids) for ids, _ in rows) - 1, 1)

    def filled(some: list[list[int]], value: int) -> torch.Tensor:
        return torch.tensor([(row + [value] * longest)[:longest] for row in some], device=model.device)

    ids = filled([row[:-1] for row, _ in rows], pad)
    mask = filled([[1] * max(len(row) - 1, 1) for row, _ in rows], 0)
    labels = filled([row[1:] for _, row in rows], IGNORED)
    # The head runs where a row of the batch has a label alone: over a large vocabulary the rest would cost more than the body.
    places = (labels != IGNORED).any(0).nonzero()[:, 0]
    with torch.inference_mode():
        output = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=places)
    return output.logits, labels[:, places]


def text_likelihoods(model: Any, tokenizer: Any, rows: list[Row], batch_size: int) -> list[Row]:
    """``{"row_id", "nll" (nats), "tokens", "bytes"}`` of each text, so that perplexity can be told by token and by byte; the
    latter compares models with other tokenizers.

    A text is read as lm-eval's ``loglikelihood_rolling`` reads it: every token counts once, the first after the token that
    begins a sequence (or ends one, where the tokenizer has no other). One that is longer than a window is read in windows
    that follow one another, the last of them drawn back to a full one::

        text      t0 t1 t2 t3 t4 t5 t6 t7 t8 t9      a window of 4 tokens
        window 1  <s> t0 t1 t2                       tells t0 to t3
        window 2  t3 t4 t5 t6                        tells t4 to t7
        window 3  t5 t6 t7 t8                        tells t8 and t9

    Args:
        rows: ``{"row_id", "text"}``.
    """
    reach = min(WINDOW_TOKENS, _reach(model))
    pieces: list[Labelled] = []
    owners: list[int] = []
    for at, row in enumerate(rows):
        for piece in windows(tokenizer(row["text"], add_special_tokens=False)["input_ids"], _start(tokenizer), reach):
            pieces.append(piece)
            owners.append(at)
    sums = [(0.0, 0)] * len(rows)
    for at, (nll, tokens) in zip(
        owners, answer_likelihoods(model, pieces, batch_size, tokenizer.pad_token_id), strict=True
    ):
        sums[at] = (sums[at][0] + nll, sums[at][1] + tokens)
    return [
        {"row_id": row["row_id"], "nll": nll, "tokens": tokens, "bytes": len(row["text"].encode())}
        for row, (nll, tokens) in zip(rows, sums, strict=True)
    ]


def windows(ids: list[int], start: int, reach: int) -> list[Labelled]:
    """Input ids and labels of the windows of a text, each of ``reach`` tokens at most, and so that each token has a label
    once. A window has an id more than it has tokens, for the last is told and not read.
    """
    found = []
    whole = [start, *ids]
    for first in range(0, len(ids), reach):
        end = min(first + reach, len(ids))
        begin = max(0, end - reach)
        told = whole[first + 1 : end + 1]
        found.append((whole[begin : end + 1], [IGNORED] * (first + 1 - begin) + told))
    return found


def _start(tokenizer: Any) -> int:
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def _reach(model: Any) -> int:
    """Tokens that a model has positions for, after its virtual ones."""
    most = room(model, 0)
    return WINDOW_TOKENS if most is None else max(1, most)


def choices(model: Any, tokenizer: Any, rows: list[Row], batch_size: int) -> list[Row]:
    """``{"row_id", "log_likelihoods", "choice", "expected"}`` of each question: log-likelihood in nats of each choice for a
    byte of its text, the index of the likeliest, and that of the right one.

    The convention is lm-eval's ``acc_norm`` (Gao et al., 2021, on length normalization; the task ``arc_easy``): the model
    reads ``Question: ...\\nAnswer:``, in no chat template, and each choice after a space; of equal ones the first is taken.
    lm-eval divides by characters, which are bytes where all is ASCII. No token is cut: a question that reaches farther than
    the model reads from its end.

    Args:
        rows: ``{"row_id", "question", "choices", "expected"}``, the last an index.
    """
    reach = _reach(model)
    labelled = [_choice(tokenizer, row["question"], choice, reach) for row in rows for choice in row["choices"]]
    likelihoods = iter(answer_likelihoods(model, labelled, batch_size, tokenizer.pad_token_id))
    found = []
    for row in rows:
        each = [-next(likelihoods)[0] / len(choice.encode()) for choice in row["choices"]]
        best = max(range(len(each)), key=each.__getitem__)
        found.append({"row_id": row["row_id"], "log_likelihoods": each, "choice": best, "expected": row["expected"]})
    return found


def _choice(tokenizer: Any, question: str, choice: str, reach: int) -> Labelled:
    """What is read and told of one choice; question and choice are tokenized together, as one text."""
    asked = f"Question: {question}\nAnswer:"
    begin = tokenizer("", add_special_tokens=True)["input_ids"][:1]
    before = [*(begin if begin == [tokenizer.bos_token_id] else []), *_ids(tokenizer, asked)]
    told = _ids(tokenizer, f"{asked} {choice}")[len(_ids(tokenizer, asked)) :]
    whole = [*before, *told][-(reach + 1) :]
    return whole, [IGNORED] * (len(whole) - len(told)) + told


def _ids(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found
