"""Conversations as token ids, with the model's own chat template.

A training row, drawn (``*`` is a supervised token; everything else carries label -100)::

    <|im_start|> user \n question <|im_end|> \n <|im_start|> assistant \n   answer <|im_end|>
                                                                           ****** **********

Prompt and answer are tokenized apart, because at inference the prompt is tokenized alone.
"""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError

from ft_assets.core.errors import FineTuneError
from ft_assets.core.reasons import Reason, RowFault

IGNORED = -100
TEMPLATE_SECONDS = 60

Turns = list[dict[str, str]]


@dataclass(frozen=True)
class Segment:
    """A piece of a conversation; joined in order they are the whole."""

    text: str
    speaking: bool


class Template:
    """Renders and tokenizes many conversations at once."""

    def __init__(self, tokenizer: Any):
        if tokenizer.chat_template is None:
            raise FineTuneError("the base model's tokenizer has no chat template; use an instruction-tuned base")
        self.tokenizer = tokenizer

    def encode(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        if self.tokenizer.is_fast:  # All cores, and none of the offsets that nobody asks for.
            return [
                found.ids
                for found in self.tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            ]
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def render(self, conversations: list[Turns], add_generation_prompt: bool) -> list[str | RowFault]:
        """The template's text of each, in transformers' sandbox and within :data:`TEMPLATE_SECONDS` for all."""
        with _time_limit(TEMPLATE_SECONDS):
            try:
                return list(self._apply(conversations, add_generation_prompt))
            except TemplateError:
                return [self._render_one(turns, add_generation_prompt) for turns in conversations]

    def _render_one(self, turns: Turns, add_generation_prompt: bool) -> str | RowFault:
        try:
            return str(self._apply([turns], add_generation_prompt)[0])
        except TemplateError as error:
            return RowFault(Reason.TEMPLATE_FAILURE, f"the chat template fails: {error}"[:300])

    def _apply(self, conversations: list[Turns], add_generation_prompt: bool) -> list[str]:
        if not conversations:
            return []
        rendered: list[str] = self.tokenizer.apply_chat_template(
            conversations, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return rendered

    def segments(self, conversations: list[Turns]) -> list[list[Segment] | RowFault]:
        """Each conversation taken apart into what the assistant says and what it is told."""
        turns = [(row, at) for row, one in enumerate(conversations) for at, turn in enumerate(one) if _speaks(turn)]
        before = self.render([conversations[row][:at] for row, at in turns], add_generation_prompt=True)
        after = self.render([conversations[row][: at + 1] for row, at in turns], add_generation_prompt=False)
        found: list[list[Segment] | RowFault] = [[] for _ in conversations]
        done = [""] * len(conversations)
        for (row, _), start, end in zip(turns, before, after, strict=True):
            so_far = found[row]
            if isinstance(so_far, RowFault):
                continue
            fault = next((text for text in (start, end) if isinstance(text, RowFault)), None)
            if fault is not None:
                found[row] = fault
                continue
            assert isinstance(start, str), "faults were taken out"
            assert isinstance(end, str), "faults were taken out"
            if not start.startswith(done[row]) or not end.startswith(start):
                raise FineTuneError(
                    "the chat template does not extend a conversation turn by turn, so the assistant's tokens cannot be "
                    f"told from the rest; found on {json.dumps(conversations[row], ensure_ascii=False)[:300]}"
                )
            so_far += [Segment(start[len(done[row]) :], False), Segment(end[len(start) :], True)]
            done[row] = end
        return found

    def up_to_end(self, answer: list[int]) -> int:
        """How many tokens of an answer are the model's to write: up to and with its end of turn."""
        eos = self.tokenizer.eos_token_id
        return answer.index(eos) + 1 if eos in answer else len(answer)


def _speaks(turn: dict[str, str]) -> bool:
    return turn["role"] == "assistant"


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise FineTuneError(f"the chat template was not done after {seconds} s; it may loop")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
