"""`make demo`: from this checkout to a streamed answer of a real model on a real cluster; `make demo-down` undoes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from hack.cluster.progress import say
from hack.cluster.provider import choose, providers
from hack.demo.install import ROOT, SYSTEM, Platform, installed

EXAMPLE = ROOT / "manifests" / "examples" / "quickstart.yaml"
QUESTION = "What is a Python function?"
READY_SECONDS = 600

NEXT = """
Next:
  export KUBECONFIG={kubeconfig}
  kubectl get llmd -o wide
  kubectl describe llmd quickstart
  kubectl explain llmd.spec.model
  kubectl port-forward -n {system} svc/llmops-gateway 8080:80 &
  curl http://localhost:8080/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "quickstart", "stream": true, "messages": [{{"role": "user", "content": "{question}"}}]}}'
  make demo-down
"""


def main() -> int:
    """Run one verb; 0 only if tokens came from vLLM in a pod."""
    parser = argparse.ArgumentParser(prog="python3 -m hack.demo", description=__doc__)
    parser.add_argument("verb", choices=["up", "finetune", "restore", "down"], nargs="?", default="up")
    verb = parser.parse_args().verb
    try:
        if verb == "finetune":
            return taught()
        if verb == "restore":
            return restored()
        if verb == "down":
            choose(None, providers()).down()
            return 0
        return up()
    except subprocess.CalledProcessError as failure:
        print(f"error: {failure.cmd[0]} said: {(failure.stderr or '').strip()[-2000:]}", file=sys.stderr)
    except (RuntimeError, TimeoutError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
    return 1


def up() -> int:
    """Install, apply the example, wait for it with its own words, and ask it something."""
    platform = installed()
    platform.kubectl("apply", "-f", str(EXAMPLE))
    wait_until_ready(platform, "quickstart")
    with forwarded(platform) as base:
        tokens = chat(base, "quickstart", QUESTION)
    engine = platform.kubectl(
        "get", "pods", "-l", "llmops.dev/deployment=quickstart,app.kubernetes.io/component=engine", "-o", "name"
    )
    say(f"{tokens} tokens from vLLM in {engine.split()[0]}")
    print(NEXT.format(kubeconfig=platform.provider.kubeconfig, system=SYSTEM, question=QUESTION))
    return 0 if tokens else 1


def taught() -> int:
    """Train an adapter on the example's rows, load it into the engine that runs, ask both; 0 if only it was taught."""
    from hack.demo.finetune import School  # noqa: PLC0415 - only here

    platform = installed(more=("trainer",))
    with forwarded(platform) as base:
        return 0 if School(platform, base, "finetune-demo").run() else 1


def restored() -> int:
    """Back model and adapter up, delete namespace and volumes, restore from the bucket, compare what they answer."""
    from hack.demo.restore import Lesson  # noqa: PLC0415 - only here

    platform = installed(more=("trainer", "demo-s3"))
    with forwarded(platform) as base:
        before, after = Lesson(platform, base, "restore-demo").run()
    for model, numbers in before.items():
        equal = numbers == after[model]
        say(f"{model}: {len(numbers)} tokens, log-probabilities before and after are equal: {equal}")
    return 0 if before and before == after else 1


def wait_until_ready(platform: Platform, name: str, namespace: str = "default") -> None:
    """Print each new reason of the deployment's own status until it is ready."""
    told = ""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        live = json.loads(platform.kubectl("get", "llmd", name, "-n", namespace, "-o", "json"))
        status = live.get("status", {})
        ready = next((entry for entry in status.get("conditions", []) if entry["type"] == "Ready"), None)
        if not status and not told:
            told = f"no status yet: the operator has not looked at it (kubectl logs -n {SYSTEM} deploy/llmops-operator)"
            say(f"{name} has {told}")
        if ready:
            line = f"{ready['reason']}: {ready['message']}"
            if line != told:
                say(f"{name} Ready={ready['status']} {line}")
                told = line
            if ready["status"] == "True" and status.get("readyReplicas"):
                return
        time.sleep(0.5)
    raise TimeoutError(f"{name} did not become ready within {READY_SECONDS} s; last: {told}")


@contextmanager
def forwarded(platform: Platform) -> Iterator[str]:
    """The gateway's base URL on this machine, as any user can have it."""
    from hack.cluster import tools  # noqa: PLC0415 - only here

    process = subprocess.Popen(
        [
            tools.program("kubernetes", "kubectl"),
            f"--kubeconfig={platform.provider.kubeconfig}",
            *("port-forward", "-n", SYSTEM, "service/llmops-gateway", ":80", "--address", "127.0.0.1"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        if "->" not in line:
            raise RuntimeError("kubectl port-forward to the gateway did not start")
        yield f"http://{line.split(' -> ')[0].removeprefix('Forwarding from ')}"
    finally:
        process.terminate()
        process.wait()


def chat(base: str, model: str, question: str) -> int:
    """Ask, print the answer as it arrives, and return how many pieces came."""
    body = {
        "model": model,
        "stream": True,
        "max_tokens": 96,
        "temperature": 0,
        "messages": [{"role": "user", "content": question}],
    }
    request = urllib.request.Request(
        f"{base}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    print(f"\n> {question}\n", flush=True)
    pieces = 0
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            for raw in answer:
                line = raw.decode().strip()
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                delta = json.loads(line[6:])["choices"][0]["delta"].get("content")
                if delta:
                    pieces += 1
                    print(delta, end="", flush=True)
    except urllib.error.HTTPError as refusal:
        raise RuntimeError(f"the gateway answered {refusal.code}: {refusal.read().decode()[:500]}") from refusal
    print("\n", flush=True)
    return pieces


if __name__ == "__main__":
    sys.exit(main())
