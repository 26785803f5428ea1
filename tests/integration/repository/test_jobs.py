"""The four jobs as the pods run them, against a real S3 server."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml
from typer.testing import CliRunner

from llmops.cli.repo import app
from llmops_serving.jobs.adapters.store import Store
from llmops_serving.jobs.finetune.checkpoints import sealed
from llmops_serving.jobs.weights.marker import Intent, Landed, marker
from llmops_serving.jobs.weights.names import MARKER
from tests.integration.conftest import S3, free_port
from tests.integration.repository.models import KEY, contents, model

COMMIT = "0123456789" * 4


@dataclass(frozen=True)
class Jobs:
    """Runs a job; returns its exit code and termination message."""

    target: str
    environment: dict[str, str]
    folder: Path

    def __call__(
        self, name: str, *arguments: str, key: str = KEY.decode(), retry: str = "20s", private: bool = True
    ) -> tuple[int, Any]:
        log = self.folder / "termination-log"
        log.unlink(missing_ok=True)
        command = [sys.executable, "-m", f"llmops_serving.jobs.{name}", "--target", self.target, "--retry", retry]
        reach = ["--allow-private"] if private else []
        done = subprocess.run(
            [*command, *reach, "--termination-log", str(log), *arguments],
            env={**self.environment, "LLMOPS_REPOSITORY_KEY": key, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=False,
            timeout=120,
        )
        assert log.exists(), done.stderr.decode()
        assert key.encode() not in done.stdout + done.stderr
        return done.returncode, json.loads(log.read_text())


@pytest.fixture
def jobs(s3: S3, tmp_path: Path) -> Jobs:
    return Jobs(f"s3://{s3.bucket('backup')}/some/prefix", s3.environment, tmp_path)


def test_a_model_goes_to_s3_and_comes_back(jobs: Jobs, tmp_path: Path) -> None:
    base = model(tmp_path / "base")
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "support.json").write_text(
        '{"kind": "LLMDeployment", "metadata": {"name": "support"}, "spec": {"model": {}}}'
    )
    code, message = jobs("backup", "--name", "support", "--documents", str(documents), str(base))
    assert (code, message["outcome"], message["files"]) == (0, "Complete", 3)
    made = message
    code, message = jobs("verify", "--layouts")
    assert (code, message["points"], message["bad"], len(message["verified"])) == (0, 1, [], 1)
    code, message = jobs("restore", "support", str(tmp_path / "out"))
    assert (code, restored(tmp_path / "out")) == (0, contents(base))
    assert (message["digest"], message["revision"]) == (made["digest"], made["ref"])
    code, message = jobs("drill", "--name", "support", str(tmp_path))
    assert (code, message["ref"], (tmp_path / "restored").exists()) == (0, made["ref"], False)
    code, message = jobs("gc", "--keep-last", "1")
    assert (code, message["dropped"]) == (0, [])


def adapter(folder: Path, seed: int) -> Path:
    """What a FineTuneJob leaves: two files that an engine loads, and what was measured of them; sealed."""
    model(folder / "made", seed=seed, layers=1)
    (folder / "made" / "model.safetensors").rename(folder / "made" / "adapter_model.safetensors")
    (folder / "made" / "config.json").rename(folder / "made" / "adapter_config.json")
    return sealed(folder / "made", folder / "sealed")


def test_adapters_come_back_as_an_engine_is_given_them_and_go_into_the_next_point(jobs: Jobs, tmp_path: Path) -> None:
    base, tickets = model(tmp_path / "base"), adapter(tmp_path / "tickets", seed=9)
    assert jobs("backup", "--name", "support", str(base), f"adapters/tickets={tickets}")[0] == 0
    code, message = jobs("restore", "support", str(tmp_path / "out"))
    place = tmp_path / "out" / "adapters" / "tickets"
    engine = tmp_path / "engine"
    engine.mkdir()
    kept = Store(engine).kept(message["adapters"]["tickets"], place)
    assert (code, contents(kept)) == (0, contents(tickets))

    def again(day: int, *adapters: str) -> Any:
        return jobs("backup", "--name", f"support@2027-01-0{day}T00:00:00Z", str(tmp_path / "out"), *adapters)[1]

    assert again(1, f"adapters/tickets={place}")["new_bytes"] == 0
    # Trained again under the same name, as long as before: what was restored does not speak for it.
    other = adapter(tmp_path / "other", seed=10)
    assert again(2, f"adapters/tickets={other}")["new_bytes"] > 0
    assert jobs("restore", "support@2027-01-02T00:00:00Z", str(tmp_path / "third"))[0] == 0
    assert contents(tmp_path / "third" / "adapters" / "tickets") == contents(other)
    assert again(3)["files"] == len(contents(base))  # not served any more, not in the point


def test_a_mounted_config_map_is_part_of_the_point_and_comes_back_as_its_deployments_own(
    jobs: Jobs, tmp_path: Path
) -> None:
    mounted = tmp_path / "mounted"  # as a kubelet does it: links through one that is replaced at every change
    (mounted / "..2026").mkdir(parents=True)
    (mounted / "..2026" / "memory.json").write_text('{"signals": {}}')
    (mounted / "..data").symlink_to("..2026")
    (mounted / "memory.json").symlink_to("..data/memory.json")
    (tmp_path / "absent").mkdir()  # what an optional one that does not exist is mounted as
    spec = {"model": {"source": "hf://org/model"}, "replicas": 1, "drift": {}}
    meta = {"name": "support", "namespace": "team-a"}
    resource = {"apiVersion": "llmops.dev/v1alpha1", "kind": "LLMDeployment", "metadata": meta, "spec": spec}
    maps = [f"--config-map=support-drift={mounted}", f"--config-map=another={tmp_path / 'absent'}"]
    base = model(tmp_path / "base")
    code, _ = jobs("backup", "--name", "support", f"--resource={json.dumps(resource)}", *maps, str(base))
    environment = {**jobs.environment, "LLMOPS_REPOSITORY_KEY": KEY.decode(), "LLMOPS_REPOSITORY": jobs.target}
    done = CliRunner().invoke(app, ["recover", str(tmp_path / "recovered")], env=environment)
    assert (code, done.exit_code) == (0, 0), done.output
    learned, deployment = yaml.safe_load_all((tmp_path / "recovered" / "support.yaml").read_text())
    labels = {"app.kubernetes.io/managed-by": "llmops-operator", "llmops.dev/deployment": "support"}
    assert learned == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "support-drift", "namespace": "team-a", "labels": labels},
        "data": {"memory.json": '{"signals": {}}'},
    }
    assert deployment["kind"] == "LLMDeployment"


def restored(folder: Path) -> dict[str, bytes]:
    """What a restore has brought, without the marker that says what it is."""
    found = contents(folder)
    assert found.pop(MARKER)
    return found


def test_a_restart_finds_the_point_it_made_and_reads_nothing_that_is_vouched_for(jobs: Jobs, tmp_path: Path) -> None:
    """A scheduled point is named by its Job; digests that the weights job left are not taken again."""
    base = model(tmp_path / "base")
    sums = {at.name: hashlib.sha256(at.read_bytes()).hexdigest() for at in base.iterdir()}
    landed = [Landed(path=name, size_bytes=(base / name).stat().st_size, sha256=sums[name]) for name in sums]
    marker(Intent(source="hf://o/m", requested="main", revision="r"), landed).write(base / MARKER)
    scheduled = ["backup", "--name", "support", "--scheduled-by"]
    assert jobs(*scheduled, "support-backup-29000000", str(base))[1]["ref"] == "support@2025-02-19T21:20:00Z"
    assert jobs(*scheduled, "support-backup-29000000", str(base))[1]["existed"]
    for name in sums:  # as long as before and of another content: whoever reads it would see
        at, times = base / name, (base / name).stat()
        at.write_bytes(bytes(times.st_size))
        os.utime(at, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = jobs(*scheduled, "support-backup-29001440", str(base))[1]
    assert (done["new_bytes"], done["ref"]) == (0, "support@2025-02-20T21:20:00Z")
    (base / "config.json").write_text("{}")  # written after the marker, which then speaks for it no more
    assert jobs(*scheduled, "support-backup-29002880", str(base))[1]["new_bytes"] > 0


def test_a_changed_secret_changes_the_key(jobs: Jobs, tmp_path: Path) -> None:
    base = model(tmp_path / "base")
    assert jobs("backup", "--name", "support", str(base))[0] == 0
    changing = Jobs(jobs.target, {**jobs.environment, "LLMOPS_REPOSITORY_KEY_PREVIOUS": KEY.decode()}, tmp_path)
    assert changing("verify", key="the new key, long enough")[0] == 0
    assert jobs("verify", key="the new key, long enough")[0] == 0
    assert jobs("verify")[1]["outcome"] == "RepositoryKeyWrong"


def test_an_interrupted_restore_of_the_newest_goes_on_with_the_point_it_began(jobs: Jobs, tmp_path: Path) -> None:
    first, second = model(tmp_path / "first"), model(tmp_path / "second", seed=1)
    assert jobs("backup", "--name", "m@20260101T000000Z", str(first))[0] == 0
    staging = tmp_path / ".out.m.20260101T000000Z.partial"
    staging.mkdir()
    (staging / "model.safetensors").write_bytes((first / "model.safetensors").read_bytes()[:100_000])
    assert jobs("backup", "--name", "m@20260102T000000Z", str(second))[0] == 0
    assert jobs("restore", "m", str(tmp_path / "out"))[1]["revision"] == "m@2026-01-01T00:00:00Z"
    assert restored(tmp_path / "out") == contents(first)
    assert jobs("restore", "m", str(tmp_path / "out"))[1]["revision"] == "m@2026-01-01T00:00:00Z"


def test_a_damaged_point_never_becomes_a_model(jobs: Jobs, s3: S3, tmp_path: Path) -> None:
    assert jobs("backup", "--name", "m", str(model(tmp_path / "base")))[0] == 0
    bucket = s3.root / jobs.target.removeprefix("s3://")
    largest = max((at for at in (bucket / "blobs").rglob("*") if at.is_file()), key=lambda at: at.stat().st_size)
    largest.write_bytes(bytes(largest.stat().st_size))
    code, message = jobs("restore", "m", str(tmp_path / "out"))
    assert (code, message["outcome"], (tmp_path / "out").exists()) == (40, "ChecksumMismatch", False)
    code, message = jobs("verify", "--name", "m")
    assert (code, message["outcome"], len(message["bad"])) == (40, "ChecksumMismatch", 1)


def test_a_repository_is_no_way_into_the_cluster(jobs: Jobs, tmp_path: Path) -> None:
    code, message = jobs("backup", "--name", "m", str(model(tmp_path / "base")), private=False, retry="2s")
    assert (code, message["outcome"]) == (40, "SourceForbidden")
    assert "sources.allowPrivateNetworks" in message["message"]


@pytest.mark.parametrize(
    ("arguments", "options", "code", "outcome"),
    [
        pytest.param(["restore", "nobody", "{tmp}/out"], {}, 40, "PointNotFound", id="a point that is not there"),
        pytest.param(["restore", "support", "{tmp}/base"], {}, 0, "Complete", id="restored over itself"),
        pytest.param(["restore", "support", "{tmp}"], {}, 40, "DestinationExists", id="restored over something else"),
        pytest.param(["verify"], {"key": "some other key, long enough"}, 40, "RepositoryKeyWrong", id="another key"),
        pytest.param(["verify"], {"key": "short"}, 40, "RepositoryKeyWrong", id="a short key"),
        pytest.param(["backup", "--name", "support", "{tmp}/none"], {}, 40, "UnsafeContent", id="no such directory"),
        pytest.param(
            [
                "backup",
                "--name",
                "s",
                "--weights",
                "Pointer",
                "--source",
                "hf://o/m",
                "--revision",
                "main",
                "{tmp}/base",
            ],
            {},
            40,
            "UnsafeContent",
            id="a pointer to a branch",
        ),
    ],
)
def test_what_goes_wrong_is_said(
    jobs: Jobs, tmp_path: Path, *, arguments: list[str], options: dict[str, str], code: int, outcome: str
) -> None:
    assert jobs("backup", "--name", "support", str(model(tmp_path / "base")))[0] == 0
    name, *rest = [text.replace("{tmp}", str(tmp_path)) for text in arguments]
    got, message = jobs(name, *rest, **options)
    assert (got, message["outcome"]) == (code, outcome)


@pytest.mark.parametrize(
    ("changed", "code", "outcome"),
    [
        pytest.param({"AWS_SECRET_ACCESS_KEY": "another"}, 40, "TargetAccessDenied", id="a wrong secret"),
        pytest.param({"AWS_ACCESS_KEY_ID": "nobody"}, 40, "TargetNotFound", id="an unknown account"),
        pytest.param({"AWS_ENDPOINT_URL": ""}, 75, "RepositoryUnreachable", id="nobody listens"),
    ],
)
def test_a_target_that_does_not_answer_well(
    jobs: Jobs, tmp_path: Path, changed: dict[str, str], code: int, outcome: str
) -> None:
    changed = {name: value or f"http://127.0.0.1:{free_port()}" for name, value in changed.items()}
    broken = Jobs(jobs.target, {**jobs.environment, **changed}, tmp_path)
    got, message = broken("backup", "--name", "support", str(model(tmp_path / "base")), retry="2s")
    assert (got, message["outcome"]) == (code, outcome)
    assert "another" not in message["message"]


def test_locked_objects_cannot_be_deleted_and_a_new_point_locks_old_ones_for_longer(s3: S3, tmp_path: Path) -> None:
    bucket = s3.bucket("locked", object_lock=True)
    jobs = Jobs(f"s3://{bucket}/p", s3.environment, tmp_path)
    base = model(tmp_path / "base")
    lock = ["--lock-mode", "GOVERNANCE", "--lock-days"]
    assert jobs("backup", "--name", "support@20260101T000000Z", *lock, "2", str(base))[0] == 0
    before = retention_of_all(s3, bucket)
    assert {mode for mode, _ in before.values()} == {"GOVERNANCE"}
    assert {name.split("/")[1] for name in before} == {"blobs", "points", "keys", "repository", "copy"}
    assert jobs("backup", "--name", "support@20260102T000000Z", *lock, "20", str(base))[0] == 0
    after = retention_of_all(s3, bucket)
    blobs = [name for name in before if "/blobs/" in name]
    assert blobs
    assert all(after[name][1] > before[name][1] for name in blobs)
    version = versions(s3, bucket)[blobs[0]]
    refused = s3.request("DELETE", f"/{bucket}/{blobs[0]}", query=f"versionId={version}")
    assert refused.status_code == 403


def test_a_bucket_without_object_lock_is_named(jobs: Jobs, tmp_path: Path) -> None:
    base = model(tmp_path / "base")
    code, message = jobs("backup", "--name", "support", "--lock-mode", "COMPLIANCE", str(base))
    assert (code, message["outcome"]) == (40, "TargetAccessDenied")
    assert "not locked" in message["message"]


def versions(s3: S3, bucket: str) -> dict[str, str]:
    answer = s3.request("GET", f"/{bucket}", query="versions=")
    root = ET.fromstring(answer.content)  # noqa: S314 -- our own server
    space = {"s3": root.tag.partition("}")[0][1:]}
    return {
        entry.findtext("s3:Key", "", space): entry.findtext("s3:VersionId", "", space)
        for entry in root.findall("s3:Version", space)
    }


def retention_of_all(s3: S3, bucket: str) -> dict[str, tuple[str, str]]:
    """Every locked object's mode and date."""
    found = {}
    for name in versions(s3, bucket):
        answer = s3.request("GET", f"/{bucket}/{name}", query="retention=")
        if answer.status_code == 200:
            root = ET.fromstring(answer.content)  # noqa: S314 -- our own server
            texts = {part.tag.rpartition("}")[2]: part.text or "" for part in root}
            found[name] = (texts["Mode"], texts["RetainUntilDate"])
    return found
