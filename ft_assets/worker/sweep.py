"""Stage ``sft_sweep``: Optuna proposes settings, each trial trains in processes of its own, the best one's are kept.

Nothing is held in memory that a kill would lose. A trial's proposal is written down before it starts; its result is an
artifact, so a finished one is found, by this sweep or a longer one, and a cut one resumes. What is proposed hangs on the
seed, the trial's number and the results so far alone: with one trial at a time a resumed sweep is the uninterrupted one.
"""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna

from ft_assets.core import trials
from ft_assets.core.durable import write_durably
from ft_assets.core.errors import FineTuneError
from ft_assets.core.stage import Stage
from ft_assets.core.trials import Trial
from ft_assets.recipes.sweep import Space, Sweep
from ft_assets.worker.job import Job

POLL_SECONDS = 0.2
OF_ANOTHER_RUN = ("steps", "seconds", "cost_usd")  # entries of a placement that are the plan's, not the trial's


@dataclass(frozen=True)
class Asked:
    """A trial that has been proposed."""

    number: int
    values: dict[str, Any]
    stage: Stage


def run(job: Job) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = _Search(job)
    slots = _Slots(job)
    running: dict[int, tuple[Asked, subprocess.Popen[bytes]]] = {}
    try:
        while len(search.finished) < search.sweep.n_trials:
            for slot in range(slots.count):
                if slot not in running and (asked := search.next([other for other, _ in running.values()])):
                    running[slot] = asked, slots.start(slot, search, asked)
            time.sleep(POLL_SECONDS if running else 0)
            for slot, (asked, process) in list(running.items()):
                if process.poll() is not None:
                    del running[slot]
                    search.ended(asked, process.returncode)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()
    search.commit()


class _Search:
    """The proposals and results of a sweep, on disk in its scratch folder."""

    def __init__(self, job: Job):
        self.job = job
        self.sweep = Sweep.model_validate(job.identity["sweep"])
        self.numbers = iter(range(1, self.sweep.n_trials + 1))
        self.finished: dict[int, Trial] = {}
        base = {"sft": job.identity["training"], "adapter": job.identity["adapter"]}
        self.distributions = {
            name: distribution(space, isinstance(base[name.split(".")[0]][name.split(".")[1]], int))
            for name, space in self.sweep.spaces().items()
        }
        self.folder = job.scratch / "trials"
        self.folder.mkdir(exist_ok=True)
        spent = _read(self.folder / "spent.json")
        self.seconds_before = spent["seconds"] if spent else 0.0
        self.study = self._open_study()

    def _open_study(self) -> optuna.Study:
        """Optuna's storage, for its own tools to look at. It is written anew by each attempt: what a killed one left of a
        line or a lock would be in the way.
        """
        folder = self.folder / "study"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        storage = optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
        )
        return optuna.create_study(storage=storage, study_name=self.job.execution["partition"], direction="minimize")

    def next(self, running: list[Asked]) -> Asked | None:
        """The next trial that has to train; those before it that have been made already are taken as they are."""
        for number in self.numbers:
            asked = self._ask(number, running)
            if not self._take(asked):
                return asked
        return None

    def _ask(self, number: int, running: list[Asked]) -> Asked:
        path = self.folder / f"{number:05d}.json"
        said = _read(path)
        if said is None:
            allowed: list[float | None] = [None] * trials.marks(self.sweep.eval_steps)
            if self.sweep.pruner == "median":
                allowed = trials.stop_above(list(self.finished.values()), len(allowed), self.sweep.n_startup_trials)
            said = {"values": self._propose(number, running), "stop_above": allowed}
            _write(path, said)
        stage = trials.trial_stage(self.job.identity, self.job.upstream, said["values"], said["stop_above"])
        return Asked(number, said["values"], stage)

    def _propose(self, number: int, running: list[Asked]) -> dict[str, Any]:
        """Values for a trial. A sampler of its own for each: the state of one that lives on would be lost in a kill."""
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=self.sweep.n_startup_trials,
            constant_liar=True,
            seed=self.job.identity["seed"] + number,
        )
        study = optuna.create_study(sampler=sampler, direction="minimize")
        study.add_trials([as_optuna(trial, self.distributions) for _, trial in sorted(self.finished.items())])
        for asked in running:
            study.add_trial(
                optuna.create_trial(
                    state=optuna.trial.TrialState.RUNNING, params=asked.values, distributions=self.distributions
                )
            )
        return study.ask(self.distributions).params

    def _take(self, asked: Asked) -> bool:
        """Notes a trial's result; says whether there is one."""
        made = self.job.store.open(asked.stage.name, asked.stage.fingerprint)
        if made is None:
            return False
        found = {name: made.manifest.metrics[name] for name in ("state", "loss", "losses", "steps", "planned_steps")}
        trial = Trial(
            asked.number, asked.values, **found, seconds=made.manifest.seconds, fingerprint=asked.stage.fingerprint
        )
        self.finished[asked.number] = trial
        self.study.add_trial(as_optuna(trial, self.distributions))
        _write(self.folder / "spent.json", {"seconds": self.seconds_before + time.monotonic() - self.job.started})
        best = trials.best_of(list(self.finished.values()))
        so_far = f"; best loss {best.loss:.4f} in trial {best.number}" if best else ""
        self.job.progress(f"{len(self.finished)} of {self.sweep.n_trials} trials done{so_far}")
        return True

    def ended(self, asked: Asked, code: int) -> None:
        if code != 0 or not self._take(asked):
            raise FineTuneError(
                f"trial {asked.number} of {self.sweep.n_trials} ({in_words(asked.values)}) ended with exit code {code}; "
                "its own words are above. The trials before it are kept: run again to go on"
            )

    def commit(self) -> None:
        found = [self.finished[number] for number in sorted(self.finished)]
        best = trials.best_of(found)
        if best is None:
            raise FineTuneError(
                f"none of {len(found)} trials came to its end, all diverged; search lower values of learning_rate"
            )
        chosen = {
            name: value for name, value in asdict(best).items() if name in ("number", "loss", "values", "fingerprint")
        }
        with self.job.commit(self.seconds_before) as staging:
            staging.write_json("trials.json", [asdict(trial) for trial in found])
            staging.write_json("best.json", {**chosen, "settings": trials.settings(self.job.identity, best.values)})
            shutil.copyfile(self.folder / "study" / "study.journal", staging.file("study.journal"))
            states = [trial.state for trial in found]
            staging.metrics = {
                "trials": len(found),
                **{state: states.count(state) for state in ("complete", "pruned", "diverged")},
                "best_trial": best.number,
                "best_loss": best.loss,
                "best_values": best.values,
                "steps": sum(trial.steps for trial in found),
            }


class _Slots:
    """Where trials run: one place for each that may run at once, with its share of cores and its own GPUs."""

    def __init__(self, job: Job):
        from ft_assets.worker.hardware import dtype_name, pick_device, pick_dtype

        self.processes = job.execution["placement"]["processes"]
        self.count = count = job.execution["parallel_trials"]
        device = pick_device(job.execution["device"])
        # The faster type is found by a stopwatch, and trials compare in one type only.
        path = job.scratch / "trials" / "dtype.json"
        if not path.is_file():
            settled = (
                job.execution["dtype"] if device == "cuda" else dtype_name(pick_dtype(device, job.execution["dtype"]))
            )
            _write(path, {"dtype": settled})
        self.execution = {**job.execution, "device": device, **_known(path)}
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = job.execution["threads"] or max(1, cores // (self.processes * count))
        own = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        devices = self._devices(count) if device == "cuda" and count > 1 else [{}] * count
        self.environments = [{**os.environ, **own, **visible} for visible in devices]

    def _devices(self, count: int) -> list[dict[str, str]]:
        import torch

        shown = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        names = shown.split(",")
        if len(names) < count * self.processes:
            raise FineTuneError(
                f"hardware.parallel_trials {count} with {self.processes} processes each want {count * self.processes} GPUs, "
                f"{len(names)} are here; lower one of the two"
            )
        step = self.processes
        return [{"CUDA_VISIBLE_DEVICES": ",".join(names[at * step : (at + 1) * step])} for at in range(count)]

    def start(self, slot: int, search: _Search, asked: Asked) -> subprocess.Popen[bytes]:
        """Starts a trial's processes; they end with this one."""
        path = search.folder / f"{asked.number:05d}.request.json"
        _write(path, request(search.job, self.execution, asked, search.sweep.n_trials))
        command = [sys.executable, "-m", "ft_assets.worker.torchrun", str(self.processes), asked.stage.name, str(path)]
        env = {**self.environments[slot], "FT_PARENT": str(os.getpid())}
        return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL)


def request(job: Job, execution: dict[str, Any], asked: Asked, n_trials: int) -> dict[str, Any]:
    """What a trial's worker is told. The micro-batch that fits the largest candidate fits this one; the greatest divisor it
    has in common with the trial's own batch is taken.
    """
    planned = execution["placement"]
    rows = asked.stage.identity["training"]["global_batch_size"] // planned["processes"]
    micro = math.gcd(planned["micro_batch"], rows)
    placement = {name: value for name, value in planned.items() if name not in OF_ANOTHER_RUN}
    placement |= {"stage": "sft_trial", "micro_batch": micro, "gradient_accumulation_steps": rows // micro}
    own = {
        "placement": placement,
        "evaluation_micro_batch": planned["micro_batch"],
        "trial": f"trial {asked.number} of {n_trials}",
        "group": f"{execution['partition']} sft_sweep {job.fingerprint[:8]}",
    }
    return {
        **asked.stage.request(),
        "store": {"url": job.store.root, "local": str(job.store.local)},
        "execution": execution | own,
        "progress": str(job.progress_file),
        "cache": str(job.cache),
    }


def distribution(space: Space, whole: bool) -> optuna.distributions.BaseDistribution:
    """A space in Optuna's terms; ``whole`` where the field is a whole number."""
    if space.choices is not None:
        return optuna.distributions.CategoricalDistribution(space.choices)
    assert space.low is not None
    assert space.high is not None
    if whole:
        return optuna.distributions.IntDistribution(int(space.low), int(space.high), space.log, int(space.step or 1))
    return optuna.distributions.FloatDistribution(space.low, space.high, space.log, space.step)


def as_optuna(trial: Trial, distributions: dict[str, Any]) -> optuna.trial.FrozenTrial:
    """A finished trial in Optuna's terms; one that diverged is a pruned one without a measurement, the worst there is."""
    state = optuna.trial.TrialState.COMPLETE if trial.state == "complete" else optuna.trial.TrialState.PRUNED
    measured = {at: loss for at, loss in enumerate(trial.losses, 1) if loss is not None}
    return optuna.create_trial(
        state=state,
        value=trial.loss,
        params=trial.values,
        distributions=distributions,
        intermediate_values={} if trial.state == "diverged" else measured,
        user_attrs={
            "trial": trial.number,
            "state": trial.state,
            "seconds": trial.seconds,
            "fingerprint": trial.fingerprint,
        },
    )


def in_words(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def _write(path: Path, value: Any) -> None:
    temporary = path.with_name(f".{path.name}")
    write_durably(temporary, json.dumps(value))
    os.replace(temporary, path)


def _read(path: Path) -> dict[str, Any] | None:
    return _known(path) if path.is_file() else None


def _known(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found
