"""Which tokens a conversation has and which of them are learned, written out by hand for three families of templates."""

import time

import pytest
from splitting import pair, talk
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ft_assets.core.errors import FineTuneError
from ft_assets.core.reasons import Reason, RowFault
from ft_assets.worker import template as bounds
from ft_assets.worker.prepare import tokenize
from ft_assets.worker.template import IGNORED, Template

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}{% if loop.first %}<|begin_of_text|>{% endif %}<|start_header_id|>{{ m['role'] }}"
    "<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
INST = (
    "{% if messages and messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + "
    "'\n<</SYS>>\n\n' %}{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] {{ system if loop.first else '' }}"
    "{{ m['content'] }} [/INST]{% else %} {{ m['content'] }} </s>{% endif %}{% endfor %}"
)
# An answer right after the prompt's last mark: a tokenizer must not put a space of its own between them.
TIGHT = INST.replace("{% else %} {{ m['content'] }} </s>", "{% else %}{{ m['content'] }}</s>")
SPECIAL = {
    "chatml": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama3": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "inst": ["<unk>", "<s>", "</s>"],
}


def byte_level(template, special, eos):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Tokenizer(models.BPE(vocab={word: at for at, word in enumerate([*special, *alphabet])}, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    return finished(bare, template, special, eos)


def sentencepiece(template, special, eos):
    """Puts a space before a text, as those of Llama 2 and Mistral do."""
    letters = ["\u2581", "\n", *map(chr, range(33, 127))]
    merges = [("\u2581", letter) for letter in "abcdefghijklmnopqrstuvwxyz"] + [("\u2581", "\u2581")]
    words = [*special, *letters, *("".join(merge) for merge in merges)]
    vocab = {word: at for at, word in enumerate(words)}
    bare = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    bare.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    return finished(bare, template, special, eos)


def finished(bare, template, special, eos):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, pad_token=special[0], eos_token=eos)
    tokenizer.add_special_tokens({"additional_special_tokens": [word for word in special if word != eos]})
    tokenizer.chat_template = template
    return tokenizer


FAMILIES = {
    "chatml": byte_level(CHATML, SPECIAL["chatml"], "<|im_end|>"),
    "chatml without its end as eos": byte_level(CHATML, SPECIAL["chatml"], "<|endoftext|>"),
    "llama3": byte_level(LLAMA3, SPECIAL["llama3"], "<|eot_id|>"),
    "inst": sentencepiece(INST, SPECIAL["inst"], "</s>"),
    "inst, tight": sentencepiece(TIGHT, SPECIAL["inst"], "</s>"),
}

SINGLE = talk("Q1?", "one")
MULTI = talk("Q1?", "one", "Q2?", "two")
TOLD = talk("Q1?", "one", "Q2?", "two", system="Be kind.")
CHATML_TEXTS = {
    "single": "<|im_start|>user\nQ1?<|im_end|>\n<|im_start|>assistant\n[one<|im_end|>]",
    "multi": "<|im_start|>user\nQ1?<|im_end|>\n<|im_start|>assistant\n[one<|im_end|>]\n"
    "<|im_start|>user\nQ2?<|im_end|>\n<|im_start|>assistant\n[two<|im_end|>]",
    "system": "<|im_start|>system\nBe kind.<|im_end|>\n"
    "<|im_start|>user\nQ1?<|im_end|>\n<|im_start|>assistant\n[one<|im_end|>]\n"
    "<|im_start|>user\nQ2?<|im_end|>\n<|im_start|>assistant\n[two<|im_end|>]",
}
# The text of each row, with what every answer has learned of it in brackets.
TEXTS = {
    "chatml": CHATML_TEXTS,
    "chatml without its end as eos": CHATML_TEXTS,
    "llama3": {
        "single": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nQ1?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[one<|eot_id|>]",
        "multi": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nQ1?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[one<|eot_id|>]"
        "<|start_header_id|>user<|end_header_id|>\n\nQ2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[two<|eot_id|>]",
        "system": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ1?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[one<|eot_id|>]"
        "<|start_header_id|>user<|end_header_id|>\n\nQ2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[two<|eot_id|>]",
    },
    "inst": {
        "single": "<s>~INST] Q1? ~/INST][ one </s>]",
        "multi": "<s>~INST] Q1? ~/INST][ one </s>]<s>~INST] Q2? ~/INST][ two </s>]",
        "system": "<s>~INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nQ1? ~/INST][ one </s>]<s>~INST] Q2? ~/INST][ two </s>]",
    },
}
TEXTS["inst, tight"] = {
    shape: text.replace("[ one </s>]", "[one</s>]").replace("[ two </s>]", "[two</s>]")
    for shape, text in TEXTS["inst"].items()
}
ROWS = {"single": SINGLE, "multi": MULTI, "system": TOLD}


def spans(marked):
    """The pieces of a marked text in turn, told and answered: ``a[b]c[d]`` is a, b, c, d. ``~`` stands for a bracket."""
    return [piece.replace("~", "[").replace("\0", "]") for piece in _pieces(marked)]


def _pieces(marked):
    marked = marked.replace("~INST]", "~INST\0").replace("~/INST]", "~/INST\0")
    return [piece for part in marked.split("[") for piece in part.split("]")][: 2 * marked.count("]")]


def made(family, row, loss_on="assistant"):
    [found] = tokenize([{"row_id": "x", **row}], "sft", Template(FAMILIES[family]), {"loss_on": loss_on})
    return found


def runs(tokenizer, row):
    """The learned and the other stretches of a row, decoded: ``[(is learned, text), ...]``."""
    found = []
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        assert label in (token, IGNORED)
        if not found or found[-1][0] != (label != IGNORED):
            found.append((label != IGNORED, []))
        found[-1][1].append(token)
    return [(learned, literally(tokenizer, ids)) for learned, ids in found]


def literally(tokenizer, ids):
    words = tokenizer.convert_ids_to_tokens(ids)
    if "\u2581" in tokenizer.get_vocab():
        return "".join(words).replace("\u2581", " ")
    special = set(tokenizer.all_special_tokens)
    return "".join(word if word in special else tokenizer.decode([at]) for word, at in zip(words, ids, strict=True))


@pytest.mark.parametrize("family", TEXTS)
@pytest.mark.parametrize("shape", ROWS)
def test_every_answer_is_learned_with_its_end_and_nothing_else(family, shape):
    pieces = spans(TEXTS[family][shape])
    expected = [(at % 2 == 1, piece) for at, piece in enumerate(pieces)]
    assert runs(FAMILIES[family], made(family, ROWS[shape])) == expected


@pytest.mark.parametrize("family", TEXTS)
@pytest.mark.parametrize("shape", ROWS)
def test_on_completion_the_last_answer_alone_is_learned(family, shape):
    *told, answer = spans(TEXTS[family][shape])
    expected = [(False, "".join(told)), (True, answer)]
    assert runs(FAMILIES[family], made(family, ROWS[shape], "completion")) == expected


@pytest.mark.parametrize("family", TEXTS)
@pytest.mark.parametrize("shape", ROWS)
def test_on_all_everything_is_learned(family, shape):
    expected = [(True, "".join(spans(TEXTS[family][shape])))]
    assert runs(FAMILIES[family], made(family, ROWS[shape], "all")) == expected


@pytest.mark.parametrize("family", TEXTS)
@pytest.mark.parametrize("shape", ROWS)
def test_the_tokens_are_those_of_the_whole_text(family, shape):
    """So is the prompt that a model is asked with; a tokenizer's own space before each piece would show here."""
    tokenizer = FAMILIES[family]
    whole = tokenizer("".join(spans(TEXTS[family][shape])), add_special_tokens=False)["input_ids"]
    assert made(family, ROWS[shape])["input_ids"] == whole


@pytest.mark.parametrize("family", TEXTS)
def test_a_pair_has_one_prompt_two_answers_and_what_follows_them(family):
    tokenizer = FAMILIES[family]
    row = pair("Q1?", "one", "two")
    [found] = tokenize([{"row_id": "x", **row}], "preference", Template(tokenizer), {})
    told, answer = spans(TEXTS[family]["single"])
    assert literally(tokenizer, found["prompt_ids"]) == told
    assert literally(tokenizer, found["chosen_ids"]) == answer
    assert literally(tokenizer, found["rejected_ids"]) == answer.replace("one", "two")
    assert literally(tokenizer, found["suffix_ids"]) == ("\n" if "chatml" in family else "")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_document_ends_with_the_end_token(family):
    tokenizer = FAMILIES[family]
    [found] = tokenize([{"row_id": "x", "text": "some words"}], "cpt", Template(tokenizer), {})
    assert found["input_ids"] == found["labels"]
    assert found["input_ids"][-1] == tokenizer.eos_token_id
    assert literally(tokenizer, found["input_ids"][:-1]).strip() == "some words"


@pytest.mark.parametrize("family", ["chatml", "llama3", "inst"])
@pytest.mark.parametrize("role", ["cpt", "sft", "preference"])
def test_a_special_token_that_is_spelt_out_sets_its_row_aside(family, role):
    for token in SPECIAL[family]:
        said = f"they wrote {token} there"
        rows = {
            "cpt": [{"text": said}],
            "sft": [talk(said, "one"), talk("Q", said)],
            "preference": [pair(said, "a", "b"), pair("Q", said, "b"), pair("Q", "a", said)],
        }[role]
        clean = {"cpt": {"text": "fine"}, "sft": SINGLE, "preference": pair("Q", "a", "b")}[role]
        *found, last = tokenize([*rows, clean], role, Template(FAMILIES[family]), {"loss_on": "assistant"})
        assert [one.reason for one in found] == [Reason.SPECIAL_TOKENS] * len(rows)
        assert all(token in str(one) for one in found)
        assert isinstance(last, dict)


def changed(template):
    tokenizer = byte_level(template, SPECIAL["chatml"], "<|im_end|>")
    return Template(tokenizer)


FAILING = "{% if 'bad' in messages[0]['content'] %}{{ FAIL }}{% endif %}" + CHATML


@pytest.mark.parametrize(
    "how",
    ["raise_exception('no such thing')", "1 / 0", "1 + 'a'", "nothing.at.all", "messages[0]['content'].nothing()"],
)
def test_a_row_the_template_fails_on_is_set_aside_and_the_others_are_unharmed(how):
    template = changed(FAILING.replace("FAIL", how))
    rows = [talk("fine", "one"), talk("bad", "two"), talk("fine too", "three", "more", "four")]
    good, bad, other = tokenize([{"row_id": "x", **row} for row in rows], "sft", template, {"loss_on": "assistant"})
    assert isinstance(bad, RowFault)
    assert bad.reason == Reason.TEMPLATE_FAILURE
    assert "the chat template fails" in str(bad)
    usual = Template(FAMILIES["chatml"])
    assert [good, other] == tokenize([rows[0], rows[2]], "sft", usual, {"loss_on": "assistant"})
    pairs = [pair("fine", "a", "b"), pair("bad", "a", "b")]
    fine, fault = tokenize(pairs, "preference", template, {})
    assert (type(fine), fault.reason) == (dict, Reason.TEMPLATE_FAILURE)


def test_a_template_that_loops_is_ended(monkeypatch):
    monkeypatch.setattr(bounds, "TEMPLATE_SECONDS", 0.3)
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    started = time.monotonic()
    with pytest.raises(FineTuneError, match=r"not done after 0.3 s; it may loop"):
        changed(loops + CHATML).segments([SINGLE["messages"]])
    assert time.monotonic() - started < 5


def test_a_template_that_grows_is_ended(monkeypatch):
    monkeypatch.setattr(bounds, "TEMPLATE_BYTES", 2**28)
    grows = "{% set n = namespace(x='x' * 1000000) %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
    with pytest.raises(FineTuneError, match="wants more than"):
        changed(grows + CHATML).segments([SINGLE["messages"]])


def test_a_template_that_changes_what_it_said_is_refused():
    forgets = "{% for m in messages[-2:] %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    with pytest.raises(FineTuneError, match=r"turn by turn.*Q1"):
        changed(forgets).segments([MULTI["messages"]])


def test_a_tokenizer_without_a_template_is_refused():
    tokenizer = byte_level(None, SPECIAL["chatml"], "<|im_end|>")
    with pytest.raises(FineTuneError, match="no chat template"):
        Template(tokenizer)
