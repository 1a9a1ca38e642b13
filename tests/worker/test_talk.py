"""Laws of a talk: what was said is remembered, what cannot be asked is not, and Ctrl-C ends an answer and not the talk."""

import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from ft_assets.worker.asking import Asked
from ft_assets.worker.talk import Talk
from ft_assets.worker.tokenizer import load_tokenizer


class Writer:
    """Stands in for a model: writes a text token by token, as ``generate`` does."""

    device = "cpu"
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=200))

    def __init__(self, tokens, seconds=0.0, error=None):
        self.tokens, self.seconds, self.error = tokens, seconds, error

    def generate(self, input_ids, streamer, stopping_criteria, **_):
        streamer.put(input_ids)
        for token in self.tokens:
            input_ids = torch.cat([input_ids, torch.tensor([[token]])], 1)
            streamer.put(torch.tensor([token]))
            time.sleep(self.seconds)
            if self.error:
                raise self.error
            if stopping_criteria[0](input_ids, None).all():
                break


@pytest.fixture
def talk(tiny_base):
    tokenizer = load_tokenizer(tiny_base)

    def begin(text, **writer):
        model = Writer([*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id], **writer)
        job = SimpleNamespace(execution={"max_new_tokens": 50, "system": "Be brief."}, identity={})
        return Talk(job, Asked(model, tokenizer))

    return begin


def test_a_talk_is_remembered_until_it_is_reset(talk, capfd):
    own = talk("Hello there.")
    own.ask("hi")
    assert capfd.readouterr().out == "Hello there.\n"
    assert [turn["content"] for turn in own.turns] == ["Be brief.", "hi", "Hello there."]
    own.reset()
    assert [turn["role"] for turn in own.turns] == ["system"]


def test_what_cannot_be_asked_is_said_and_forgotten(talk, capfd):
    own = talk("Hello.")
    for text, reason in (("x" * 150, "too_long"), ("a <|end|> b", "special_tokens")):
        own.ask(text)
        said = capfd.readouterr()
        assert said.out == ""
        assert said.err.startswith(f"not asked: {reason}")
    assert [turn["role"] for turn in own.turns] == ["system"]


def test_an_interrupt_ends_the_answer_and_keeps_what_was_written(talk):
    own = talk("word " * 100, seconds=0.01)
    timer = threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    own.ask("hi")
    timer.join()
    said = own.turns[-1]["content"]
    assert said
    assert len(said) < len("word " * 100)


def test_an_interrupt_while_a_piece_is_shown_ends_the_answer_too(talk, monkeypatch):
    own, shown = talk("word " * 100, seconds=0.01), []

    def show(piece="", **_):
        shown.append(piece)
        if len(shown) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("builtins.print", show)
    own.ask("hi")
    assert "".join(shown) == own.turns[-1]["content"]
    assert 0 < len(own.turns[-1]["content"]) < len("word " * 100)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nothing_is_written_on_for_a_reader_that_is_gone(talk, monkeypatch):
    own = talk("word " * 100, seconds=0.01)
    monkeypatch.setattr("builtins.print", raise_broken_pipe)
    with pytest.raises(BrokenPipeError):
        own.ask("hi")
    assert [thread.name for thread in threading.enumerate() if "_make" in thread.name] == []


def test_an_interrupt_while_it_loads_ends_it_without_a_word():
    def ask_at_once():  # as a terminal might, before Python has started
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        os.kill(os.getpid(), signal.SIGINT)

    command = [sys.executable, "-m", "ft_assets.worker.chat", "{}"]
    done = subprocess.run(command, cwd=ROOT, preexec_fn=ask_at_once, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def raise_broken_pipe(*_, **__):
    raise BrokenPipeError


def test_what_goes_wrong_while_it_writes_is_raised(talk):
    with pytest.raises(RuntimeError, match="out of luck"):
        talk("x", error=RuntimeError("out of luck")).ask("hi")
