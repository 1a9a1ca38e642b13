"""Laws of prompt-only rows: kept whole with their tokens, never cut, never one of an evaluation set."""

import json

from splitting import HALF, TEST, talk, talks

SFT = {"sft:a@1": talks(1)}


def prompts(*asked):
    return [{"prompt": [{"role": "user", "content": text}], "label": ""} for text in asked]


def test_a_prompt_is_rendered_up_to_the_answer_and_kept_as_messages(splitter):
    made = splitter.make({"prompt:p@1": prompts("Why?"), **SFT, **TEST})
    [row] = made.rows("prompt")
    assert json.loads(row["prompt"]) == [{"role": "user", "content": "Why?"}]
    names = {"row_id", "prompt", "prompt_ids"}
    assert set(row) == names
    # The tiny tokenizer has a token for each byte and three special ones.
    assert len(row["prompt_ids"]) == 1 + len("user\nWhy?") + 1 + 1 + 1 + len("assistant\n")
    part = made.part("prompt")
    assert (part["tokens"], part["longest"], part["supervised_tokens"]) == (len(row["prompt_ids"]),) * 2 + (0,)


def test_a_prompt_that_is_too_long_is_dropped_and_never_cut(splitter):
    for overlong in ("drop", "truncate", "chunk"):
        made = splitter.make({"prompt:p@1": prompts("Why?", "x" * 300), **SFT, **TEST}, overlong=overlong)
        assert made.part("prompt")["dropped"] == {"too_long": 1}
        assert len(made.rows("prompt")) == 1
        assert made.accounts_for("prompt")


def test_prompts_that_repeat_or_are_evaluated_on_go(splitter):
    held_out = {"test:t@1": [talk("Held out?", "Yes.")]}
    made = splitter.make({"prompt:p@1": prompts("Why?", "why? ", "Held  out?", "How?"), **SFT, **held_out})
    assert made.part("prompt")["dropped"] == {"contamination": 1, "exact_duplicate": 1}
    assert made.accounts_for("prompt")


def test_prompts_are_split_as_other_rows_are(splitter):
    asked = [f"Question {n}?" for n in range(60)]
    rows = {"prompt:p@1": prompts(*asked), "sft:a@1": [talk(text, "A.") for text in asked], **TEST}
    made = splitter.make(rows, split=HALF)

    for part in ("train", "validation", "test"):
        assert made.part("prompt")["rows"][part] == made.part("sft")["rows"][part] > 0


def test_a_label_makes_no_other_prompt(splitter):
    rows = [{**prompts("Why?")[0], "label": label} for label in ("harmless", "harmful", "")]
    made = splitter.make({"prompt:p@1": rows, **SFT, **TEST})
    assert made.part("prompt")["dropped"] == {"exact_duplicate": 2}
