"""hf:// with the real hub client against a server that speaks the hub's API."""

from __future__ import annotations

import hashlib
import json
import random
import time
from pathlib import Path

import pytest

from hack.hub import Fault, Hub
from tests.integration.conftest import eventually
from tests.integration.weights.job import Job, model_files, on_disk, safetensors, write

SOURCE = "hf://acme/model"


def publish(root: Path, files: dict[str, bytes], *, name: str = "model") -> None:
    write(root / "acme" / name, files)


def bodies(hub: Hub) -> list[tuple[str, str | None]]:
    """Files that the hub was asked for, with the range, in order."""
    return [
        (seen.target.split("?")[0].rsplit("/", 1)[1], seen.range) for seen in hub.requests if "/cdn/" in seen.target
    ]


def test_a_model_lands_whole_hashed_and_pinned(hub: Hub, hub_root: Path, job: Job) -> None:
    files = model_files(shards=3)
    publish(hub_root, files | {"pytorch_model.bin": b"pickle", "modeling.py": b"evil()", "README.md": b"#"})
    ended = job.run("--source", SOURCE, "--endpoint", hub.url)
    assert (ended.code, ended.reason) == (0, "Complete"), ended.output
    assert on_disk(job.dest) == files
    marker = json.loads((job.dest / ".llmops-complete.json").read_text())
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert {file["path"]: file["sha256"] for file in marker["files"]} == sums
    text = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
    assert marker["digest"] == ended.outcome["digest"] == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert marker["revision"] == ended.outcome["revision"]
    assert len(marker["revision"]) == 40
    assert ended.outcome["bytes"] == sum(map(len, files.values()))
    percents = [event["percent"] for event in ended.events if event["event"] == "progress"]
    assert percents == sorted(set(percents))
    assert percents[-1] == 100


def test_a_second_run_asks_the_source_for_nothing(hub: Hub, hub_root: Path, job: Job) -> None:
    publish(hub_root, model_files())
    first = job.run("--source", SOURCE, "--endpoint", hub.url)
    hub.requests.clear()
    second = job.run("--source", SOURCE, "--endpoint", hub.url)
    assert (second.code, second.outcome) == (0, first.outcome)
    assert hub.requests == []


@pytest.mark.parametrize("damage", ["a flipped byte", "a missing file", "a cut file"])
def test_verify_fetches_only_what_is_damaged(hub: Hub, hub_root: Path, job: Job, damage: str) -> None:
    files = model_files(shards=3)
    publish(hub_root, files)
    job.run("--source", SOURCE, "--endpoint", hub.url)
    victim = job.dest / "model-00002-of-00003.safetensors"
    if damage == "a missing file":
        victim.unlink()
    else:
        data = bytearray(victim.read_bytes())
        data[-1] ^= 1
        victim.write_bytes(data[: -1 if damage == "a cut file" else None])
    hub.requests.clear()
    ended = job.run("--source", SOURCE, "--endpoint", hub.url, "--verify")
    assert (ended.code, on_disk(job.dest)) == (0, files)
    assert [name for name, _ in bodies(hub)] == [victim.name]


FAILURES = [
    ("no such model", "hf://acme/none", {}, [], "ModelNotFound", 40),
    ("no such revision", SOURCE, {}, ["--revision", "nope"], "ModelNotFound", 40),
    ("a private model without a token", "hf://acme/private", {}, [], "ModelNotFound", 40),
    ("a wrong token", "hf://acme/private", {"HF_TOKEN": "hf_wrongtokenwrong"}, [], "ModelAuthFailed", 40),
    ("a gated model without a token", "hf://acme/gated", {}, [], "ModelAuthFailed", 40),
    ("pickles only", "hf://acme/pickles", {}, [], "UnsafeModel", 40),
    ("remote code in the configuration", "hf://acme/code", {}, [], "UnsafeModel", 40),
    ("remote code in a nested configuration", "hf://acme/nested", {}, [], "UnsafeModel", 40),
    ("no weights", "hf://acme/empty", {}, [], "ModelNotFound", 40),
    ("a shard that the repository lacks", "hf://acme/shardless", {}, [], "ModelNotFound", 40),
    ("no such scheme", "ftp://acme/model", {}, [], "SourceInvalid", 2),
    ("a path instead of a model id", "hf://acme/../model", {}, [], "SourceInvalid", 2),
]


@pytest.fixture
def many(hub_root: Path) -> None:
    weights = {"model.safetensors": safetensors(1000)}
    plain = model_files(1000)
    publish(hub_root, plain)
    publish(hub_root, plain | {".hub.json": b'{"private": true}'}, name="private")
    publish(hub_root, plain | {".hub.json": b'{"gated": true}'}, name="gated")
    publish(hub_root, {"config.json": b"{}", "pytorch_model.bin": b"x"}, name="pickles")
    publish(hub_root, weights | {"config.json": b'{"auto_map": {"AutoModel": "m.M"}}'}, name="code")
    publish(hub_root, weights | {"config.json": b'{"text": [{"auto_map": {}}]}'}, name="nested")
    publish(hub_root, {"config.json": b"{}"}, name="empty")
    shardless = model_files(1000, shards=3)
    del shardless["model-00002-of-00003.safetensors"]
    publish(hub_root, shardless, name="shardless")


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("source", "env", "extra", "reason", "code"), [case[1:] for case in FAILURES], ids=[c[0] for c in FAILURES]
)
def test_what_the_user_must_act_on_ends_at_once(  # noqa: PLR0917
    hub: Hub, job: Job, source: str, env: dict[str, str], extra: list[str], reason: str, code: int
) -> None:
    ended = job.run("--source", source, "--endpoint", hub.url, *extra, environment=env)
    assert (ended.reason, ended.code) == (reason, code), ended.output
    assert 20 < len(ended.outcome["message"]) <= 256
    assert not (job.dest / ".llmops-complete.json").exists()
    assert not list(job.dest.glob("*.safetensors"))
    for secret in env.values():
        assert secret not in ended.output + json.dumps(ended.outcome)


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("name", ["private", "gated"])
def test_a_right_token_opens_a_model(hub: Hub, job: Job, name: str) -> None:
    ended = job.run("--source", f"hf://acme/{name}", "--endpoint", hub.url, environment={"HF_TOKEN": "hf_correcttoken"})
    assert (ended.code, ended.reason) == (0, "Complete"), ended.output
    assert "hf_correcttoken" not in ended.output


@pytest.mark.usefixtures("many")
def test_pickles_and_code_only_where_allowed(hub: Hub, job: Job) -> None:
    assert job.run("--source", "hf://acme/pickles", "--endpoint", hub.url, "--allow-pickle").code == 0
    assert set(on_disk(job.dest)) == {"config.json", "pytorch_model.bin"}
    trusting = Job(job.dest.with_name("trusting"), job.termination)
    assert trusting.run("--source", "hf://acme/code", "--endpoint", hub.url, "--trust-remote-code").code == 0


def test_a_token_is_not_sent_to_the_host_that_the_hub_redirects_to(hub: Hub, hub_root: Path, job: Job) -> None:
    publish(hub_root, model_files())
    hub.cdn_url = hub.url.replace("127.0.0.1", "localhost")
    token = {"HF_TOKEN": "hf_correcttoken"}
    assert job.run("--source", SOURCE, "--endpoint", hub.url, environment=token).code == 0
    sent = {("/cdn/" in seen.target, seen.authorization is not None) for seen in hub.requests}
    assert sent == {(False, True), (True, False)}


RECOVERIES = [
    ("asked to slow down", [Fault(match="resolve", status=429, headers={"Retry-After": "1"}, times=2)]),
    ("slowed down while listing", [Fault(match="/api/", status=429, headers={"Retry-After": "0"}, times=2)]),
    ("the server fails for a while", [Fault(match="cdn", status=503, times=2), Fault(match="/api/", status=500)]),
    ("connections cut in the middle", [Fault(match="cdn", truncate_at=70_000, times=3)]),
    ("a connection cut before the first byte", [Fault(match="cdn", truncate_at=0, times=1)]),
    ("no ranges after a cut", [Fault(match="cdn", truncate_at=70_000), Fault(match="cdn", ignore_range=True, times=9)]),
    ("a wrong byte once", [Fault(match="cdn", corrupt_at=200_000)]),
    ("a wrong byte in a small file once", [Fault(match="config.json", corrupt_at=3)]),
]


@pytest.mark.parametrize("faults", [case[1] for case in RECOVERIES], ids=[case[0] for case in RECOVERIES])
def test_it_gets_there_in_spite_of(hub: Hub, hub_root: Path, job: Job, faults: list[Fault]) -> None:
    files = model_files()
    publish(hub_root, files)
    hub.faults.add(*(Fault(**vars(fault)) for fault in faults))
    ended = job.run("--source", SOURCE, "--endpoint", hub.url)
    assert (ended.code, on_disk(job.dest)) == (0, files), ended.output


def test_retry_after_is_honoured(hub: Hub, hub_root: Path, job: Job) -> None:
    publish(hub_root, model_files())
    hub.faults.add(Fault(match="cdn", status=429, headers={"Retry-After": "3"}))
    begun = time.monotonic()
    assert job.run("--source", SOURCE, "--endpoint", hub.url).code == 0
    assert time.monotonic() - begun > 3


LOSSES = [
    ("throttled for ever", Fault(match="", status=429, headers={"Retry-After": "0"}, times=-1), "SourceThrottled", 75),
    ("broken for ever", Fault(match="", status=502, times=-1), "SourceUnavailable", 75),
    ("no JSON from a proxy in between", Fault(match="/api/", status=200, times=-1), "SourceUnavailable", 75),
    ("a wrong byte every time", Fault(match="cdn", corrupt_at=9_999, times=-1), "ChecksumMismatch", 40),
    (
        "a redirect to the metadata service",
        Fault(match="cdn", redirect="http://169.254.169.254/x"),
        "SourceForbidden",
        40,
    ),
    ("a redirect to the disk", Fault(match="cdn", redirect="file:///etc/passwd"), "SourceForbidden", 40),
]


@pytest.mark.parametrize(("fault", "reason", "code"), [case[1:] for case in LOSSES], ids=[case[0] for case in LOSSES])
def test_it_gives_up_with_the_reason(  # noqa: PLR0917
    hub: Hub, hub_root: Path, job: Job, fault: Fault, reason: str, code: int
) -> None:
    publish(hub_root, model_files())
    hub.faults.add(Fault(**vars(fault)))
    ended = job.run("--source", SOURCE, "--endpoint", hub.url, "--attempts", "3")
    assert (ended.reason, ended.code) == (reason, code), ended.output
    assert "model.safetensors" not in on_disk(job.dest)


def test_killed_at_any_moment_it_continues(hub: Hub, hub_root: Path, job: Job) -> None:
    """20 times kill -9 at a random moment: every run resumes, and in all not much more than the model travels."""
    files = model_files(6_000_000, shards=4)
    publish(hub_root, files)
    hub.bytes_per_second = 1_500_000
    dice = random.Random(20)
    for _ in range(20):
        process = job.start("--source", SOURCE, "--endpoint", hub.url, "--allow-private")
        asked = len(bodies(hub))
        eventually(lambda asked=asked, process=process: len(bodies(hub)) > asked or process.poll() is not None)  # type: ignore[misc]
        time.sleep(dice.uniform(0, 0.5))  # the moment is the input here, not a wait
        process.kill()
        process.communicate()
        if (job.dest / ".llmops-complete.json").exists():
            break
        for name, data in on_disk(job.dest).items():
            assert data == files[name], f"{name} landed before it was whole"
    hub.bytes_per_second = 0
    ended = job.run("--source", SOURCE, "--endpoint", hub.url)
    assert (ended.code, on_disk(job.dest)) == (0, files), ended.output
    resumed = [asked for _, asked in bodies(hub) if asked]
    assert len(resumed) > 10, bodies(hub)


def test_a_finished_file_is_not_fetched_again_after_a_kill(hub: Hub, hub_root: Path, job: Job) -> None:
    files = model_files(2_000_000, shards=2)
    publish(hub_root, files)
    last = "model-00002-of-00002.safetensors"
    hub.faults.add(Fault(match=last, stall_seconds=60))
    process = job.start("--source", SOURCE, "--endpoint", hub.url, "--allow-private")
    eventually((job.dest / "model-00001-of-00002.safetensors").exists)
    process.kill()
    process.communicate()
    hub.faults.clear()
    hub.requests.clear()
    assert job.run("--source", SOURCE, "--endpoint", hub.url).code == 0
    assert [name for name, _ in bodies(hub)] == [last]
    assert on_disk(job.dest) == files


def test_a_branch_that_moves_during_a_kill_does_not_mix_two_commits(hub: Hub, hub_root: Path, job: Job) -> None:
    publish(hub_root, model_files(2_000_000, shards=2))
    publish(hub_root, model_files(2_000_000, shards=2), name="model@v1")
    hub.faults.add(Fault(match="model-00002", stall_seconds=60))
    process = job.start("--source", SOURCE, "--endpoint", hub.url, "--allow-private")
    eventually((job.dest / "model-00001-of-00002.safetensors").exists)
    process.kill()
    process.communicate()
    hub.faults.clear()
    intended = json.loads((job.dest / ".llmops" / "intent.json").read_text())["revision"]
    publish(hub_root, {"model-00002-of-00002.safetensors": safetensors(2_000_000, seed=77)})
    ended = job.run("--source", SOURCE, "--endpoint", hub.url)
    assert ended.outcome["revision"] == intended
    assert on_disk(job.dest) == model_files(2_000_000, shards=2)


def test_sigterm_ends_with_an_outcome_and_the_next_run_continues(hub: Hub, hub_root: Path, job: Job) -> None:
    files = model_files(3_000_000)
    publish(hub_root, files)
    hub.bytes_per_second = 1_000_000
    process = job.start("--source", SOURCE, "--endpoint", hub.url, "--allow-private")
    eventually(lambda: any("/cdn/" in seen.target for seen in hub.requests))
    process.terminate()
    process.communicate(timeout=60)
    outcome = json.loads(job.termination.read_text())
    assert (process.returncode, outcome["outcome"]) == (75, "Downloading")
    hub.bytes_per_second = 0
    assert job.run("--source", SOURCE, "--endpoint", hub.url).code == 0
    assert on_disk(job.dest) == files


def test_two_jobs_on_one_volume_share_one_download(hub: Hub, hub_root: Path, job: Job) -> None:
    files = model_files(1_000_000, shards=2)
    publish(hub_root, files)
    hub.bytes_per_second = 2_000_000
    both = [job.start("--source", SOURCE, "--endpoint", hub.url, "--allow-private") for _ in range(2)]
    for process in both:
        process.communicate(timeout=60)
    assert [process.returncode for process in both] == [0, 0]
    assert on_disk(job.dest) == files
    assert sorted(name for name, _ in bodies(hub)) == sorted(name for name in files if name.endswith(".safetensors"))


def test_an_interrupted_download_of_another_revision_leaves_nothing_behind(hub: Hub, hub_root: Path, job: Job) -> None:
    old = model_files(100_000, shards=3)
    publish(hub_root, old, name="model@old")
    new = model_files(100_000) | {"tokenizer.json": b'{"new": 1}'}
    publish(hub_root, new)
    hub.faults.add(Fault(match="00003", status=502, times=-1))
    assert job.run("--source", SOURCE, "--revision", "old", "--endpoint", hub.url, "--attempts", "1").code == 75
    assert job.run("--source", SOURCE, "--endpoint", hub.url).code == 0
    assert on_disk(job.dest) == new
