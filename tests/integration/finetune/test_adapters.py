"""Adapters on a real vLLM: what is proven gets its name, and what vLLM takes without a word is found out."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from hack.dashboards.questions import DEPLOYMENT
from llmops.api.llm_deployment import LLMDeployment
from llmops.desired import engine
from llmops.desired.slo_rules import slo_groups
from llmops_serving.gateway.spans import Spans
from llmops_serving.gateway.table import Endpoint, Model
from llmops_serving.gateway.trace import Tracer
from llmops_serving.jobs.adapters import load
from llmops_serving.jobs.adapters.engine import Engine
from llmops_serving.jobs.adapters.proof import RECORD, Recorded
from llmops_serving.jobs.adapters.store import FILES, Store
from llmops_serving.jobs.finetune.checkpoints import sealed, sha256_of
from llmops_serving.jobs.weights.marker import Landed, total_digest
from tests.integration.conftest import S3
from tests.integration.contract import said
from tests.integration.finetune.conftest import REPOSITORY, Jobs, rows
from tests.integration.gateway.receiver import Receiver, hearing
from tests.integration.gateway.rig import eventually, rig, run

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]
Json = dict[str, Any]
Tensors = dict[str, NDArray[np.float32]]
TRAINING = {
    "method": "LoRA",
    "lora": {"r": 4, "targetModules": "q_proj,v_proj"},
    "hyperparameters": {"max_steps": 20, "learning_rate": "1e-2", "per_device_train_batch_size": 4},
    "checkpoint": {"everySteps": 10},
}


@pytest.fixture(scope="module")
def artifact(python: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training job leaves."""
    jobs = Jobs(python, model, tmp_path_factory.mktemp("trained") / "job")
    jobs.check(rows(80))
    ended = jobs.train(**TRAINING)
    assert ended.outcome["outcome"] == "Completed", ended.output
    return jobs.volume / str(ended.outcome["uri"])


@pytest.fixture(scope="module")
def heard() -> Iterator[Receiver]:
    """Where spans go."""
    with hearing() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def url(python: Path, model: Path, heard: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A vLLM with room for adapters, which sends traces, as an engine pod starts it."""
    folder = tmp_path_factory.mktemp("engine")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "100",  # milliseconds; nobody waits five seconds in a test
        **engine._traced(LLMDeployment.from_manifest(SUPPORT)),
    }
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", f"--model={model}", "--served-model-name=base"]
    command += ["--host=127.0.0.1", f"--port={port}", "--enforce-eager", "--max-model-len=256"]
    command += [
        f"--otlp-traces-endpoint={heard.url}/v1/traces",
        "--enable-lora",
        "--max-lora-rank=8",
        "--max-loras=2",
        "--max-cpu-loras=32",
    ]
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    base = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 1200
        while not answers(base):
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.5)
        yield base
    finally:
        process.terminate()
        process.wait(60)


SUPPORT = {
    "apiVersion": "llmops.dev/v1alpha1",
    "kind": "LLMDeployment",
    "metadata": {"name": "support", "namespace": "team-a", "uid": "u"},
    "spec": {"model": {"source": "hf://o/m"}, "replicas": 1},
}


def answers(base: str) -> bool:
    try:
        return httpx.get(f"{base}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def wish(name: str, folder: Path) -> Json:
    """The adapter in a directory, as its job's status promises it."""
    files = [folder / file for file in FILES]
    landed = [Landed(path=path.name, size_bytes=path.stat().st_size, sha256=sha256_of(path)) for path in files]
    return {"name": name, "digest": total_digest(landed), "from": str(folder)}


def variant(artifact: Path, folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """An artifact of other weights, whole by its manifest, with the record of the original."""
    work = folder.with_name(f"{folder.name}.work")
    shutil.copytree(artifact, work)
    (work / "manifest.json").unlink()
    weights = work / "adapter_model.safetensors"
    save_file(change(load_file(weights)), weights)
    return sealed(work, folder)


def given(url: str, store: Path, *wishes: Json) -> dict[str, str]:
    """Reasons why adapters are not served, by name."""
    store.mkdir(exist_ok=True)
    with Engine(url) as engine:
        order = load.WISHES.validate_python(wishes)
        return {name: flaw.reason for name, flaw in load.given(engine, "base", Store(store), order).items()}


def loaded(url: str) -> dict[str, str]:
    with Engine(url) as engine:
        return engine.adapters()


def renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda weights: {name.replace(old, new): value for name, value in weights.items()}


def turned(weights: Tensors) -> Tensors:
    return {name: -value if "lora_B" in name else value for name, value in weights.items()}


BAD: list[tuple[str, Callable[[Tensors], Tensors], str]] = [
    ("of-another-architecture", renamed("model.layers", "transformer.h"), "AdapterNoEffect"),
    ("of-a-deeper-model", renamed(".layers.", ".layers.1"), "AdapterNoEffect"),
    ("without-effect", lambda weights: {name: np.zeros_like(w) for name, w in weights.items()}, "AdapterNoEffect"),
    ("half-of-its-layers", renamed(".layers.1.", ".layers.7."), "AdapterMismatch"),
    ("with-other-weights", turned, "AdapterMismatch"),
]


def test_a_proven_adapter_gets_its_name_and_a_bad_one_is_found_out(url: str, artifact: Path, tmp_path: Path) -> None:
    bad = [wish(name, variant(artifact, tmp_path / name, change)) for name, change, _ in BAD]
    told = given(url, tmp_path / "store", *bad, wish("tickets", artifact))
    assert told == {name: reason for name, _, reason in BAD}
    assert list(loaded(url)) == ["tickets"]


def test_another_list_changes_a_running_engine(url: str, artifact: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert given(url, store, wish("tickets", artifact), wish("gone", artifact)) == {}
    again = tmp_path / "again"  # the same effect from other files
    shutil.copytree(artifact, again)
    (again / "manifest.json").unlink()
    config = again / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text())))
    newer = wish("tickets", sealed(again, tmp_path / "newer"))
    assert given(url, store, newer) == {}
    assert loaded(url) == {"tickets": str(Store(store).at(newer["digest"]))}


def test_the_adapter_that_serves_stays_when_its_successor_is_bad(url: str, artifact: Path, tmp_path: Path) -> None:
    good = wish("tickets", artifact)
    given(url, tmp_path / "store", good)
    bad = wish("tickets", variant(artifact, tmp_path / "bad", turned))
    assert given(url, tmp_path / "store", bad) == {"tickets": "AdapterMismatch"}
    assert loaded(url) == {"tickets": str(Store(tmp_path / "store").at(good["digest"]))}


def test_an_adapter_outlives_the_job_that_made_it(url: str, artifact: Path, tmp_path: Path) -> None:
    given(url, tmp_path / "store", wish("tickets", artifact))
    assert given(url, tmp_path / "store", wish("tickets", artifact) | {"from": None}) == {}
    assert given(url, tmp_path / "empty", wish("tickets", artifact) | {"from": None}) == {
        "tickets": "AdapterLoadFailed"
    }


def repository_job(s3: S3, target: str, log: Path, name: str, *arguments: str) -> Json:
    """What a job of the repository says at its end."""
    command = [sys.executable, "-m", f"llmops_serving.jobs.{name}", "--target", target, "--allow-private"]
    environment = {**s3.environment, "LLMOPS_REPOSITORY_KEY": "a key that is long enough"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    subprocess.run([*command, "--termination-log", str(log), *arguments], check=True, env=environment, timeout=300)
    said: Json = json.loads(log.read_text())
    return said


def test_an_adapter_comes_back_from_a_locked_bucket_and_answers_as_before(
    url: str, model: Path, artifact: Path, s3: S3, tmp_path: Path
) -> None:
    target, log = f"s3://{s3.bucket('adapters', object_lock=True)}/points", tmp_path / "termination-log"
    lock = ["--lock-mode", "GOVERNANCE", "--lock-days", "1"]
    repository_job(s3, target, log, "backup", "--name", "m", *lock, str(model), f"adapters/tickets={artifact}")
    said = repository_job(s3, target, log, "restore", "m", str(tmp_path / "restored"))
    files = [at.relative_to(model) for at in model.rglob("*") if at.is_file()]
    assert [(tmp_path / "restored" / at).read_bytes() for at in files] == [(model / at).read_bytes() for at in files]

    back = {"name": "after", "digest": said["adapters"]["tickets"]}
    back["from"] = str(tmp_path / "restored" / "adapters" / "tickets")
    assert given(url, tmp_path / "store", wish("before", artifact), back) == {}
    row = Recorded.model_validate_json((artifact / RECORD).read_bytes()).rows[0]
    with Engine(url) as engine:
        base, before, after = (
            engine.log_probabilities(name, row.ids, row.start) for name in ("base", "before", "after")
        )
    assert before == after != base


def test_files_that_are_not_what_was_promised_are_not_copied(url: str, artifact: Path, tmp_path: Path) -> None:
    promised = wish("tickets", artifact)
    other = variant(artifact, tmp_path / "other", turned)
    damaged = tmp_path / "damaged"
    shutil.copytree(artifact, damaged)
    with (damaged / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"?")
    for folder in (other, damaged):
        assert given(url, tmp_path / "store", promised | {"from": str(folder)}) == {"tickets": "AdapterLoadFailed"}
    assert list((tmp_path / "store").iterdir()) == []


def test_an_engine_that_does_not_answer_is_asked_again(artifact: Path, tmp_path: Path) -> None:
    termination = tmp_path / "termination"
    command = [sys.executable, "-m", "llmops_serving.jobs.adapters", "--engine=http://127.0.0.1:1", "--model=base"]
    command += [f"--adapters={json.dumps([wish('t', artifact)])}", f"--store={tmp_path}"]
    command += [f"--termination-log={termination}"]
    paths = os.pathsep.join(str(REPOSITORY / source) for source in ("operator", "serving"))
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, check=False)
    said = json.loads(termination.read_text())
    assert (ended.returncode, said["outcome"]) == (75, "AdapterLoadFailed")


def test_what_rules_and_dashboards_ask_of_an_engine_it_says(url: str) -> None:
    rules = [rule["expr"] for group in slo_groups() for rule in group["rules"]]
    asked = " ".join([*rules, *(query for panel in DEPLOYMENT.panels for query in panel.lines.values())])
    series = set(re.findall(r"vllm:\w+", asked))
    assert series
    assert series <= said(httpx.get(f"{url}/metrics", timeout=60, trust_env=False).text).keys()


def test_a_request_is_one_trace_from_the_gateway_into_the_engine(url: str, heard: Receiver) -> None:
    async def scenario() -> None:
        spans = Spans(heard.url, "gateway-0")
        place = Endpoint("127.0.0.1", int(url.rpartition(":")[2]), "engine-0", ready=True)
        async with rig(Model("team-a", "base", "base", endpoints=(place,))) as gateway:
            for ratio in (0, 1):
                gateway.gateway.tracer = Tracer(ratio, spans.write)
                said = {"model": "base", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
                answer = await gateway.http.post("/v1/chat/completions", json=said)
                assert answer.status_code == 200, answer.text
            await asyncio.get_running_loop().run_in_executor(None, spans.close)
            await eventually(lambda: any(span.service == "support" for span in heard.spans), "the engine's span")

    run(scenario)
    [call] = [span for span in heard.spans if span.kind == "CLIENT"]
    below = [span for span in heard.spans if span.service == "support"]
    assert {(span.trace_id, span.parent_id) for span in below} == {(call.trace_id, call.span_id)}, (
        "the request that was not recorded here was not recorded there"
    )
    tokens = call.attributes["gen_ai.usage.output_tokens"]
    assert [span.attributes["gen_ai.usage.completion_tokens"] for span in below] == [tokens]
