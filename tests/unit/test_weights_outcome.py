from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llmops_serving.jobs import outcome
from llmops_serving.jobs.outcome import Failure, Outcome, Reason
from llmops_serving.jobs.redaction import redact, secrets_of
from llmops_serving.jobs.weights.sources.http import retry_after

SECRET = "s3cr3t/with+signs="
LEAKS = [
    ("a given secret", f"login failed for {SECRET}!", SECRET),
    ("a given secret inside a URL", "http://x/?a=s3cr3t%2Fwith%2Bsigns%3D", "s3cr3t%2Fwith"),
    ("a hub token", "token hf_AbCdEfGhIjKlMn refused", "hf_AbCd"),
    ("an AWS key", "key AKIAIOSFODNN7EXAMPLE unknown", "AKIAIOSFODNN7EXAMPLE"),
    ("a temporary AWS key", "ASIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE"),
    ("a bearer", "authorization: Bearer abc.def-ghi", "abc.def-ghi"),
    ("basic credentials", "Authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNz"),
    ("a user in a URL", "http://user:pa55word@host/x", "pa55word"),
    ("a signed S3 URL", "https://b/x?X-Amz-Credential=AK%2F1&X-Amz-Signature=deadbeef", "deadbeef"),
    ("a signed Azure URL", "https://b/x?sv=2024&se=2026&sig=abc%3D", "abc%3D"),
    ("a signed GCS URL", "https://b/x?X-Goog-Signature=cafe", "cafe"),
    ("a CloudFront URL", "https://b/x?Expires=1&Signature=sign~ature&Key-Pair-Id=KPID", "sign~ature"),
    ("an API key in a URL", "https://b/x?api_key=k3y", "k3y"),
    ("a private key", "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----", "MIIE"),
    ("a setting", "aws_secret_access_key = wJalrXUtnFEMI", "wJalrXUtnFEMI"),
]


@pytest.mark.parametrize(("text", "leak"), [case[1:] for case in LEAKS], ids=[case[0] for case in LEAKS])
def test_secrets_are_masked(text: str, leak: str) -> None:
    assert leak in text
    assert leak not in redact(text, [SECRET])


@pytest.mark.parametrize(
    "text", ["s3://bucket/a/model.safetensors: 404", "hf://org/name has no revision 'v1'", "12 GiB of 40"]
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text, [SECRET, ""]) == text


def test_the_environment_tells_what_is_secret() -> None:
    environment = {"HF_TOKEN": "a", "AWS_SECRET_ACCESS_KEY": "b", "MY_PASSWORD": "c", "HOME": "d", "AWS_REGION": "e"}
    assert secrets_of(environment) == ("a", "b", "c")


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_one_exit_code_that_says_who_must_act(reason: Reason) -> None:
    waiting = {Reason.SOURCE_THROTTLED, Reason.SOURCE_UNAVAILABLE, Reason.DOWNLOADING}
    special = {Reason.COMPLETE: 0, Reason.SOURCE_INVALID: 2, Reason.ERROR: 1} | dict.fromkeys(waiting, 75)
    assert Outcome(reason, "").exit_code == special.get(reason, 40)


def test_the_longest_message_fits_the_termination_log(tmp_path: Path) -> None:
    failure = Failure(Reason.MODEL_NOT_FOUND, "日本語\n\t" * 5000)
    outcome.write(outcome.failed(failure, ()), tmp_path / "log")
    data = (tmp_path / "log").read_bytes()
    message = json.loads(data)["message"]
    assert len(data) <= 4096
    assert len(message) == 256
    assert "\n" not in message


NOW = datetime(2026, 1, 1, tzinfo=UTC)
WAITS = [
    ({"Retry-After": "7"}, 7.0),
    ({"Retry-After": "Thu, 01 Jan 2026 00:00:30 GMT"}, 30.0),
    ({"Retry-After": "Wed, 31 Dec 2025 00:00:00 GMT"}, 0.0),
    ({"Retry-After": "999999"}, 300.0),
    ({"Retry-After": "-5"}, None),
    ({"Retry-After": "soon"}, None),
    ({"RateLimit": '"api";r=0;t=55'}, 55.0),
    ({}, None),
]


@pytest.mark.parametrize(("headers", "seconds"), WAITS)
def test_how_long_a_source_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds
