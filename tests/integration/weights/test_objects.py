"""s3:// through obstore against a real S3 server."""

from __future__ import annotations

import json
import random
import time

import pytest

from tests.integration.conftest import S3, eventually
from tests.integration.weights.job import Job, model_files, on_disk, safetensors


def publish(s3: S3, files: dict[str, bytes], prefix: str = "models/tiny/") -> str:
    bucket = s3.bucket("weights")
    for name, data in files.items():
        s3.put(bucket, f"{prefix}{name}", data)
    return f"s3://{bucket}/{prefix}".rstrip("/")


@pytest.mark.parametrize("prefix", ["models/tiny/", ""], ids=["under a prefix", "a bucket of its own"])
def test_a_model_lands_whole_and_once(s3: S3, job: Job, prefix: str) -> None:
    files = model_files(shards=2) | {"adapter/notes.txt": b"kept in its folder", "empty.txt": b""}
    source = publish(s3, files | {"optimizer.pt": b"pickle"}, prefix)
    ended = job.run("--source", source, environment=s3.environment)
    assert (ended.code, ended.reason) == (0, "Complete"), ended.output
    assert on_disk(job.dest) == files
    assert ended.outcome["revision"].startswith("sha256:")
    again = job.run("--source", source, environment={})  # without keys: nothing is asked for
    assert again.outcome == ended.outcome


def test_the_same_files_have_the_same_digest_from_anywhere(s3: S3, job: Job) -> None:
    files = model_files()
    first = job.run("--source", publish(s3, files), environment=s3.environment)
    other = Job(job.dest.with_name("other"), job.termination)
    second = other.run("--source", publish(s3, files, "elsewhere/"), environment=s3.environment)
    assert first.outcome["digest"] == second.outcome["digest"]


def test_a_model_lands_from_google_s_store(s3: S3, job: Job) -> None:
    files = model_files(shards=2)
    source = publish(s3, files).replace("s3://", "gs://")
    locked = job.run("--source", source, environment=s3.google_environment)
    assert (locked.reason, locked.code) == ("ModelAuthFailed", 40), locked.output
    s3.open_to_all(source.split("/")[2])
    ended = job.run("--source", source, environment=s3.google_environment)
    assert (ended.code, ended.reason) == (0, "Complete"), ended.output
    assert on_disk(job.dest) == files
    nothing = Job(job.dest.with_name("nothing"), job.termination)
    missing = nothing.run("--source", f"{source}-not", environment=s3.google_environment)
    assert (missing.reason, missing.code) == ("ModelNotFound", 40), missing.output


def test_the_endpoint_may_be_an_argument(s3: S3, job: Job) -> None:
    environment = {name: value for name, value in s3.environment.items() if name != "AWS_ENDPOINT_URL"}
    ended = job.run("--source", publish(s3, model_files()), "--endpoint", s3.endpoint, environment=environment)
    assert ended.code == 0, ended.output


FAILURES = [
    ("no such bucket", "s3://no-such-bucket-anywhere/x", {}, "ModelNotFound"),
    ("a wrong secret key", "{source}", {"AWS_SECRET_ACCESS_KEY": "wrong-secret-of-this-test"}, "ModelAuthFailed"),
    ("an unknown access key", "{source}", {"AWS_ACCESS_KEY_ID": "AKIAUNKNOWNUNKNOWN00"}, "ModelAuthFailed"),
    ("no keys at all", "{source}", {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "ModelAuthFailed"),
    ("nothing under the prefix", "{source}-not", {}, "ModelNotFound"),
]


@pytest.mark.parametrize(
    ("source", "env", "reason"), [case[1:] for case in FAILURES], ids=[case[0] for case in FAILURES]
)
def test_what_the_user_must_act_on_ends_at_once(
    s3: S3, job: Job, source: str, env: dict[str, str], reason: str
) -> None:
    begun = time.monotonic()
    address = source.format(source=publish(s3, model_files(1000)))
    ended = job.run("--source", address, environment=s3.environment | env)
    assert (ended.reason, ended.code) == (reason, 40), ended.output
    assert time.monotonic() - begun < 15
    for secret in ("wrong-secret-of-this-test", s3.secret_key):
        assert secret not in ended.output + json.dumps(ended.outcome)


def test_a_server_that_is_away_is_time_to_heal(s3: S3, job: Job) -> None:
    environment = s3.environment | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    ended = job.run("--source", "s3://bucket/x", "--attempts", "2", environment=environment)
    assert (ended.reason, ended.code) == ("SourceUnavailable", 75), ended.output


@pytest.mark.parametrize("endpoint", ["http://169.254.169.254", "http://[fd00:ec2::254]", "http://169.254.170.2"])
def test_an_endpoint_at_the_metadata_service_is_never_asked(s3: S3, job: Job, endpoint: str) -> None:
    ended = job.run("--source", "s3://latest/meta-data", environment=s3.environment | {"AWS_ENDPOINT_URL": endpoint})
    assert (ended.reason, ended.code) == ("SourceForbidden", 40), ended.output


def test_a_private_endpoint_needs_leave(s3: S3, job: Job) -> None:
    ended = job.run("--source", publish(s3, model_files(1000)), environment=s3.environment, private=False)
    assert (ended.reason, ended.code) == ("SourceForbidden", 40), ended.output
    assert "allowPrivateNetworks" in ended.outcome["message"]


def test_bytes_that_rotted_in_the_store_are_refused(s3: S3, job: Job) -> None:
    source = publish(s3, model_files(500_000))
    place = s3.root / source.removeprefix("s3://") / "model.safetensors"
    with place.open("r+b") as stream:
        stream.seek(400_000)
        stream.write(b"\xff\xff")
    ended = job.run("--source", source, environment=s3.environment)
    assert (ended.reason, ended.code) == ("ChecksumMismatch", 40), ended.output
    assert "model.safetensors" not in on_disk(job.dest)


def test_killed_at_any_moment_it_continues(s3: S3, job: Job) -> None:
    files = model_files(30_000_000, shards=4)
    source = publish(s3, files)
    dice = random.Random(7)
    for _ in range(8):
        process = job.start("--source", source, "--allow-private", environment=s3.environment)
        partial = job.dest / ".llmops" / "partial"
        eventually(lambda process=process, partial=partial: process.poll() is not None or any(partial.glob("*")))  # type: ignore[misc]
        time.sleep(dice.uniform(0, 0.1))  # the moment is the input here, not a wait
        process.kill()
        process.communicate()
        if (job.dest / ".llmops-complete.json").exists():
            break
        for name, data in on_disk(job.dest).items():
            assert data == files[name], f"{name} landed before it was whole"
    ended = job.run("--source", source, environment=s3.environment)
    assert (ended.code, on_disk(job.dest)) == (0, files), ended.output


def test_an_object_replaced_between_two_runs_is_fetched_anew(s3: S3, job: Job) -> None:
    files = model_files(200_000, shards=2)
    source = publish(s3, files)
    bucket, prefix = source.removeprefix("s3://").split("/", 1)
    s3.put(bucket, f"{prefix}/config.json", b'{"auto_map": {}}')
    assert job.run("--source", source, environment=s3.environment).reason == "UnsafeModel"
    repaired = files | {"model-00002-of-00002.safetensors": safetensors(200_000, seed=9)}
    for name in ("config.json", "model-00002-of-00002.safetensors"):
        s3.put(bucket, f"{prefix}/{name}", repaired[name])
    ended = job.run("--source", source, environment=s3.environment)
    assert (ended.code, on_disk(job.dest)) == (0, repaired), ended.output
