"""LoRA adapters in an engine pod: the volumes they lie on and the arguments that load them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmops.desired import training

Json = dict[str, Any]

MOUNT = "/adapters"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the ranks that vLLM reserves memory for


@dataclass(frozen=True)
class Adapter:
    """An adapter that a FineTuneJob has finished.

    Attributes:
        name: What clients send as `model`.
        job: Name of the FineTuneJob, whose volume it lies on.
        path: Its directory on that volume.
        rank: Its rank.
        digest: Digest of its files.
    """

    name: str
    job: str
    path: str
    rank: int
    digest: str


def volumes(adapters: Sequence[Adapter]) -> tuple[list[Json], list[Json]]:
    """Volumes and mounts of an engine pod, one per job, read-only."""
    jobs = list(dict.fromkeys(adapter.job for adapter in adapters))
    claims = [
        {
            "name": f"adapters-{number}",
            "persistentVolumeClaim": {"claimName": training.claim_name(job), "readOnly": True},
        }
        for number, job in enumerate(jobs)
    ]
    mounts = [
        {"name": f"adapters-{number}", "mountPath": f"{MOUNT}/{job}", "readOnly": True}
        for number, job in enumerate(jobs)
    ]
    return claims, mounts


def arguments(adapters: Sequence[Adapter]) -> list[str]:
    """What makes the engine load them at its start; nothing without any."""
    if not adapters:
        return []
    widest = max(adapter.rank for adapter in adapters)
    return [
        "--enable-lora",
        f"--max-lora-rank={next(rank for rank in RANKS if rank >= widest)}",
        f"--max-loras={len(adapters)}",
        "--lora-modules",
        *(f"{adapter.name}={MOUNT}/{adapter.job}/{adapter.path}" for adapter in adapters),
    ]
