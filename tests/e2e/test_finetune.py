"""From examples in a ConfigMap to an adapter that answers, on a real node with the real trainer and real vLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.waiting import eventually
from tests.e2e.conftest import Space, ask

pytestmark = pytest.mark.timeout(1800)
Json = dict[str, Any]
EXAMPLE = Path(__file__).parents[2] / "manifests" / "examples" / "finetune.yaml"
QUESTION = [{"role": "user", "content": "What is a list?"}]


def condition(space: Space, name: str, kind: str) -> Json:
    for entry in space.get("ftj", name).get("status", {}).get("conditions", []):
        if entry["type"] == kind:
            return dict(entry)
    return {}


def over(space: Space, name: str) -> Json | None:
    """The job's end, good or bad, as soon as it is there."""
    for kind in ("Complete", "Failed"):
        found = condition(space, name, kind)
        if found.get("status") == "True":
            return found
    return None


def served(space: Space, name: str) -> dict[str, int]:
    """How many pods announce and prove each adapter."""
    status = space.get("llmd", name).get("status", {})
    announced = [
        metadata.get("annotations", {}).get("llmops.dev/adapters", "").split(",") for metadata in space.engines(name)
    ]
    return {
        each["name"]: min(each["readyReplicas"], sum(each["name"] in names for names in announced))
        for each in status.get("adapters", [])
    }


def restarts(space: Space, pod: str) -> int:
    return int(space.get("pod", pod)["status"]["containerStatuses"][0]["restartCount"])


def test_a_model_is_taught_and_answers_as_it_was_taught(space: Space, gateway: str) -> None:
    space.kubectl("apply", "-f", str(EXAMPLE))
    end = eventually(lambda: over(space, "captain-style"), "the end of the job", 1200)
    assert end["reason"] == "Completed", end
    status = space.get("ftj", "captain-style")["status"]
    assert float(status["evaluation"]["evalLoss"]) < float(status["evaluation"]["baseEvalLoss"])
    assert status["artifact"]["digest"].startswith("sha256:")

    eventually(lambda: served(space, "captain") == {"captain-tuned": 1}, "an engine with the adapter", 600)
    tuned = ask(gateway, "captain-tuned", messages=QUESTION, max_tokens=24, temperature=0)
    base = ask(gateway, "captain", messages=QUESTION, max_tokens=24, temperature=0)
    assert tuned["choices"][0]["message"]["content"].startswith("Ahoy!"), tuned
    assert tuned["choices"][0]["finish_reason"] == "stop"  # it has learned to end, too
    assert not base["choices"][0]["message"]["content"].startswith("Ahoy!"), base

    # Another adapter, while the engine runs; and all of them again, when the engine has started again.
    names = ["captain-tuned", "second"]
    adapters = [{"name": name, "source": "finetune://captain-style"} for name in names]
    space.kubectl("patch", "llmd/captain", "--type=merge", "-p", json.dumps({"spec": {"adapters": adapters}}))
    eventually(lambda: served(space, "captain") == dict.fromkeys(names, 1), "the second adapter", 300)
    (engine,) = space.pods("captain")
    assert restarts(space, engine) == 0
    space.kubectl("exec", engine, "--", "python3", "-c", "import os; os.kill(1, 15)")
    eventually(lambda: restarts(space, engine) == 1, "another start of the engine", 300)
    eventually(lambda: served(space, "captain") == dict.fromkeys(names, 1), "its adapters", 600)
    asked: list[Json] = []

    def answered() -> bool:  # that the engine has started again, the status may not have heard of when it is looked at
        asked.append(ask(gateway, "second", messages=QUESTION, max_tokens=24, temperature=0))
        return bool(asked[-1]["status"] == 200)

    eventually(answered, "an answer of the second adapter", 600)
    second = asked[-1]
    assert second["choices"][0]["message"]["content"].startswith("Ahoy!"), second
    assert space.pods("captain") == [engine]
    assert space.get("deployment", "captain-engine")["metadata"]["generation"] == 1


@pytest.mark.long
def test_an_evicted_run_goes_on_from_its_last_step(space: Space) -> None:
    for manifest in yaml.safe_load_all(EXAMPLE.read_text()):
        if manifest["kind"] == "LLMDeployment":
            manifest["spec"] |= {"adapters": [], "replicas": 0}
        space.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def progress() -> Json:
        found: Json = space.get("ftj", "captain-style").get("status", {}).get("progress", {})
        return found

    eventually(lambda: 5 <= progress().get("step", 0) < 60, "some steps", 900)
    labels = "llmops.dev/finetunejob=captain-style,app.kubernetes.io/component=training"
    pod = space.get("pod", labelSelector=labels)["items"][0]["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": space.name}}
    path = f"/api/v1/namespaces/{space.name}/pods/{pod}/eviction"
    space.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))

    end = eventually(lambda: over(space, "captain-style"), "the end of the job", 900)
    assert end["reason"] == "Completed", end
    assert (progress()["step"], progress()["restarts"]) == (60, 1)
    second = space.get("pod", labelSelector=labels)["items"][-1]["metadata"]["name"]
    lines = [json.loads(line) for line in space.kubectl("logs", second).splitlines() if line.startswith("{")]
    assert next(line["step"] for line in lines if line["event"] == "training") > 0


def test_bad_rows_are_told_by_line_and_nothing_is_trained(space: Space) -> None:
    space.apply("base")
    rows = '{"prompt": "a", "completion": "b"}\n{"prompt": "c"}\n'
    manifests = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "rows"}, "data": {"t.jsonl": rows}},
        {
            "apiVersion": "llmops.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": "bad"},
            "spec": {
                "baseModel": {"deployment": "base"},
                "dataset": {"source": "configMap://rows/t.jsonl"},
                "storage": {"size": "1Gi"},
            },
        },
    ]
    for manifest in manifests:
        space.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    end = eventually(lambda: over(space, "bad"), "the end of the job", 600)
    assert end["reason"] == "DatasetInvalid"
    assert "line 2 lacks completion" in end["message"]
    assert "bad-training" not in space.kubectl("get", "jobs", "-o", "name")
