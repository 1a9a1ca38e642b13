"""Conversations as token ids, with the model's own chat template.

A training row, drawn (``*`` is a supervised token; everything else carries label -100)::

    <|im_start|> user \n question <|im_end|> \n <|im_start|> assistant \n   answer <|im_end|>
                                                                           ****** **********

Prompt and answer are tokenized apart, because at inference the prompt is tokenized alone.
"""

import datetime
import faulthandler
import json
import re
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

from ft_assets.core.errors import FineTuneError
from ft_assets.core.reasons import Reason, RowFault

IGNORED = -100
# Bounds for rendering this many conversations.
TOGETHER = 64
TEMPLATE_SECONDS = 60
TEMPLATE_BYTES = 2 * 2**30
# What a template does wrong with one conversation; jinja passes Python's own errors on.
FAILURES = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError)

Turns = list[dict[str, str]]


@dataclass(frozen=True)
class Segment:
    """A piece of a conversation; joined in order they are the whole."""

    text: str
    speaking: bool


def rendered(tokenizer: Any, turns: Turns, add_generation_prompt: bool) -> str:
    """A conversation as the tokenizer's chat template writes it, on the same day every day: tokens must not depend on the
    date on which they were made.
    """
    return str(
        tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=add_generation_prompt, strftime_now=_fixed_date
        )
    )


def _fixed_date(form: str) -> str:
    """The day that Llama 3's template names where it is told none."""
    return datetime.date(2024, 7, 26).strftime(form)


class Template:
    """Renders and tokenizes many conversations at once."""

    def __init__(self, tokenizer: Any, chats: bool = True):
        if chats and tokenizer.chat_template is None:
            raise FineTuneError("the base model's tokenizer has no chat template; use an instruction-tuned base")
        self.tokenizer = tokenizer
        added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        special = sorted(added | set(tokenizer.all_special_tokens), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)) or r"(?!)")
        self._special_ids = set(tokenizer.all_special_ids) | set(tokenizer.convert_tokens_to_ids(sorted(added)))
        self._before = self._anchor()

    def special_token(self, texts: list[str]) -> str | None:
        """The first special token spelt out in one of the texts: it would become a real one."""
        found = next((hit for text in texts if (hit := self._special.search(text))), None)
        return found and found.group()

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Tokens of each text, as one that begins a conversation."""
        if not texts:
            return []
        if self.tokenizer.is_fast:  # All cores, and none of the offsets that nobody asks for.
            return [
                found.ids
                for found in self.tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            ]
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def encode_next(self, texts: list[str]) -> list[list[int]]:
        """Tokens of each text, as one that goes on after another."""
        if not self._before:
            return self.encode(texts)
        [before] = self.encode([self._before])
        found = self.encode([self._before + text for text in texts])
        apart = self.encode(texts)
        return [
            ids[len(before) :] if ids[: len(before)] == before else alone
            for ids, alone in zip(found, apart, strict=True)
        ]

    def _anchor(self) -> str:
        """What to put before a text that goes on, and take away again.

        Nothing, where the tokenizer adds nothing to the beginning of a text. SentencePiece's kind adds a space, which in
        the middle of a conversation nobody wrote.
        """
        joined = ["\nb c", "\n b c"]
        apart = [[*first, *second] for first, second in (self.encode(["\n", text[1:]]) for text in joined)]
        return "" if apart == self.encode(joined) else "\n"

    def render(self, conversations: list[Turns], add_generation_prompt: bool) -> list[str | RowFault]:
        """The template's text of each, in transformers' sandbox and within bounds."""
        return _bounded(conversations, lambda turns: self._render(turns, add_generation_prompt))

    def segments(self, conversations: list[Turns]) -> list[list[Segment] | RowFault]:
        """Each conversation taken apart into what the assistant says and what it is told."""
        return _bounded(conversations, self._segments)

    def _render(self, turns: Turns, add_generation_prompt: bool) -> str:
        try:
            return rendered(self.tokenizer, turns, add_generation_prompt)
        except FAILURES as error:
            raise RowFault(Reason.TEMPLATE_FAILURE, f"the chat template fails: {error}"[:300]) from error

    def _segments(self, turns: Turns) -> list[Segment]:
        found: list[Segment] = []
        done = ""
        for at, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            start, end = self._render(turns[:at], True), self._render(turns[: at + 1], False)
            if not start.startswith(done) or not end.startswith(start):
                raise FineTuneError(
                    "the chat template does not extend a conversation turn by turn, so the assistant's tokens cannot be "
                    f"told from the rest; found on {json.dumps(turns, ensure_ascii=False)[:300]}"
                )
            found += [Segment(start[len(done) :], False), Segment(end[len(start) :], True)]
            done = end
        return found

    def ends(self, answer: str) -> bool:
        """Whether one of the tokenizer's special tokens stands in an answer as the template writes it."""
        return any(token in self._special_ids for ids in self.encode([answer]) for token in ids)

    def up_to_end(self, answer: list[int]) -> int:
        """How many tokens of an answer are the model's to write: up to and with its end of turn.

        That is the end-of-sequence token, or else the last special one, as rows hold none of their own.
        """
        eos = self.tokenizer.eos_token_id
        if eos in answer:
            return answer.index(eos) + 1
        return next((at for at in range(len(answer), 0, -1) if answer[at - 1] in self._special_ids), len(answer))


def _bounded(conversations: list[Turns], work: Callable[[Turns], Any]) -> list[Any]:
    """``work`` on each conversation; the fault of one that fails stands in its place."""
    found: list[Any] = []
    for start in range(0, len(conversations), TOGETHER):
        with _limits():
            for turns in conversations[start : start + TOGETHER]:
                try:
                    found.append(work(turns))
                except RowFault as fault:
                    found.append(fault)
    return found


@contextmanager
def _limits() -> Iterator[None]:
    """Ends a template that loops, or grows without bound, with an error.

    A single operation that never ends cannot be interrupted; it ends the process, with a traceback, a little later.
    """

    def stop(*_: Any) -> None:
        raise FineTuneError(f"the chat template was not done after {TEMPLATE_SECONDS} s; it may loop")

    before, most = signal.signal(signal.SIGALRM, stop), resource.getrlimit(resource.RLIMIT_AS)
    signal.setitimer(signal.ITIMER_REAL, TEMPLATE_SECONDS)
    faulthandler.dump_traceback_later(1.5 * TEMPLATE_SECONDS, exit=True)
    if (held := _address_space()) is not None and most[0] == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_AS, (held + TEMPLATE_BYTES, most[1]))
    try:
        yield
    except MemoryError:
        raise FineTuneError(f"the chat template wants more than {TEMPLATE_BYTES / 2**30:.0f} GiB") from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, most)
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _address_space() -> int | None:
    """Bytes of address space this process holds; Linux alone says."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[0]) * resource.getpagesize() if status.is_file() else None
