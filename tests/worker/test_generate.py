"""Batched generation says what row-by-row generation says, and how sure it was."""

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ft_assets.core.errors import FineTuneError
from ft_assets.worker.generate import generate, room, shared_prefix, up_to_end
from ft_assets.worker.tokenizer import load_tokenizer

MOST = 12
SHARED = "<|start|>system\nAnswer in one word, and be quick about it.<|end|>\n"
# Of many lengths, in no order, one twice.
PROMPTS = [
    f"<|start|>user\n{'word ' * (at % 7)}{at}<|end|>\n<|start|>assistant\n" for at in (3, 1, 12, 5, 6, 13, 1, 20, 9)
]


@pytest.fixture(scope="module")
def sharp(tiny_base):
    """A tiny model whose answers depend on what it reads and end after different numbers of tokens."""
    torch.manual_seed(3)
    tokenizer = load_tokenizer(tiny_base)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2, **shape)
    ).eval()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.mul_(25.0)
    model.generation_config.eos_token_id = list(range(2, 24))  # a list, as that of some models
    return model, tokenizer


def one_by_one(model, tokenizer, prompts, most=MOST):
    """transformers' own generate on one prompt after another: text, tokens and mean probability of each answer."""
    found = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=most,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        tokens = made.sequences[0, ids.shape[1] :].tolist()
        chances = [
            torch.softmax(logits[0].float(), -1)[token].item()
            for logits, token in zip(made.logits, tokens, strict=True)
        ]
        found.append((tokenizer.decode(tokens, skip_special_tokens=True), len(tokens), sum(chances) / len(chances)))
    return found


def batched(model, tokenizer, prompts, batch_size, most=MOST):
    return generate(model, tokenizer, prompts, most, batch_size, lambda done: None)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
@pytest.mark.parametrize("prefix", ["", SHARED])
def test_a_batch_says_what_each_row_alone_does(sharp, batch_size, prefix):
    model, tokenizer = sharp
    prompts = [prefix + prompt for prompt in PROMPTS]
    alone = one_by_one(model, tokenizer, prompts)
    found = batched(model, tokenizer, prompts, batch_size)
    assert [answer.text for answer in found] == [text for text, _, _ in alone]
    assert [answer.answer_tokens for answer in found] == [count for _, count, _ in alone]
    assert [answer.confidence for answer in found] == pytest.approx([chance for _, _, chance in alone], abs=1e-4)
    assert [answer.prompt_tokens for answer in found] == [len(tokenizer(text)["input_ids"]) for text in prompts]


def test_what_is_compared_there_has_answers_that_differ_and_end_at_different_places(sharp):
    alone = one_by_one(*sharp, PROMPTS)
    assert len({text for text, _, _ in alone}) > 3
    assert len({count for _, count, _ in alone}) > 2
    assert min(count for _, count, _ in alone) < MOST


def test_an_end_token_that_is_also_the_pad_token_ends_an_answer_once(sharp):
    model, tokenizer = sharp
    tokenizer = AutoTokenizer.from_pretrained(tokenizer.name_or_path, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    alone = one_by_one(model, tokenizer, PROMPTS)
    found = batched(model, tokenizer, PROMPTS, 32)
    assert [(answer.text, answer.answer_tokens) for answer in found] == [(text, count) for text, count, _ in alone]


def test_an_answer_ends_with_any_of_the_end_tokens():
    assert up_to_end([5, 6, 2, 0, 0], {2, 9}) == 3
    assert up_to_end([5, 9, 2], {2, 9}) == 2
    assert up_to_end([5, 6], {2}) == 2


def test_the_same_prompt_twice_leaves_each_a_token_of_its_own(sharp):
    model, tokenizer = sharp
    found = batched(model, tokenizer, [SHARED, SHARED], 32)
    assert found[0].text == found[1].text == one_by_one(model, tokenizer, [SHARED])[0][0]
    assert shared_prefix([list(range(40))] * 2) == list(range(39))


def test_progress_counts_finished_prompts(sharp):
    said = []
    generate(*sharp, PROMPTS, 2, 4, said.append)
    assert said == [4, 8, 9]


def test_a_prompt_that_leaves_no_room_for_its_answer_is_refused(sharp):
    model, tokenizer = sharp
    context = model.config.max_position_embeddings
    assert room(model, MOST) == context - MOST
    fits = "x" * (context - MOST)
    with pytest.raises(FineTuneError, match=rf"prompt 2 of 2 has {len(fits) + 1} tokens; .* holds {len(fits)}"):
        batched(model, tokenizer, ["x", fits + "x"], 32)
