"""Several processes as one trainer: what they must agree on. `launch` starts them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

Value = TypeVar("Value")


@dataclass(frozen=True)
class Gang:
    """The processes of one training run; alone, everything below costs nothing."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes what all share: checkpoints, artifact, outcome."""
        return self.rank == 0

    def agreed(self, value: Callable[[], Value]) -> Value:
        """What the leader finds; all get its value, or its exception.

        Raises:
            Exception: as the leader's `value` did.
        """
        if self.size == 1:
            return value()
        box: list[Any] = [None, None]
        if self.leads:
            try:
                box[0] = value()
            except Exception as error:  # noqa: BLE001 - raised again below, by every process
                box[1] = error
        torch.distributed.broadcast_object_list(box)
        if box[1] is not None:
            raise box[1]
        found: Value = box[0]
        return found

    def anyone(self, flag: bool) -> bool:  # noqa: FBT001 - it is the question itself
        """Whether the flag is set in any of the processes."""
        if self.size == 1:
            return flag
        told = torch.tensor([flag], dtype=torch.int32, device="cuda" if torch.cuda.is_available() else "cpu")
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        return bool(told.item())

    def wait(self) -> None:
        """Go on when everybody is here."""
        if self.size > 1:
            torch.distributed.barrier()


def joined() -> Gang:
    """Meet the other processes that torchrun has started, if it has."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Gang()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return Gang(int(os.environ["RANK"]), size)
