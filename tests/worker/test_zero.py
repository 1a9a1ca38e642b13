"""Two real ranks over gloo: whatever ZeRO stage holds the states, the model that comes out is the one a single process makes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from splitting import Splitter
from training import EXECUTION, LORA, PLACEMENT, School, losses, settings
from transformers import AutoModelForCausalLM

from ft_assets.core.errors import FineTuneError
from ft_assets.worker.zero import deepspeed_config


# What two ranks make is made once, for all tests of one process.
def marked(test):
    for mark in (pytest.mark.graph, pytest.mark.slow, pytest.mark.xdist_group("ranks")):
        test = mark(test)
    return test


TESTS = Path(__file__).parent.parent
FULL = {"method": "full"}
# Two ranks add gradients in another order than one process does; twenty steps carry that on.
LOSS_TOLERANCE = 1e-3
RECIPES = {
    "sft-full": ("sft_adapter", settings(FULL, sft={})),
    "sft-lora": ("sft_adapter", settings(LORA, sft={})),
    "reward-lora": ("reward_model", settings(LORA, sft={}, reward={})),
    "classifier-lora": ("classifier", settings(LORA, classifier={})),
    "dpo-full": ("policy", settings(FULL, sft={}, policy={"method": "dpo", "beta": 0.1})),
    "dpo-lora": ("policy", settings(LORA, sft={}, policy={"method": "dpo", "beta": 0.1})),
}
CASES = {
    "sft-full, ZeRO 0": {},
    "sft-full, ZeRO 1": {"zero_stage": 1},
    "sft-full, ZeRO 2": {"zero_stage": 2},
    "sft-full, ZeRO 3": {"zero_stage": 3},
    "sft-full, ZeRO 2, offload": {"zero_stage": 2, "offload_optimizer": "cpu"},
    "sft-full, ZeRO 3, offload": {"zero_stage": 3, "offload_optimizer": "cpu", "offload_param": "cpu"},
    "sft-full, ZeRO 2, checkpointing": {"zero_stage": 2, "activation_checkpointing": True},
    "sft-lora, ZeRO 1": {"zero_stage": 1},
    "sft-lora, ZeRO 3": {"zero_stage": 3},
    "reward-lora, ZeRO 2": {"zero_stage": 2},
    "reward-lora, ZeRO 3": {"zero_stage": 3},
    "classifier-lora, ZeRO 2": {"zero_stage": 2},
    "classifier-lora, ZeRO 3": {"zero_stage": 3},
    "dpo-full, ZeRO 3": {"zero_stage": 3},
    "dpo-lora, ZeRO 2": {"zero_stage": 2},
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory, tiny_base):
    """What one process makes of each recipe."""
    folder = tmp_path_factory.mktemp("alone")
    found = {}
    for name, (stage, own) in RECIPES.items():
        found[name] = School(Splitter(folder, tiny_base, own), {}).train(stage)
    return folder, found


@pytest.fixture(scope="module")
def together(alone, tmp_path_factory, tiny_base):
    """What two ranks make of each case, in stores that hold all but the case's own artifact."""
    requests, places = [], {}
    for case, placement in CASES.items():
        recipe = case.partition(",")[0]
        stage, own = RECIPES[recipe]
        folder = tmp_path_factory.mktemp("together")
        (folder / "store").mkdir()
        for part in ("artifacts", "refs"):
            if (alone[0] / "store" / part).is_dir():
                subprocess.run(["cp", "-r", alone[0] / "store" / part, folder / "store" / part], check=True)
        school = School(Splitter(folder, tiny_base, own), {})
        made = school.stages()[stage]
        subprocess.run(["rm", "-r", folder / "store" / "artifacts" / stage / made.fingerprint], check=True)
        spread = {**PLACEMENT, "processes": 2, "micro_batch": 1, **placement}
        store = {"url": str(folder / "store"), "local": str(folder / "store")}
        places[case] = (school.splitter, stage, made.fingerprint)
        requests.append(folder / "request.json")
        requests[-1].write_text(
            json.dumps(
                made.request()
                | {"execution": EXECUTION | {"placement": spread}, "store": store}
                | {"progress": str(folder / "progress.jsonl"), "cache": str(folder / "cache")}
            )
        )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    ranks = TESTS / "ranks.py"
    done = subprocess.run([*command, str(ranks), *map(str, requests)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return {case: splitter.store.open(stage, digest) for case, (splitter, stage, digest) in places.items()}


@marked
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_learn_what_one_process_learns(alone, together, case):
    recipe = case.partition(",")[0]
    one, two = losses(alone[1][recipe]), losses(together[case])
    assert len(two) == len(one)
    np.testing.assert_allclose(two, one, atol=LOSS_TOLERANCE)


@marked
@pytest.mark.parametrize("case", CASES)
def test_the_weights_are_gathered_whole(alone, together, case):
    one = alone[1][case.partition(",")[0]]
    [file] = [name for name in one.manifest.files if name.endswith(".safetensors")]
    model = one.folder / "config.json"
    options = {"framework": "pt"} if model.is_file() else {}
    expected, found = (_weights(each.file(file), **options) for each in (one, together[case]))
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor, atol=0.02 if options else 2e-3, err_msg=name)


def _weights(file, framework="np"):
    if framework == "np":
        return load_file(file)
    from safetensors.torch import load_file as load_bfloat16

    return {name: tensor.float().numpy() for name, tensor in load_bfloat16(file).items()}


@marked
def test_a_model_gathered_from_ranks_answers_as_plain_transformers_loads_it(together):
    model = AutoModelForCausalLM.from_pretrained(together["sft-full, ZeRO 3"].folder, dtype=torch.float32)
    with torch.inference_mode():
        assert torch.isfinite(model(input_ids=torch.tensor([[1, 40, 50]])).logits).all()


@marked
@pytest.mark.parametrize("case", [case for case in CASES if "ZeRO 0" not in case])
def test_the_configuration_lies_beside_the_artifact(together, case):
    zero = together[case].json("deepspeed.json")["zero_optimization"]
    wanted = CASES[case]
    assert zero["stage"] == wanted["zero_stage"]
    for name in ("offload_optimizer", "offload_param"):
        assert (name in zero) == (wanted.get(name, "none") != "none")


def configured(splitter, override, **placement):
    school = School(splitter, {})
    splitter.settings = settings(sft={})
    spread = {**PLACEMENT, "processes": 2, "zero_stage": 2, **placement}
    job = splitter.job(school.stages()["sft_adapter"], {**EXECUTION, "placement": spread, "deepspeed": override})
    return deepspeed_config(job, "cpu", torch.float32)


def test_an_override_is_merged_into_what_the_placement_gives(splitter):
    made = configured(splitter, {"zero_optimization": {"overlap_comm": True}, "steps_per_print": 5})
    assert made["zero_optimization"]["overlap_comm"] is True
    assert made["zero_optimization"]["stage"] == 2
    assert made["steps_per_print"] == 5
    assert made["gradient_clipping"] == 1.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"zero_optimization": {"overlap_com": True}}, "zero_optimization.overlap_com is True"),
        ({"zero_optimization": {"reduce_bucket_size": "big"}}, "zero_optimization.reduce_bucket_size is 'big'"),
    ],
)
def test_an_override_that_deepspeed_would_pass_over_is_refused(splitter, override, message):
    with pytest.raises(FineTuneError, match=message):
        configured(splitter, override)
