"""A number that is not finite stops the run and names the rows; what float16's loss scaler skips does not."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from datasets import Dataset
from torch.utils.data import BatchSampler
from transformers import Trainer, TrainingArguments

from ft_assets.core.errors import FineTuneError
from ft_assets.recipes.schema import Hardware
from ft_assets.worker import callbacks
from ft_assets.worker.callbacks import MOST_SKIPPED_STEPS, GuardLoss, KeepCheckpoints, rows_of_step

ROWS = Dataset.from_dict({"row_id": [f"row-{i}" for i in range(10)], "labels": [[1, 2]] * 9 + [[-100, -100]]})
SETTINGS = SimpleNamespace(gradient_accumulation_steps=1, world_size=1)


class Loader:
    """As much of a data loader as says which rows a step saw."""

    def __init__(self, rows: int, batch: int, world: int = 1, rank: int = 0):
        sampler = SeedableRandomSampler(range(rows), data_seed=3)
        self.whole = BatchSampler(sampler, batch, drop_last=False)
        self.batch_sampler: Any = self.whole
        if world > 1:
            self.batch_sampler = BatchSamplerShard(self.whole, world, rank)

    def __len__(self) -> int:
        return len(self.batch_sampler)


def logged(guard: GuardLoss, step: int = 1, skipped: bool = False, loader: Any = None, **logs: float) -> None:
    optimizer = SimpleNamespace(step_was_skipped=skipped)
    state = SimpleNamespace(global_step=step)
    guard.on_log(SETTINGS, state, None, logs, optimizer=optimizer, train_dataloader=loader or Loader(10, 2))


@pytest.mark.parametrize(("name", "value"), [("loss", float("nan")), ("grad_norm", float("inf"))])
def test_what_is_not_finite_stops_and_names_the_rows_of_its_step(name: str, value: float) -> None:
    order = [row for batch in Loader(10, 2).whole for row in batch]
    with pytest.raises(FineTuneError) as raised:
        logged(GuardLoss(ROWS), step=2, **{"loss": 1.0, name: value})
    assert f"{name} is {value} at step 2" in str(raised.value)
    assert ", ".join(f"row-{row}" for row in order[2:4]) in str(raised.value)


def test_a_batch_that_teaches_nothing_is_called_so() -> None:
    last = Loader(10, 1)
    step = 1 + [row for batch in last.whole for row in batch].index(9)
    with pytest.raises(FineTuneError, match=r"no token of its rows is supervised.*row-9"):
        logged(GuardLoss(ROWS), step=step, loader=Loader(10, 1), loss=float("nan"))


def test_steps_that_the_scaler_skips_do_not_stop_but_a_run_of_them_does() -> None:
    guard = GuardLoss(ROWS)
    for step in range(MOST_SKIPPED_STEPS):
        logged(guard, step=1 + step, skipped=True, loss=1.0, grad_norm=float("inf"))
    logged(guard, loss=1.0, grad_norm=1.0)
    for step in range(MOST_SKIPPED_STEPS):
        logged(guard, step=1 + step, skipped=True, loss=1.0, grad_norm=float("inf"))
    with pytest.raises(FineTuneError, match="grad_norm is inf"):
        logged(guard, skipped=True, loss=1.0, grad_norm=float("inf"))


def test_a_loss_that_is_not_finite_stops_even_where_the_scaler_skips() -> None:
    with pytest.raises(FineTuneError, match="loss is nan"):
        logged(GuardLoss(ROWS), skipped=True, loss=float("nan"), grad_norm=float("inf"))


@pytest.mark.parametrize(("accumulation", "world"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_the_rows_of_a_step_are_those_that_the_ranks_saw(accumulation: int, world: int) -> None:
    """Walks two epochs as the trainer does, and asks of each step afterwards."""
    seen, step = {}, 0
    shards = [Loader(16, 2, world, rank) for rank in range(world)]
    for epoch in range(2):
        for shard in shards:
            shard.whole.sampler.set_epoch(epoch)
        batches = [list(shard.batch_sampler) for shard in shards]
        for first in range(0, len(batches[0]), accumulation):
            step += 1
            seen[step] = {row for rank in batches for batch in rank[first : first + accumulation] for row in batch}
    torch.manual_seed(99)  # what happens elsewhere changes nothing
    for step, rows in seen.items():
        assert set(rows_of_step(Loader(16, 2, world), step, accumulation, world)) == rows


class Scale(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (x * self.weight).mean()}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_rows_of_a_step_are_those_that_the_trainer_collated(tmp_path, accumulation: int) -> None:
    collated: list[list[int]] = []

    def collate(rows: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        collated.append([row["x"] for row in rows])
        return {"x": torch.tensor([float(row["x"]) for row in rows])}

    args = TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=2,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(Scale(), args, collate, Dataset.from_dict({"x": list(range(11))}))
    trainer.train()
    loader = trainer.callback_handler.train_dataloader
    per_epoch = len(loader)
    for epoch in range(2):
        batches = collated[epoch * per_epoch : (epoch + 1) * per_epoch]
        for place, first in enumerate(range(0, per_epoch, accumulation)):
            step = epoch * trainer.state.max_steps // 2 + place + 1
            wanted = [row for batch in batches[first : first + accumulation] for row in batch]
            assert rows_of_step(loader, step, accumulation, 1) == wanted


def saves(monkeypatch: pytest.MonkeyPatch, seconds_a_step: float, seconds_a_save: float, **hardware: Any) -> list[int]:
    """The steps of 100 after which a checkpoint is written, on a clock of the test's own."""
    clock, found = [0.0], []
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: clock[0])
    keeper = KeepCheckpoints(Hardware(**hardware).checkpoints(), "float32", 0.0, "world")
    keeper.saved_step = 0
    for step in range(1, 101):
        clock[0] += seconds_a_step
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        keeper.on_step_end(None, SimpleNamespace(global_step=step), control)
        if control.should_save:
            found.append(step)
            clock[0] += seconds_a_save
            keeper.on_save(
                SimpleNamespace(output_dir="none"),
                SimpleNamespace(global_step=step, is_world_process_zero=False),
                control,
            )
    return found


def test_checkpoints_come_by_steps_or_by_minutes_as_the_recipe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert saves(monkeypatch, 1.0, 9.0, checkpoint_every_steps=30) == [30, 60, 90]
    assert saves(monkeypatch, 1.0, 9.0, checkpoint_every_minutes=0.5) == [30, 60, 90]
    assert saves(monkeypatch, 1.0, 9.0, checkpoint_every_minutes=0.5, checkpoint_every_steps=40) == [30, 40, 70, 80]


def test_without_a_word_of_the_recipe_they_come_often_but_take_little_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert saves(monkeypatch, 1.0, 0.1) == list(range(5, 101, 5))  # sqrt(2 * 0.1 * 100) is 4.5 steps
    assert saves(monkeypatch, 4.0, 1.0) == [5, 14, 23, 32, 41, 50, 59, 68, 77, 86, 95]  # 3% are 33.3 s
    assert saves(monkeypatch, 1.0, 1.19) == [5, 45, 85]  # 3% are 39.7 s
