"""Laws of rewards: those of a batch are what plain transformers gives row by row, on the tokens that the model was trained on."""

import pytest
import torch
from splitting import Splitter
from training import BATCHES, EXECUTION, School, settings
from transformers import AutoModelForSequenceClassification

from ft_assets.core.errors import FineTuneError
from ft_assets.core.stage import make_stage
from ft_assets.worker.rewards import conversations, rewards
from ft_assets.worker.tokenizer import load_tokenizer


def records_of(side):
    return [
        {"row_id": str(at), "messages": row["prompt"], "answer": row[side]}
        for at, row in enumerate(BATCHES["preference:p@1"])
    ]


def test_answers_are_judged_as_row_by_row_and_as_in_training(tmp_path, tiny_base):
    school = School(Splitter(tmp_path, tiny_base, settings(sft={}, reward={"learning_rate": 1e-2})), {})
    model = school.train("reward_model")
    stages, tokenizer = school.stages(), load_tokenizer(tiny_base)
    request = make_stage("rewarded", {}, {"reward_model": ("reward_model", stages["reward_model"].fingerprint)})
    job = school.splitter.job(request, {**EXECUTION, "batch_size": 7})
    found = {side: rewards(job, tokenizer, records_of(side)) for side in ("chosen", "rejected")}
    plain = AutoModelForSequenceClassification.from_pretrained(model.folder, dtype=torch.float32).eval()
    trained_on = {row["row_id"]: row for row in school.splits().rows("preference")}
    for side, judged in found.items():
        ids = conversations(tokenizer, records_of(side))
        seen = [row["prompt_ids"] + row[f"{side}_ids"] + row["suffix_ids"] for row in trained_on.values()]
        assert sorted(ids) == sorted(seen)
        with torch.inference_mode():
            alone = [float(plain(torch.tensor([row])).logits) for row in ids]
        assert judged == pytest.approx(alone, abs=1e-4)
    assert sum(a > b for a, b in zip(found["chosen"], found["rejected"], strict=True)) > 0.9 * len(found["chosen"])
    assert rewards(job, tokenizer, []) == []


def test_a_reward_that_is_no_number_names_its_row(tmp_path, tiny_base):
    folder = tmp_path / "reward"
    broken = AutoModelForSequenceClassification.from_pretrained(tiny_base, num_labels=1, pad_token_id=0)
    broken.score.weight.data.fill_(float("inf"))
    broken.save_pretrained(folder)
    splitter = Splitter(tmp_path, tiny_base)
    with splitter.store.write("reward_model", "r", code_version="1", identity={}, upstream={}) as staging:
        for path in folder.iterdir():
            staging.file(path.name).write_bytes(path.read_bytes())
    request = make_stage("rewarded", {}, {"reward_model": ("reward_model", "r")})
    job = splitter.job(request, {**EXECUTION, "batch_size": 2})
    with pytest.raises(FineTuneError, match="the reward of row 0 is"):
        rewards(job, load_tokenizer(tiny_base), records_of("chosen")[:3])
