"""The dataset job with a real tokenizer and chat template, and from the places data comes from."""

from __future__ import annotations

import gzip
import json
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hack.hub import Hub
from tests.integration.conftest import S3
from tests.integration.finetune.conftest import Ended, Jobs, chat, made, rows

Json = dict[str, Any]


def test_good_rows_are_counted_in_tokens_and_split(jobs: Jobs) -> None:
    ended = jobs.check(rows(300), hyperparameters={"max_length": 64})
    assert (ended.code, ended.outcome["outcome"]) == (0, "DatasetValid"), ended.output
    assert (ended.outcome["train"], ended.outcome["eval"]) == (250, 50)
    tokens = ended.outcome["tokens"]
    assert tokens["stop_tokens"] == ["<|im_end|>"]
    assert 0 < tokens["p50"] <= tokens["p95"] <= tokens["max"]
    assert json.loads((jobs.volume / "data" / "report.json").read_text())["digest"] == ended.outcome["digest"]


LONG = [chat(f"{number} " + "very " * 100 + "long?", "Yes.") for number in range(20)]
REFUSED: list[tuple[str, list[Any], Json, str]] = [
    ("an answer that never fits", LONG, {"hyperparameters": {"max_length": 50}}, "raise hyperparameters.max_length"),
    ("longer than the model", rows(9), {"hyperparameters": {"max_length": 9999}}, "more than the 256 tokens"),
    ("a hyperparameter nobody knows", rows(9), {"hyperparameters": {"learning_rat": 1}}, "Did you mean learning_rate?"),
    ("a number that is none", rows(9), {"hyperparameters": {"lr_scheduler_type": "bumpy"}}, "do not go together"),
    ("conversations as plain text", rows(9), {"method": "ContinuedPretraining"}, "does not learn from"),
]


@pytest.mark.parametrize(("data", "spec", "says"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_training_would_fail_at_is_said_before(jobs: Jobs, data: list[Any], spec: Json, says: str) -> None:
    ended = jobs.check(data, **spec)
    assert ended.code == 40, ended.output
    assert says in ended.outcome["message"]


def test_a_template_that_never_teaches_to_stop_is_refused(python: Path, tmp_path: Path) -> None:
    jobs = Jobs(python, made(python, tmp_path / "model", "(end)"), tmp_path / "job")
    ended = jobs.check(rows(20))
    assert (ended.code, ended.outcome["outcome"]) == (40, "DatasetInvalid"), ended.output
    assert "never learn to stop" in ended.outcome["message"]


def test_every_answer_of_a_conversation_is_learned_with_its_end_and_nothing_else(jobs: Jobs) -> None:
    script = (
        "import json, sys; from pathlib import Path\n"
        "from llmops_serving.jobs.dataset.rendering import IGNORED, Renderer\n"
        "renderer = Renderer.of(Path(sys.argv[1]), max_length=256)\n"
        "row = renderer.rendered(json.loads(sys.argv[2]))\n"
        "print(json.dumps([renderer.tokenizer.decode([t for t in row.labels if t != IGNORED]), row.stops]))"
    )
    talk = json.dumps(chat("one?", "1", "two?", "2"))
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [jobs.python, "-c", script, jobs.model, talk],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{root}/operator:{root}/serving"},
    )
    assert json.loads(done.stdout) == ["1<|im_end|>2<|im_end|>", True]


def fetched(jobs: Jobs, source: str, *arguments: str, **environment: str) -> Ended:
    spec = {"dataset": {"source": source}}
    return jobs.start("dataset", spec, "--allow-private", *arguments, environment=environment).ended()


def test_rows_come_from_a_web_server(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows(60)).encode()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_port}"
        assert fetched(jobs, f"{base}/t.jsonl.gz").outcome["rows"] == 60
        missing = fetched(jobs, f"{base}/none.jsonl")
        assert (missing.code, missing.outcome["outcome"]) == (40, "DatasetNotFound")
    finally:
        server.shutdown()


def test_rows_come_from_a_bucket(jobs: Jobs, s3: S3) -> None:
    bucket = s3.bucket("rows")
    s3.put(bucket, "tickets/t.jsonl", "".join(json.dumps(row) + "\n" for row in rows(60)).encode())
    source = f"s3://{bucket}/tickets/t.jsonl"
    assert fetched(jobs, source, **s3.environment).outcome["rows"] == 60
    locked = fetched(jobs, source, "--endpoint", s3.endpoint)
    assert (locked.code, locked.outcome["outcome"]) == (40, "DatasetAuthFailed"), locked.output
    assert "spec.dataset.secretRef" in locked.outcome["message"]
    s3.open_to_all(bucket)
    assert fetched(jobs, source.replace("s3://", "gs://"), **s3.google_environment).outcome["rows"] == 60


def test_rows_come_from_a_hub(jobs: Jobs, tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "datasets" / "acme" / "tickets"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("# Tickets")
    (folder / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(60)))
    (folder / "data" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(20)))
    with Hub(tmp_path / "hub") as hub:
        assert fetched(jobs, "hf://acme/tickets", "--endpoint", hub.url).outcome["rows"] == 60
        assert any("/datasets/acme/tickets/resolve/" in seen.target for seen in hub.requests)
        missing = fetched(jobs, "hf://acme/none", "--endpoint", hub.url)
    assert (missing.code, missing.outcome["outcome"]) == (40, "DatasetNotFound"), missing.output


def test_rows_come_from_a_config_map_as_the_kubelet_mounts_it(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "mount" / "..1").mkdir(parents=True)
    (tmp_path / "mount" / "..data").symlink_to("..1")
    (tmp_path / "mount" / "t.jsonl").symlink_to("..data/t.jsonl")
    (tmp_path / "mount" / "..1" / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(60)))
    here = f"--file={tmp_path}/mount/t.jsonl"
    spec = {"dataset": {"source": "configMap://tickets/t.jsonl"}}
    assert jobs.start("dataset", spec, here).ended().outcome["rows"] == 60
    gone = jobs.start("dataset", spec, f"{here}.none").ended()
    assert (gone.code, gone.outcome["outcome"]) == (40, "DatasetNotFound"), gone.output


def test_a_place_in_a_private_network_is_not_reached(jobs: Jobs) -> None:
    ended = jobs.start("dataset", {"dataset": {"source": "http://127.0.0.1:9/t.jsonl"}}).ended()
    assert (ended.code, ended.outcome["outcome"]) == (40, "SourceForbidden"), ended.output
