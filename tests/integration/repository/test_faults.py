"""Killed processes, damaged objects, full disks. `python -m bench.backup faults` does the same for hours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.backup import faults
from llmops_serving.jobs.repository.errors import DiskFull
from llmops_serving.jobs.repository.read import restore
from llmops_serving.jobs.repository.write import backup
from tests.integration.conftest import S3
from tests.integration.repository.models import contents, model, ref, repository


@pytest.mark.long
def test_killed_at_random_moments_nothing_is_lost(tmp_path: Path) -> None:
    report = faults.kills(tmp_path, 20, seed=os.getpid())
    assert report["findings at the end"] == 0


@pytest.mark.long
def test_killed_at_random_moments_nothing_is_lost_on_s3(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    report = faults.kills(tmp_path, 10, seed=os.getpid(), url=f"s3://{s3.bucket('kills')}/repository")
    assert report["findings at the end"] == 0


def test_every_damage_is_named_and_none_is_served(tmp_path: Path) -> None:
    assert faults.damage(tmp_path, 50, seed=os.getpid())["detected and named"] == 50


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("a disk that fills up is made by mounting one, which takes root")
    at = tmp_path / "small"
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", at], check=True)
    yield at
    subprocess.run(["umount", at], check=True)


def test_a_full_target_loses_nothing_and_goes_on_with_more_room(small_disk: Path, tmp_path: Path) -> None:
    base = model(tmp_path / "base", layers=6)
    repo = repository(small_disk)
    with pytest.raises(DiskFull):
        backup(repo, {"": base}, ref=ref())
    assert repo.points() == []
    there = sum(stored.bytes for _, stored in repo.objects())
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    done = backup(repo, {"": base}, ref=ref())
    assert 0 < done.new_bytes <= done.stored_bytes - there
    restore(repo, ref(), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(base)


def test_a_full_disk_leaves_no_half_restored_model(small_disk: Path, tmp_path: Path) -> None:
    base = model(tmp_path / "base", layers=6)
    repo = repository(tmp_path / "repo")
    backup(repo, {"": base}, ref=ref())
    with pytest.raises(DiskFull):
        restore(repo, ref(), small_disk / "model")
    assert not (small_disk / "model").exists()
