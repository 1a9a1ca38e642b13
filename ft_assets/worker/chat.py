"""``python -m ft_assets.worker.chat REQUEST``: a talk with a model, on the terminal or through a pipe.

Each line of standard input is asked, each answer written to standard output as it comes. Ends with 0 at ``/quit`` or where the
input ends, with 2 for something the user can mend, with 130 where it is interrupted while it waits for a line.
"""

import json
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch
from transformers import StoppingCriteria, TextIteratorStreamer
from transformers.utils import logging

from ft_assets.core.errors import FineTuneError
from ft_assets.core.reasons import RowFault
from ft_assets.worker.asking import Asked, Prompt, open_asked
from ft_assets.worker.classify import probabilities
from ft_assets.worker.job import Job
from ft_assets.worker.tokenizer import whole_texts

HELP = "/reset forgets what was said, /quit leaves, Ctrl-C stops an answer"


def main(request: str) -> int:
    job = Job.of(json.loads(request))
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    live = sys.stdin.isatty() and sys.stdout.isatty()
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        if live:
            print(f"loading {job.execution['title']} ...", file=sys.stderr, flush=True)
        asked = open_asked(job)
        talk = _Labels(job, asked) if "max_length" in job.identity else _Talk(job, asked)
        if live:
            print(HELP, file=sys.stderr, flush=True)
        for line in _lines(live):
            if line == "/quit":
                break
            if line == "/reset":
                talk.reset()
            elif line:
                talk.ask(line)
    except FineTuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # nobody reads any more; Python would say so once again as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _lines(live: bool) -> Iterator[str]:
    if not live:
        yield from (line.strip() for line in sys.stdin)
        return
    import readline  # noqa: F401  (input() edits a line with it)

    while True:
        try:
            yield input("> ").strip()
        except EOFError:
            print()
            return


class _Talk:
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
        writing = _Writing(model, tokenizer, asked, self.most)
        pieces = []
        for piece in writing.pieces():
            pieces.append(piece)
            print(piece, end="", flush=True)
        print(flush=True)
        return "".join(pieces)


class _Writing:
    """An answer that another thread makes, so that Ctrl-C can end it between two tokens."""

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

    def _make(self, model: Any) -> None:
        try:
            with torch.inference_mode():
                model.generate(**self.settings)
        except Exception as error:  # noqa: BLE001  (raised again in the thread that waits)
            self.error = error
        finally:
            self.streamer.end()

    def pieces(self) -> Iterator[str]:
        self.thread.start()
        rest = iter(self.streamer)
        while True:
            try:
                piece = next(rest, None)
            except KeyboardInterrupt:
                self.stop.event.set()
                continue
            if piece is None:
                break
            yield piece
        self.thread.join()
        if self.error is not None:
            raise self.error


class _Stop(StoppingCriteria):
    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), dtype=torch.bool, device=input_ids.device)


class _Labels:
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
