"""A talk with a model: what is said so far, and answers that are written token by token."""

import signal
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import torch
from transformers import StoppingCriteria, TextIteratorStreamer
from transformers.utils import logging

from ft_assets.core.reasons import RowFault
from ft_assets.worker.asking import Asked, Prompt, open_asked
from ft_assets.worker.classify import probabilities
from ft_assets.worker.job import Job
from ft_assets.worker.tokenizer import whole_texts


def begin(job: Job) -> "Talk | Labels":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    asked = open_asked(job)
    return Labels(job, asked) if "max_length" in job.identity else Talk(job, asked)


class Talk:
    """A conversation with a model that writes, greedily, as it is measured."""

    def __init__(self, job: Job, asked: Asked):
        self.asked, self.most = asked, job.execution["max_new_tokens"]
        system = job.execution["system"]
        self.begin = [{"role": "system", "content": system}] if system else []
        self.reset()

    def reset(self) -> None:
        self.turns = list(self.begin)

    def ask(self, text: str) -> None:
        turns = [*self.turns, {"role": "user", "content": text}]
        [prompt] = self.asked.prompts([turns], self.most)
        if isinstance(prompt, RowFault):
            print(
                f"not asked: {prompt.reason.value}: {prompt} (/reset forgets what was said)",
                file=sys.stderr,
                flush=True,
            )
            return
        self.turns = [*turns, {"role": "assistant", "content": self._answer(prompt)}]

    def _answer(self, prompt: Prompt) -> str:
        """Writes an answer as it comes, and returns what was written of it."""
        model, tokenizer = self.asked.model, self.asked.tokenizer
        ids = tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
        asked = torch.tensor([[*getattr(model, "virtual_ids", ()), *ids]], device=model.device)
        pieces = []
        with _Writing(model, tokenizer, asked, self.most) as writing:
            for piece in writing.pieces():
                pieces.append(piece)
                print(piece, end="", flush=True)
        print(flush=True)
        return "".join(pieces)


class _Writing:
    """An answer that another thread makes, so that Ctrl-C, wherever it comes in this one, ends it between two tokens."""

    def __init__(self, model: Any, tokenizer: Any, asked: torch.Tensor, most: int):
        self.streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.stop = _Stop()
        self.error: BaseException | None = None
        self.settings = {
            "input_ids": asked,
            "attention_mask": torch.ones_like(asked),
            "max_new_tokens": most,
            "do_sample": False,
            "pad_token_id": tokenizer.pad_token_id,
            "streamer": self.streamer,
            "stopping_criteria": [self.stop],
        }
        self.thread = threading.Thread(target=self._make, args=[model], daemon=True)

    def __enter__(self) -> "_Writing":
        self.before = signal.signal(signal.SIGINT, lambda *_: self.stop.event.set())
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop.event.set()
        self.thread.join()
        signal.signal(signal.SIGINT, self.before)

    def _make(self, model: Any) -> None:
        try:
            with torch.inference_mode():
                model.generate(**self.settings)
        except Exception as error:  # noqa: BLE001  (raised again in the thread that waits)
            self.error = error
        finally:
            self.streamer.end()

    def pieces(self) -> Iterator[str]:
        yield from self.streamer
        if self.error is not None:
            raise self.error


class _Stop(StoppingCriteria):
    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), dtype=torch.bool, device=input_ids.device)


class Labels:
    """What a classifier makes of each line; it remembers none."""

    def __init__(self, job: Job, asked: Asked):
        self.asked, self.max_length = asked, job.identity["max_length"]

    def reset(self) -> None:
        pass

    def ask(self, text: str) -> None:
        model, tokenizer = self.asked.model, self.asked.tokenizer
        ids = whole_texts(tokenizer, [text], self.max_length)
        [shares] = probabilities(model, tokenizer, ids, 1, lambda _: None)
        ranked = sorted(enumerate(shares), key=lambda entry: -entry[1])
        print(", ".join(f"{model.config.id2label[at]} {share:.3f}" for at, share in ranked), flush=True)
