"""Models that should say the same are compared on rows of the recipe, and a broken file shows, whichever form it has."""

import math
import shutil
from pathlib import Path

import gguf
import numpy as np
import polars as pl
import pytest
import torch
from conftest import make_tiny_model
from safetensors.torch import load_file, save_file
from splitting import Splitter
from training import BATCHES, EXECUTION, LORA, School, settings

from ft_assets.core.artifact import Artifact, ArtifactStore
from ft_assets.core.errors import FineTuneError, MissingInput
from ft_assets.core.parity import LIMITS, faults
from ft_assets.worker import auto_round_form, merge, parity, quantize
from ft_assets.worker.job import Job
from ft_assets.worker.models import load_form

SPLITS = ("tokenized_splits", "d" * 64)
PARTS = ("sft_validation", "sft_train", "cpt_validation", "cpt_train", "preference_train", "prompt_train")
FORMS = [form for form in LIMITS if form != "merged"]
FILE = "model.safetensors"


def job_over(store: ArtifactStore, folder: Path) -> Job:
    return Job(
        stage="merged_model",
        fingerprint="e" * 64,
        code_version="1",
        identity={},
        upstream={},
        execution={"splits": list(SPLITS)},
        store=store,
        progress_file=folder / "progress.jsonl",
        cache=folder,
    )


def make_splits(store: ArtifactStore, rows: dict[str, int], length: int = 2) -> None:
    with store.write(*SPLITS, code_version="1", identity={}, upstream={}) as staging:
        for name in PARTS:
            column = "prompt_ids" if name.startswith("p") else "input_ids"
            ids = [[row, *[PARTS.index(name)] * (length - 1)] for row in range(rows.get(name, 0))]
            pl.DataFrame({column: ids}, schema={column: pl.List(pl.Int32)}).write_ipc_stream(
                staging.file(f"{name}/00000.arrow")
            )


def test_held_out_rows_come_first_and_rows_that_were_trained_on_fill_up(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    make_splits(store, {"sft_validation": 2, "sft_train": 3, "cpt_validation": 9})
    rows = parity.rows_of(job_over(store, tmp_path))
    assert [row.ids for row in rows] == [[0, 0], [1, 0], [0, 1], [1, 1], [2, 1]]


def test_rows_are_bounded_in_number_and_length(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    make_splits(store, {"sft_train": 40}, length=700)
    rows = parity.rows_of(job_over(store, tmp_path))
    assert [len(row.ids) for row in rows] == [parity.LONGEST] * (parity.MOST_TOKENS // parity.LONGEST)


@pytest.mark.parametrize("rows", [None, {}])
def test_without_rows_the_merge_stops(tmp_path: Path, rows: dict[str, int] | None) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    if rows is not None:
        make_splits(store, rows)
    with pytest.raises(MissingInput, match="tokenized_splits dddddddddddd"):
        parity.rows_of(job_over(store, tmp_path))


def test_what_is_measured_is_what_its_name_says() -> None:
    rows = [parity.Row([1, 2, 3], [-100, -100, 1])]
    before = torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]])
    same = parity.compared(rows, [before], [before + 7.0])  # what all logits share changes nothing
    assert same["logit_error"] == pytest.approx(0, abs=1e-6)
    assert same["kl_nats"] == pytest.approx(0, abs=1e-6)
    assert (same["token_agreement"], same["perplexity_ratio"]) == (1.0, pytest.approx(1.0))
    after = before.clone()
    after[1] = torch.tensor([0.0, 3.0, 1.0])
    found = parity.compared(rows, [before], [after])
    left, right = before.softmax(-1), after.softmax(-1)
    assert found["token_agreement"] == 0.5
    assert found["max_logit_error"] == 3.0
    assert found["kl_nats"] == pytest.approx(float((left * (left / right).log()).sum()) / 2, rel=1e-5)
    # The second position is asked for the token 1; the first one's next token is not learned.
    assert found["perplexity_ratio"] == pytest.approx(float(left[1, 1] / right[1, 1]), rel=1e-5)
    assert (found["tokens"], found["learned_tokens"]) == (2, 1)


@pytest.mark.parametrize("form", LIMITS)
def test_each_measure_alone_stops_a_form_and_no_number_is_beyond_every_limit(form: str) -> None:
    good = {"weight_error": 0.0, "logit_error": 0.0, "kl_nats": 0.0, "token_agreement": 1.0, "perplexity_ratio": 1.0}
    good |= {"worst_weight": "w"}
    assert faults(form, good) == []
    for name in good:
        if name != "worst_weight":
            for bad in (math.nan, 0.1 if name == "token_agreement" else 9.0):
                [told] = faults(form, good | {name: bad})
                assert told.startswith(name)
    assert faults(form, good | {"perplexity_ratio": 0.1})


class Made:
    """A tiny model, sharp enough to prefer one token, trained, merged and quantized to every form."""

    def __init__(self, folder: Path):
        base = folder / "base"
        make_tiny_model(base, merges=[("i", "n"), ("e", "r")], width=64)
        tensors = load_file(base / FILE)
        for name, tensor in tensors.items():
            if tensor.dim() > 1 and "embed" not in name:  # and each row on a scale of its own
                scales = 1 + torch.rand(len(tensor), 1, generator=torch.Generator().manual_seed(len(name)))
                tensors[name] = (tensor.float() * 5 * scales).to(torch.bfloat16)
        save_file(tensors, base / FILE, metadata={"format": "pt"})
        splitter = Splitter(folder, base, settings(LORA, sft={}) | {"quantize": FORMS})
        self.school = School(
            splitter, {}, {name: rows for name, rows in BATCHES.items() if name[:4] in ("sft:", "test")}
        )
        self.school.train("sft_adapter")
        self.merged = self.run("merged_model", merge.run)
        self.quantized = self.run("quantized_model", quantize.run)
        self.rows = parity.rows_of(self.job("merged_model"))
        self.expected = parity.logits(load_form(self.merged.folder, torch.float32), self.rows)

    def job(self, name: str) -> Job:
        stages = self.school.stages()
        splits = stages["tokenized_splits"]
        execution = EXECUTION | {"splits": [splits.made_by, splits.fingerprint]}
        return self.school.splitter.job(stages[name], execution)

    def run(self, name: str, work) -> Artifact:
        job = self.job(name)
        work(job)
        found = self.school.splitter.store.open(name, job.fingerprint)
        assert found is not None
        return found

    def folder(self, form: str) -> Path:
        return self.merged.folder if form == "merged" else self.quantized.folder / form

    def measured(self, folder: Path) -> dict:
        """As the workers measure a form that lies in ``folder``."""
        model = load_form(folder, torch.float32)
        weights = parity.weight_error(model, self.merged.folder)
        return parity.compared(self.rows, self.expected, parity.logits(model, self.rows)) | weights


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    pytest.importorskip("auto_round")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto_round_form, "ITERATIONS", 4)
        patch.setattr(auto_round_form, "TOKENS", 64)
        patch.setattr(auto_round_form, "BLOCKS", 8)
        return Made(tmp_path_factory.mktemp("made"))


def test_good_files_are_within_every_limit(made: Made) -> None:
    assert faults("merged", made.merged.manifest.metrics["parity"]) == []
    measured = made.quantized.manifest.metrics["parity"]
    assert {form: faults(form, measured[form]) for form in FORMS} == {form: [] for form in FORMS}
    sizes = made.quantized.manifest.metrics["size_bytes"]
    assert sizes["gguf_q4_0"] < sizes["gguf_q8_0"] < sizes["gguf_f16"]
    assert all(sizes[form] > 0 for form in FORMS)


def test_rows_that_are_read_together_say_what_each_says_alone(made: Made) -> None:
    model = load_form(made.merged.folder, torch.float32)
    rows = [parity.Row(row.ids[: 9 + at], row.labels[: 9 + at]) for at, row in enumerate(made.rows[:5])]
    for row, together in zip(rows, parity.logits(model, rows), strict=True):
        [alone] = parity.logits(model, [row])
        assert together.shape == alone.shape == (len(row.ids) - 1, alone.shape[1])
        torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("form", FORMS)
def test_looking_at_the_weights_changes_nothing_of_what_a_model_says(made: Made, form: str) -> None:
    looked_at, not_looked_at = (load_form(made.folder(form), torch.float32) for _ in range(2))
    parity.weight_error(looked_at, made.merged.folder)
    for left, right in zip(parity.logits(looked_at, made.rows), parity.logits(not_looked_at, made.rows), strict=True):
        assert torch.equal(left, right)


def change_tensor(file: Path, ending: str, how) -> None:
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if name.endswith(ending))
    tensors[name] = how(tensors[name]).contiguous()
    save_file(tensors, file, metadata={"format": "pt"})


def change_gguf(file: Path, name: str, how) -> None:
    tensor = next(tensor for tensor in gguf.GGUFReader(file, "r+").tensors if tensor.name == name)
    tensor.data[:] = how(tensor.data)
    tensor.data.flush()


def double(tensor: torch.Tensor) -> torch.Tensor:
    """Scales twice as large; those of NF4 are indices of a table of the scales' own."""
    return tensor * 2 if tensor.is_floating_point() else tensor // 2


@pytest.mark.parametrize(
    ("form", "ending", "how"),
    [
        ("merged", "0.self_attn.q_proj.weight", torch.t),
        ("merged", "1.self_attn.o_proj.weight", torch.t),
        ("merged", "1.self_attn.q_proj.weight", torch.zeros_like),
        ("merged", "0.mlp.down_proj.weight", torch.zeros_like),
        ("merged", "1.input_layernorm.weight", torch.zeros_like),
        ("int8", "0.mlp.down_proj.SCB", lambda scales: scales.flip(0)),
        ("int8", "1.self_attn.q_proj.SCB", torch.ones_like),
        ("int8", "1.mlp.up_proj.SCB", double),
        ("int8", "1.mlp.up_proj.weight", lambda weights: weights.flip(0)),
        ("nf4", "0.mlp.down_proj.weight.absmax", lambda scales: scales.flip(0)),
        ("nf4", "1.self_attn.q_proj.weight.absmax", double),
        ("nf4", "1.self_attn.q_proj.weight.nested_absmax", double),
        ("auto_round", "1.self_attn.q_proj.scales", lambda scales: scales.flip(1)),
        ("auto_round", "0.mlp.down_proj.scales", double),
        ("auto_round", "0.mlp.up_proj.qweight", lambda weights: weights.flip(0)),
    ],
)
def test_one_broken_tensor_of_a_file_is_beyond_a_limit(made: Made, tmp_path: Path, form: str, ending: str, how) -> None:
    shutil.copytree(made.folder(form), tmp_path / form)
    change_tensor(tmp_path / form / FILE, ending, how)
    found = faults(form, made.measured(tmp_path / form))
    assert found
    assert ending.partition("_proj")[0] in found[-1], "the tensor is named"


@pytest.mark.parametrize("form", ["gguf_f16", "gguf_q8_0", "gguf_q4_0"])
@pytest.mark.parametrize("name", ["blk.0.attn_q.weight", "blk.1.ffn_down.weight"])
@pytest.mark.parametrize("how", [np.flipud, np.zeros_like])
def test_one_flipped_tensor_of_a_gguf_file_is_beyond_a_limit(
    made: Made, tmp_path: Path, form: str, name: str, how
) -> None:
    shutil.copytree(made.folder(form), tmp_path / form)
    change_gguf(tmp_path / form / "model.gguf", name, how)
    assert faults(form, made.measured(tmp_path / form))


def test_weights_that_give_no_numbers_are_refused(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.merged.folder, tmp_path / "merged")
    change_tensor(tmp_path / "merged" / FILE, "0.mlp.down_proj.weight", lambda weights: weights * math.nan)
    with pytest.raises(FineTuneError, match="no finite numbers"):
        made.measured(tmp_path / "merged")


def test_an_adapter_on_the_wrong_base_stops_the_merge_by_name(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.school.splitter.folder / "store", tmp_path / "store")
    job = made.job("merged_model")
    job.store = ArtifactStore(str(tmp_path / "store"))
    shutil.rmtree(tmp_path / "store" / "artifacts" / "merged_model")
    stage, fingerprint = job.upstream["base_model"]
    shutil.rmtree(tmp_path / "store" / "artifacts" / stage)
    with job.store.write(stage, fingerprint, code_version="1", identity={}, upstream={}) as staging:
        staging.metrics = {"content_hash": "another"}
        make_tiny_model(staging.folder, width=64)
    with pytest.raises(
        FineTuneError, match=r"merge_parity: adapter .* was trained on base content, this base is another"
    ):
        merge.run(job)
    assert not job.is_made()
