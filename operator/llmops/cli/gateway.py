"""Where the gateway is, and a way to it from outside the cluster."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from llmops.cli.cluster import NOT_FOUND, UNREACHABLE, CliError, Cluster, Json, Refused
from llmops.shell import resources

SELECTOR = "app.kubernetes.io/name=llmops,app.kubernetes.io/component=gateway"


def service(cluster: Cluster, namespace: str | None) -> Json:
    """The gateway's Service: in the namespace given, or wherever the reader may see one."""
    try:
        found = cluster.list(resources.SERVICE, namespace, labelSelector=SELECTOR)
    except Refused as refusal:
        if namespace is None and refusal.status == 403:
            raise CliError(
                "may not list Services of all namespaces to find the gateway: say --gateway-namespace", 4
            ) from refusal
        raise
    if not found:
        where = namespace or "any namespace"
        raise CliError(f"no gateway in {where} (a Service labelled {SELECTOR}): is the chart installed?", NOT_FOUND)
    return found[0]


@contextmanager
def forwarded(found: Json, context: str | None) -> Iterator[str]:
    """The base URL of a local port that leads to the Service for as long as the block runs."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise CliError("kubectl is needed to reach the gateway from here: install it, or give --url", UNREACHABLE)
    meta, port = found["metadata"], found["spec"]["ports"][0]["port"]
    command = [kubectl, "port-forward", "-n", meta["namespace"], f"service/{meta['name']}", f":{port}"]
    command += ["--context", context] if context else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as forward:  # noqa: S603
        try:
            line = forward.stdout.readline() if forward.stdout else ""
            match = re.search(r"127\.0\.0\.1:(\d+) ->", line)
            if match is None:
                problem = forward.stderr.read().strip() if forward.stderr else ""
                raise CliError(f"cannot reach the gateway: {problem or line}", UNREACHABLE)
            yield f"http://127.0.0.1:{match[1]}"
        finally:
            forward.terminate()
