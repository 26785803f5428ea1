"""People stream while everything is changed under them: a real node, real vLLM, the platform as its chart installs it.

`python -m bench.gateway continuity` brings up the cluster of `make demo` if it is not up. Clients are a pod that asks
the gateway's Service, each request on a connection of its own, a second after the last one: without it, two of them
take the processors of a small machine from the engines that are to start. A change is over when the new state is
whole; a request counts for the change that was the last to begin before it ended.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.cluster.progress import step
from hack.demo.install import SYSTEM, Platform, installed

SPACE = "bench-continuity"
NAME = "steady"
PATIENCE_SECONDS = 420.0
Json = dict[str, Any]

# A line for each request: when it ended, how long it took until its first token, and what was wrong with it.
CLIENT = """
import http.client, json, os, sys, threading, time
host, model, people = sys.argv[1], sys.argv[2], int(sys.argv[3])
question = {"role": "user", "content": "What is a list?"}
body = json.dumps({"model": model, "stream": True, "max_tokens": 32, "ignore_eos": True, "messages": [question]})
def ask():
    link, begun, first = http.client.HTTPConnection(host, timeout=600), time.time(), None
    try:
        link.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        answer, text = link.getresponse(), b""
        while piece := answer.read1():
            text += piece
            if first is None and b"data:" in text:
                first = time.time() - begun
        whole = answer.status == 200 and b"[DONE]" in text and b'"error"' not in text
        return {"first": first, "problem": None if whole else f"{answer.status} {text[-300:]!r}"}
    except (OSError, http.client.HTTPException) as problem:
        return {"first": first, "problem": repr(problem)}
    finally:
        link.close()
def person():
    while True:
        told = ask()
        os.write(1, json.dumps({"at": time.time(), **told}).encode() + b"\\n")
        time.sleep(1)
for _ in range(people):
    threading.Thread(target=person).start()
"""


@dataclass(frozen=True)
class Change:
    """What was done, and how long it took until all was as it should be."""

    what: str
    begun: float
    ended: float


class Place:
    """The namespace, and what a user does in it."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.platform.kubectl("-n", SPACE, *arguments, stdin=stdin)

    def apply(self, replicas: int, max_model_len: int) -> None:
        spec = {
            "model": {"source": "hf://llmops/tiny-llama", "storage": {"size": "1Gi"}},
            "accelerator": {"profile": "cpu"},
            "engine": {"maxModelLen": max_model_len},
            "replicas": replicas,
        }
        meta = {"name": NAME}
        manifest = {"apiVersion": "llmops.dev/v1alpha1", "kind": "LLMDeployment", "metadata": meta, "spec": spec}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def engines(self) -> list[Json]:
        selector = f"llmops.dev/deployment={NAME},app.kubernetes.io/component=engine"
        found: list[Json] = json.loads(self.kubectl("get", "pods", "-l", selector, "-o", "json"))["items"]
        return found

    def settled(self, replicas: int, *, of: int) -> bool:
        """Whether exactly so many engines are there, all ready and started with this `maxModelLen`."""
        engines = self.engines()
        return len(engines) == replicas and all(
            _ready(engine) and f"--max-model-len={of}" in engine["spec"]["containers"][0]["args"] for engine in engines
        )

    def requests(self) -> list[Json]:
        return [json.loads(line) for line in self.kubectl("logs", "people").splitlines()]

    def start_people(self, count: int) -> None:
        container = {
            "name": "people",
            "image": self.platform.images["serving"],
            "command": ["python3", "-c", CLIENT],
            "args": [f"llmops-gateway.{SYSTEM}.svc", f"{SPACE}/{NAME}", str(count)],
        }
        spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
        manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "people"}, "spec": spec}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
        self.kubectl("wait", "--for=condition=Ready", "pod/people", "--timeout=180s")
        until(self.requests, "the first answer")


def main(people: int, replicas: int, path: Path | None) -> int:
    """Run all of it; 1 when a request failed."""
    platform = installed()
    with _place(platform) as place:
        place.apply(1, 256)
        until(lambda: place.settled(1, of=256), "the first engine")
        place.start_people(people)
        changes = list(_changes(place, replicas))
        # what still streams was asked during the last change
        known = len(place.requests())
        until(lambda: len(place.requests()) >= known + people, "the streams of the last change")
        asked = place.requests()
    ends = [*(change.begun for change in changes[1:]), time.time()]
    rows = [_row(change, asked, end) for change, end in zip(changes, ends, strict=True)]
    _show(rows, people)
    if path is not None:
        path.write_text(json.dumps(rows, indent=2))
    return 1 if any(row["failed"] for row in rows) else 0


def _changes(place: Place, replicas: int) -> Iterator[Change]:
    def restarted(deployment: str) -> bool:
        place.platform.kubectl("rollout", "restart", f"deployment/{deployment}", "-n", SYSTEM)
        place.platform.kubectl("rollout", "status", f"deployment/{deployment}", "-n", SYSTEM, "--timeout=240s")
        return True

    def deleted() -> bool:
        lost = place.engines()[0]["metadata"]["name"]
        place.kubectl("delete", "pod", lost, "--wait=false")
        return until(
            lambda: place.settled(replicas, of=256) and all(e["metadata"]["name"] != lost for e in place.engines()),
            "another pod",
        )

    def sized(count: int, length: int) -> bool:
        place.apply(count, length)
        return until(lambda: place.settled(count, of=length), f"{count} engines with maxModelLen {length}")

    steps: list[tuple[str, Callable[[], bool]]] = [
        (f"1 to {replicas} replicas", lambda: sized(replicas, 256)),
        ("an engine pod deleted", deleted),
        ("gateway restarted", lambda: restarted("llmops-gateway")),
        ("operator restarted", lambda: restarted("llmops-operator")),
        ("maxModelLen 256 to 128", lambda: sized(replicas, 128)),
        (f"{replicas} to 1 replicas", lambda: sized(1, 128)),
    ]
    for what, act in steps:
        begun = time.time()
        with step(what):
            act()
        yield Change(what, begun, time.time())


def until(holds: Callable[[], Any], what: str) -> bool:
    """Wait for it; True.

    Raises:
        SystemExit: it did not come.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {PATIENCE_SECONDS:g} s: {what}")
        time.sleep(1)
    return True


@contextmanager
def _place(platform: Platform) -> Iterator[Place]:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}}
    platform.kubectl("apply", "-f", "-", stdin=json.dumps(namespace))
    try:
        yield Place(platform)
    finally:
        platform.kubectl("delete", "namespace", SPACE, "--wait=false")


def _ready(pod: Json) -> bool:
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def _row(change: Change, requests: list[Json], until_next: float) -> Json:
    during = [each for each in requests if change.begun <= each["at"] < until_next]
    problems = [each["problem"] for each in during if each["problem"]]
    firsts = [each["first"] for each in during if each["first"] is not None]
    return {
        "change": change.what,
        "seconds": round(change.ended - change.begun, 1),
        "streams": len(during),
        "failed": len(problems),
        "longestFirstTokenSeconds": round(max(firsts, default=0.0), 2),
        "problems": problems[:5],
    }


def _show(rows: list[Json], people: int) -> None:
    print(f"{people} clients stream")
    print(f"{'':26}{'seconds':>9}{'streams':>9}{'failed':>8}{'first token, max':>18}")
    for row in rows:
        print(
            f"{row['change']:26}{row['seconds']:9.1f}{row['streams']:9}{row['failed']:8}"
            f"{row['longestFirstTokenSeconds']:16.2f} s"
        )
        for problem in row["problems"]:
            print(f"    {problem}")
