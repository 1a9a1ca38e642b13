"""The ranks of a training run: they meet or say who is missing, and agree on what all of them must do alike."""

import json
import os
import socket
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ft_assets.core.errors import FineTuneError

MEET_SECONDS = 300.0
GROUP_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def join(placement: dict[str, Any], device: str, seconds: float = MEET_SECONDS) -> None:
    """Starts the process group once every rank of the plan is there.

    With DeepSpeed on CPU its own communicator is started too, which nothing else initialises and without which ZeRO-3
    believes in a single process.

    Args:
        seconds: how long the ranks wait for each other, and for the first exchange over the network.

    Raises:
        FineTuneError: names the ranks that did not come, or says that those that came cannot exchange a number.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if world != placement["processes"]:
        raise FineTuneError(f"the plan wants {placement['processes']} processes, {world} came: not training alone")
    if device == "cuda":
        _check_devices(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count())
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if world == 1 and not placement["zero_stage"]:
        # By these names accelerate would wrap the one process in a group, and DDP keep a second copy of all gradients.
        for name in GROUP_VARIABLES:
            os.environ.pop(name, None)
        return
    bound = timedelta(seconds=seconds)
    if not dist.is_initialized():
        store = dist.PrefixStore("ranks", _meet(rank, world, bound))
        dist.init_process_group("nccl" if device == "cuda" else "gloo", store=store, rank=rank, world_size=world)
    _check_exchange(world, bound)
    if placement["zero_stage"] and device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)


def _check_devices(wanted: int, found: int) -> None:
    if wanted > found:
        raise FineTuneError(
            f"the plan wants {wanted} GPUs on this machine, {found} are here; offer no more (counts of hardware.gpus, "
            "hardware.processes), or train in pods (FT_LAUNCHER=kubernetes)"
        )


def _meet(rank: int, world: int, bound: timedelta) -> dist.Store:
    """Each rank leaves a note in one store; rank 0 waits for all notes and tells the others what it found."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # torchrun keeps a store already; without one, rank 0 does.
    keeps_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        store = dist.TCPStore(
            host, port, world, is_master=keeps_store, timeout=bound, wait_for_workers=False, multi_tenant=True
        )
        store.set(f"came/{rank}", socket.gethostname())
        if rank == 0:
            store.set("missing", json.dumps(_missing(store, world, bound)))
        store.wait(["missing"], 2 * bound)
        missing = json.loads(store.get("missing"))
    except dist.DistError as error:
        raise FineTuneError(
            f"rank {rank} cannot meet the others at {host}:{port} within {bound.total_seconds():.0f} s: {error}"
        ) from error
    if missing:
        raise FineTuneError(
            f"rank {', '.join(map(str, missing))} of {world} did not come within {bound.total_seconds():.0f} s: not "
            "training without; see why it did not start, then run again"
        )
    return store


def _missing(store: dist.Store, world: int, bound: timedelta) -> list[int]:
    try:
        store.wait([f"came/{rank}" for rank in range(world)], bound)
    except dist.DistStoreError:
        return [rank for rank in range(world) if not store.check([f"came/{rank}"])]
    return []


def _check_exchange(world: int, bound: timedelta) -> None:
    """Sums a one of each rank, in a group of its own since a group's time limit is set once and for all."""
    group = dist.new_group(timeout=bound)
    ones = torch.ones(1, device=_device())
    try:
        dist.all_reduce(ones, group=group)
        found = int(ones.item())
    except RuntimeError as error:
        raise FineTuneError(f"the {world} ranks met, but cannot exchange a number: {error}") from error
    if found != world:
        raise FineTuneError(f"{world} ranks met, {found} answered: not training with a part of them")
    dist.destroy_process_group(group)


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def _many() -> bool:
    return dist.is_available() and dist.is_initialized()


def any_of(*flags: bool) -> list[bool]:
    """Each flag as true on every rank where it is true on one. Every rank calls this at the same step."""
    if not _many():
        return list(flags)
    told = torch.tensor(flags, dtype=torch.int32, device=_device())
    dist.all_reduce(told, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in told.tolist()]


def from_first(value: Any) -> Any:
    """Rank 0's value on every rank."""
    if not _many():
        return value
    told = [value]
    dist.broadcast_object_list(told, src=0)
    return told[0]


def from_all(value: Any) -> list[Any]:
    """Every rank's value, by rank, on every rank."""
    if not _many():
        return [value]
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, value)
    return told


def wait_for_all() -> None:
    if _many():
        dist.barrier()
