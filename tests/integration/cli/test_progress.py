"""`llmops logs -f JOB` against a server that speaks the API's paths for one FineTuneJob and its pods."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.integration.cli.conftest import Cli

Json = dict[str, Any]
STEPS = [
    {"event": "training", "step": 0, "total": 60},
    {"event": "progress", "step": 20, "total": 60, "loss": 2.5, "tokens_per_second": 900, "eta_seconds": 40},
    {"event": "checkpoint", "step": 20, "total": 60},
    {"event": "progress", "step": 60, "total": 60, "loss": 1.25, "eval_loss": 1.5, "best_loss": 1.5},
    {"event": "ended", "outcome": "Completed", "message": "The best checkpoint is step 60 of 60."},
]
CHECKED = [{"event": "ended", "outcome": "DatasetValid", "message": "300 rows."}]


class Api(ThreadingHTTPServer):
    """The job goes on with every look: the check, then training, then its end."""

    def __init__(self, end: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.end, self.looks = end, 0

    def condition(self, kind: str, status: str, reason: str) -> Json:
        return {"type": kind, "status": status, "reason": reason, "message": f"({reason})"}

    def job(self) -> Json:
        self.looks += 1
        if self.looks < 4:
            return {"status": {"conditions": [self.condition("Running", "True", "Training")]}}
        reason = "Completed" if self.end == "Complete" else "Diverged"
        ends = [self.condition("Running", "False", reason), self.condition(self.end, "True", reason)]
        return {"status": {"conditions": ends}}

    def pods(self) -> list[Json]:
        names = ["job-dataset-a", "job-training-0", "job-training-1"][: 1 if self.looks < 3 else 3]
        return [self.pod(index, name) for index, name in enumerate(names)]

    def pod(self, index: int, name: str) -> Json:
        meta: Json = {"name": name, "namespace": "default", "uid": name, "labels": {}}
        meta["creationTimestamp"] = f"2026-11-21T10:00:0{index}Z"
        if name[-1].isdigit():
            meta["labels"] = {"batch.kubernetes.io/job-completion-index": name[-1]}
        return {"metadata": meta, "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Succeeded"}}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        api: Any = self.server
        path = urlsplit(self.path).path
        if path.endswith("/log"):
            events = {"job-dataset-a": CHECKED, "job-training-0": STEPS}[path.split("/")[-2]]
            self.answer(200, "not of ours\n" + "".join(json.dumps(event) + "\n" for event in events))
        elif path.endswith("/finetunejobs/job"):
            self.answer(200, json.dumps(api.job()))
        elif path.endswith("/pods"):
            self.answer(200, json.dumps({"items": api.pods()}))
        else:
            self.answer(404, json.dumps({"message": f"{path} not found"}))

    def answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    server = Api(request.param)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def cli(api: Api, tmp_path: Path) -> Cli:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{api.server_port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    return Cli(tmp_path / "config")


@pytest.mark.parametrize("api", ["Complete"], indirect=True)
def test_off_a_terminal_every_piece_of_news_is_a_line(cli: Cli) -> None:
    answer = cli("logs", "-f", "job")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines() == [
        "Training: (Training)",
        "DatasetValid: 300 rows.",
        "training from step 0 to 60",
        "step 20 of 60 (33 %), loss 2.5, 900 tokens/s, 40 s left",
        "checkpoint at step 20",
        "step 60 of 60 (100 %), loss 1.25, held-out loss 1.5, best 1.5",
        "Completed: The best checkpoint is step 60 of 60.",
        "Completed: (Completed)",
    ]


@pytest.mark.parametrize("api", ["Failed"], indirect=True)
def test_a_job_that_fails_fails_the_command(cli: Cli) -> None:
    answer = cli("logs", "--follow", "job")
    assert (answer.code, answer.out.splitlines()[-1]) == (1, "Diverged: (Diverged)")


@pytest.mark.parametrize("api", ["Complete"], indirect=True)
def test_on_a_terminal_the_steps_are_a_bar(cli: Cli) -> None:
    ours, theirs = pty.openpty()
    environment = {**cli.environment, "TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(cli.command("logs", "-f", "job"), stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
        os.close(ours)
        assert process.wait(60) == 0, shown
    text = shown.decode()
    assert "60/60" in text
    assert "━" in text
    assert "loss 1.25" in text
    assert "step 20 of 60" not in text


@pytest.mark.parametrize("api", ["Complete"], indirect=True)
def test_a_name_that_nobody_has_is_said(cli: Cli) -> None:
    answer = cli("logs", "-f", "nobody")
    assert (answer.code, "not found" in answer.err) == (3, True)
