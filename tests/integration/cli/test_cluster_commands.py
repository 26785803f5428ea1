"""What the commands say about a cluster, and how they end."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster.controlplane import ControlPlane
from llmops.api.drift_state import Memories, Memory, Onset, State
from llmops.desired.alerts import baselines_config_map
from llmops.judge.drift.baseline import Histogram
from llmops.judge.drift.threshold import frozen
from llmops_serving.gateway.keys import from_secret
from tests.integration.cli.conftest import Cli

SOURCE = "hf://org/model"
MOMENT = "2026-11-20T12:00:00Z"
STUCK = (
    "GPU nvidia.com/gpu=8 fits no node (largest free: 4 of 4 on gpu-node-with-a-long-name-17). "
    "Lower spec.accelerator.count or add a node."
)
SCALING = f"Replicas follow load between 1 and 4. Last change: 1 to 2: 24 requests in flight (DemandRose, {MOMENT})."


def deployment(namespace: str, name: str = "support") -> dict[str, Any]:
    auto = {"minReplicas": 1, "maxReplicas": 4, "target": {"concurrency": 16}}
    return {
        "apiVersion": "llmops.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"model": {"source": SOURCE}, "autoscaling": auto},
    }


def apply(plane: ControlPlane, *manifests: dict[str, Any]) -> None:
    plane.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(manifests))


def made(plane: ControlPlane, namespace: str, *, ready: str) -> None:
    """A deployment with a status as the operator writes it, and one owned workload with a pod."""
    apply(plane, deployment(namespace))
    live = json.loads(plane.kubectl("get", "llmd", "support", "-n", namespace, "-o", "json"))
    given = [
        ("Ready", ready, "Serving" if ready == "True" else "WaitingForGPU", STUCK),
        ("ScalingActive", "True", "FollowingLoad", SCALING),
    ]
    conditions = [
        {
            "type": kind,
            "status": state,
            "reason": reason,
            "message": message,
            "lastTransitionTime": MOMENT,
            "observedGeneration": 1,
        }
        for kind, state, reason, message in given
    ]
    status = {"status": {"conditions": conditions, "desiredReplicas": 2, "readyReplicas": 1, "observedGeneration": 1}}
    plane.kubectl(
        "patch", "llmd", "support", "-n", namespace, "--subresource=status", "--type=merge", "-p", json.dumps(status)
    )
    labels = {"llmops.dev/deployment": "support", "app.kubernetes.io/component": "engine"}
    owner = {
        "apiVersion": "llmops.dev/v1alpha1",
        "kind": "LLMDeployment",
        "name": "support",
        "uid": live["metadata"]["uid"],
    }
    container = {
        "name": "engine",
        "image": "localhost/engine",
        "env": [{"name": "HF_TOKEN", "value": "plain-in-the-open"}],
    }
    pod = {"containers": [container]}
    meta = {"name": "support", "namespace": namespace, "labels": labels, "ownerReferences": [owner]}
    workload = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    one = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "support-0", "namespace": namespace, "labels": labels},
        "spec": pod,
    }
    apply(plane, workload, one)


def test_status_lists_what_is_there(plane: ControlPlane, cli: Cli, namespace: str) -> None:
    made(plane, namespace, ready="False")
    answer = cli("status", "-n", namespace)
    header, line = answer.out.splitlines()
    assert answer.code == 0
    assert header.split() == ["NAME", "READY", "REASON", "REPLICAS", "MODEL", "AGE"]
    assert line.split()[:5] == ["support", "False", "WaitingForGPU", "1/2", SOURCE]
    assert namespace in cli("status", "-A").out
    assert cli("status", "-n", namespace, "-o", "json").json[0]["metadata"]["name"] == "support"


def test_status_of_one_shows_conditions_and_children(plane: ControlPlane, cli: Cli, namespace: str) -> None:
    made(plane, namespace, ready="False")
    answer = cli("status", "support", "-n", namespace)
    assert answer.code == 1, "not ready is a no"
    assert f"Ready=False WaitingForGPU: {STUCK}\n" in answer.out, "the remedy stands at its end"
    assert "Deployment/support  0/2 ready" in answer.out
    assert "Pod/support-0" in answer.out


def test_status_of_a_ready_one_is_yes(plane: ControlPlane, cli: Cli, namespace: str) -> None:
    made(plane, namespace, ready="True")
    answer = cli("status", "support", "-n", namespace, "-o", "json")
    assert answer.code == 0
    assert set(answer.json["children"]) == {"Deployment", "Pod"}


def test_a_reader_gets_what_a_reader_may_see(plane: ControlPlane, reader: Cli, namespace: str) -> None:
    made(plane, namespace, ready="True")
    answer = reader("status", "support", "-n", namespace)
    assert answer.code == 0
    assert "Deployment/support" in answer.out
    assert "Pod: not permitted" in answer.out


def test_watch_off_a_terminal_prints_a_line_per_change(plane: ControlPlane, cli: Cli, namespace: str) -> None:
    made(plane, namespace, ready="False")
    command = cli.command("status", "support", "-n", namespace, "-w", "--interval", "0.1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=cli.environment) as watching:
        assert watching.stdout is not None
        first = [watching.stdout.readline() for _ in range(3)]
        change = {"status": {"readyReplicas": 2}}
        plane.kubectl(
            "patch",
            "llmd",
            "support",
            "-n",
            namespace,
            "--subresource=status",
            "--type=merge",
            "-p",
            json.dumps(change),
        )
        second = watching.stdout.readline()
        watching.terminate()
    assert "Replicas 1 of 2 ready" in "".join(first)
    assert second.rstrip().endswith("Replicas 2 of 2 ready")


def test_exit_codes(plane: ControlPlane, cli: Cli, reader: Cli, namespace: str, tmp_path: Path) -> None:
    assert cli("status", "nobody", "-n", namespace).code == 3
    assert reader("keys", "list", "-n", namespace).code == 4
    assert Cli(tmp_path / "none")("status").code == 5
    dead = yaml.safe_load(plane.kubeconfig.read_text())
    dead["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    (tmp_path / "dead").write_text(yaml.safe_dump(dead))
    answer = Cli(tmp_path / "dead")("status")
    assert (answer.code, "Traceback" in answer.err) == (5, False)
    assert cli("status", "--nonsense").code == 2


def test_explain_scaling_prints_inputs_decision_and_reason(plane: ControlPlane, cli: Cli, namespace: str) -> None:
    made(plane, namespace, ready="True")
    text = cli("explain", "scaling", "support", "-n", namespace)
    assert text.code == 0
    assert "support: 2 replicas" in text.out
    assert SCALING in text.out
    assert "least now 1; least 1; most 4; target concurrency per replica 16" in text.out
    assert "wanted 2; ready 0; not ready 1" in text.out
    facts = cli("explain", "scaling", "support", "-n", namespace, "-o", "json").json
    assert facts["decision"]["replicas"] == 2
    assert facts["size"] == {"wanted": 2, "ready": 0, "not ready": 1}


def drifting(plane: ControlPlane, namespace: str) -> None:
    """A deployment whose traffic drifts, as the operator leaves it: a condition, and what it remembers."""
    apply(plane, deployment(namespace) | {"spec": {**deployment(namespace)["spec"], "drift": {}}})
    told = {"type": "Drifted", "status": "True", "reason": "Drifting", "message": "PromptTokens since noon."}
    status = {"status": {"conditions": [told | {"lastTransitionTime": MOMENT, "observedGeneration": 1}]}}
    where = ("llmd", "support", "-n", namespace)
    plane.kubectl("patch", *where, "--subresource=status", "--type=merge", "-p", json.dumps(status))
    at = datetime(2026, 11, 20, 12, tzinfo=UTC)
    windows = [Histogram((100, 200, 400, 800), (200.0,) * 5)] * 20
    onset = Onset(since=at, debiased=0.466, threshold=0.1, samples=500, bins=(("0-100", 0.253),))
    memory = Memory(key="k", state=State.DRIFTING, since=at, learn_from=at, onset=onset)
    learned = frozen("PromptTokens", windows, key="k", signals=1, at=at)
    stored = baselines_config_map({"name": "support-drift", "namespace": namespace}, [learned])
    stored["data"]["memory.json"] = Memories(signals={"PromptTokens": memory}).model_dump_json(by_alias=True)
    apply(plane, stored)


def test_drift_is_told_and_its_owner_has_a_word(plane: ControlPlane, cli: Cli, reader: Cli, namespace: str) -> None:
    drifting(plane, namespace)
    answer = cli("drift", "status", "support", "-n", namespace)
    assert answer.code == 1, "a drift that nobody acknowledged is a no"
    assert "Drifting: PromptTokens since noon." in answer.out
    line = answer.out.splitlines()[-1].split("   ")
    assert [part.strip() for part in line if part.strip()][:2] == ["PromptTokens", "Drifting"]
    assert "20000 in 20 windows" in answer.out
    assert "0-100 (0.253)" in answer.out
    before = json.loads(plane.kubectl("get", "llmd", "support", "-n", namespace, "-o", "json"))
    assert reader("drift", "ack", "support", "-n", namespace).code == 4
    for verb, annotation in (("ack", "llmops.dev/drift-acknowledged"), ("rebase", "llmops.dev/drift-rebased")):
        assert cli("drift", verb, "support", "-n", namespace).code == 0
        after = json.loads(plane.kubectl("get", "llmd", "support", "-n", namespace, "-o", "json"))
        assert (after["spec"], after["metadata"]["generation"]) == (before["spec"], before["metadata"]["generation"])
        assert datetime.fromisoformat(after["metadata"]["annotations"][annotation]).tzinfo is not None


def test_a_deployment_that_is_not_watched_says_so(plane: ControlPlane, cli: Cli, namespace: str) -> None:
    apply(plane, deployment(namespace))
    answer = cli("drift", "status", "support", "-n", namespace)
    assert (answer.code, "add `drift: {}`" in answer.err) == (1, True)


def test_a_key_is_shown_once_and_kept_as_a_hash(plane: ControlPlane, cli: Cli, namespace: str) -> None:
    created = cli(
        "keys",
        "create",
        "team-b",
        "--tenant",
        "b",
        "--model",
        "team-a/support",
        "--requests-per-minute",
        "60",
        "-n",
        namespace,
    )
    assert created.code == 0
    key = created.out.strip()
    secret = json.loads(plane.kubectl("get", "secret", "team-b", "-n", namespace, "-o", "json"))
    data = {field: base64.b64decode(value).decode() for field, value in secret["data"].items()}
    assert secret["metadata"]["labels"] == {"llmops.dev/api-key": "true"}
    assert data == {
        "hash": hashlib.sha256(key.encode()).hexdigest(),
        "tenant": "b",
        "models": "team-a/support",
        "requestsPerMinute": "60",
    }
    listed = cli("keys", "list", "-n", namespace)
    assert listed.out.splitlines()[1].split()[:4] == ["team-b", "b", "team-a/support", "60"]
    assert key not in listed.out
    assert data["hash"] not in listed.out
    assert cli("keys", "create", "team-b", "--tenant", "b", "-n", namespace).code == 1, "a name is not reused silently"
    assert cli("keys", "revoke", "team-b", "-n", namespace).code == 0
    assert cli("keys", "revoke", "team-b", "-n", namespace).code == 3


def test_a_tenant_the_gateway_would_not_take_makes_no_key(plane: ControlPlane, cli: Cli, namespace: str) -> None:
    assert cli("keys", "create", "odd", "--tenant", "team b!", "-n", namespace).code == 2
    assert "odd" not in plane.kubectl("get", "secret", "-n", namespace, "-o", "name")


def test_the_gateway_takes_what_keys_create_makes(plane: ControlPlane, cli: Cli, namespace: str) -> None:
    limits = ["--model", "team-a/*", "--tokens-per-minute", "9000", "--concurrency", "4", "--monthly-tokens", "1000000"]
    text = cli("keys", "create", "full", "--tenant", "b", *limits, "-n", namespace).out.strip()
    key = from_secret(json.loads(plane.kubectl("get", "secret", "full", "-n", namespace, "-o", "json")))
    assert key.digest == hashlib.sha256(text.encode()).digest()
    assert (key.tenant, key.models) == ("b", frozenset({"team-a/*"}))
    assert (key.tokens_per_minute, key.concurrency, key.monthly_tokens) == (9000, 4, 1_000_000)


def test_revoke_touches_keys_only(plane: ControlPlane, cli: Cli, namespace: str) -> None:
    plane.kubectl("create", "secret", "generic", "database", "-n", namespace, "--from-literal=password=x")
    assert cli("keys", "revoke", "database", "-n", namespace).code == 3
    assert "database" in plane.kubectl("get", "secret", "-n", namespace, "-o", "name")


def test_keys_find_the_gateway_by_its_service(plane: ControlPlane, cli: Cli, namespace: str) -> None:
    labels = {"app.kubernetes.io/name": "llmops", "app.kubernetes.io/component": "gateway"}
    meta = {"name": "llmops-gateway", "namespace": namespace, "labels": labels}
    apply(plane, {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": 80}]}})
    try:
        assert cli("keys", "create", "found", "--tenant", "b").code == 0
        assert "found" in plane.kubectl("get", "secret", "-n", namespace, "-o", "name")
    finally:
        plane.kubectl("delete", "service", "llmops-gateway", "-n", namespace)


def test_doctor_names_what_is_missing(cli: Cli, reader: Cli) -> None:
    answer = cli("doctor", "-o", "json")
    verdicts = {each["check"]: each["verdict"] for each in answer.json}
    assert answer.code == 1
    assert verdicts["versions"] == "ok"
    assert verdicts["kinds"] == "ok"
    assert (verdicts["operator"], verdicts["gateway"], verdicts["lease"]) == ("problem", "problem", "problem")
    assert verdicts["policy"] == "warning", "the chart with its policy is not installed here"
    limited = {each["check"]: each["verdict"] for each in reader("doctor", "-o", "json").json}
    assert limited["operator"] == "unknown"
    assert limited["kinds"] == "ok"


def test_doctor_names_who_waits_for_somebody(plane: ControlPlane, cli: Cli, namespace: str) -> None:
    made(plane, namespace, ready="False")
    stalled = {
        "type": "Stalled",
        "status": "True",
        "reason": "ModelNotFound",
        "message": "m",
        "lastTransitionTime": MOMENT,
        "observedGeneration": 1,
    }
    patch = json.dumps({"status": {"conditions": [stalled]}})
    command = ("patch", "llmd", "support", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)
    plane.kubectl(*command)
    (objects,) = [each for each in cli("doctor", "-o", "json").json if each["check"] == "objects"]
    assert objects["verdict"] == "warning"
    assert f"LLMDeployment {namespace}/support: ModelNotFound" in objects["message"]


def test_report_has_the_objects_and_no_secret(plane: ControlPlane, cli: Cli, namespace: str, tmp_path: Path) -> None:
    made(plane, namespace, ready="False")
    plane.kubectl("create", "secret", "generic", "hub", "-n", namespace, "--from-literal=HF_TOKEN=planted-in-a-secret")
    plane.kubectl("annotate", "llmd", "support", "-n", namespace, "note=see https://u:planted-in-a-url@example.org")
    bundle = tmp_path / "bundle.tar.gz"
    answer = cli("report", "-n", namespace, "--to", str(bundle))
    assert answer.code == 0
    with tarfile.open(bundle) as opened:
        files = {entry.name: opened.extractfile(entry).read().decode() for entry in opened}  # type: ignore[union-attr]
    everything = "\n".join(files.values())
    assert f"llmops-report/{namespace}/llmdeployments.json" in files
    assert {"operator", "policy"} <= {each["check"] for each in json.loads(files["llmops-report/doctor.json"])}
    assert SOURCE in everything
    for planted in ("planted-in-a-secret", "planted-in-a-url", "plain-in-the-open"):
        assert planted not in everything
    assert cli("report", "-n", namespace, "--to", str(bundle)).code == 1, "an existing file is not overwritten"


def test_lint_and_the_server_agree_on_an_example(plane: ControlPlane, cli: Cli, namespace: str, tmp_path: Path) -> None:
    good, bad = deployment(namespace), deployment(namespace)
    bad["spec"]["autoscaling"]["minReplicas"] = 9
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(good))
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump_all([good, bad, {"apiVersion": "v1", "kind": "ConfigMap"}]))
    assert cli("lint", str(tmp_path / "good.yaml")).code == 0
    refused = cli("lint", str(tmp_path / "bad.yaml"), "-o", "json")
    assert refused.code == 1
    assert [bool(each["problems"]) for each in refused.json] == [False, True]
    assert "minReplicas 9 is more than maxReplicas 4" in refused.json[1]["problems"][0]
    with pytest.raises(subprocess.CalledProcessError) as server:
        plane.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(bad))
    assert "minReplicas 9 is more than maxReplicas 4" in server.value.stderr
    assert cli("lint", "-", stdin="a: [").code == 1
