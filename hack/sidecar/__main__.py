"""`python3 -m hack.sidecar`: ConfigMaps with a label, of every namespace, as files, as k8s-sidecar brings them.

Its settings have k8s-sidecar's names: LABEL chooses the ConfigMaps, FOLDER gets a file for each key of theirs, and
REQ_URL is posted to whenever a file has changed. Runs in a pod, with an account that may list ConfigMaps. Standard
library only.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PAUSE_SECONDS = 1
TIMEOUT_SECONDS = 30


def main() -> None:
    """Until killed. What fails, the API server or Prometheus not being there yet, is told and tried again."""
    label, folder, url = os.environ["LABEL"], Path(os.environ["FOLDER"]), os.environ["REQ_URL"]
    brought: dict[str, str] = {}
    while True:
        try:
            if (files := listed(label)) != brought:
                write(files, folder)
                with urllib.request.urlopen(url, data=b"", timeout=TIMEOUT_SECONDS):
                    brought = files
                print(f"brought {', '.join(sorted(files))}", flush=True)
        except OSError as problem:
            print(problem, file=sys.stderr, flush=True)
        time.sleep(PAUSE_SECONDS)


def listed(label: str) -> dict[str, str]:
    """The files of all ConfigMaps with this label, as the API server says.

    Raises:
        OSError: it does not answer, or refuses.
    """
    server = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    token = (ACCOUNT / "token").read_text()  # every time: it is rotated in place
    request = urllib.request.Request(
        f"{server}/api/v1/configmaps?labelSelector={urllib.parse.quote(label, safe='')}",
        headers={"Authorization": f"Bearer {token}"},
    )
    trusted = ssl.create_default_context(cafile=ACCOUNT / "ca.crt")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=trusted) as answer:
        return {name: text for item in json.load(answer)["items"] for name, text in item.get("data", {}).items()}


def write(files: dict[str, str], folder: Path) -> None:
    """Have exactly these files; none is ever seen half written."""
    for name, text in files.items():
        partial = folder / f".{name}"
        partial.write_text(text)
        partial.replace(folder / name)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()


if __name__ == "__main__":
    main()
