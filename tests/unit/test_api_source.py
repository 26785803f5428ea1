"""Sources and quantities: what a text means."""

from __future__ import annotations

from decimal import Decimal

import pytest

from llmops.api import source
from llmops.api.quantity import amount
from llmops.api.source import Backup, Bucket, Claim, ConfigData, FineTune, Hub, Image, Source, Web, parse


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("hf://meta-llama/Llama-3.1-8B-Instruct", Hub("meta-llama/Llama-3.1-8B-Instruct")),
        ("hf://gpt2", Hub("gpt2")),
        ("s3://models/llama/8b/", Bucket("s3", "models", "llama/8b")),
        ("s3://models", Bucket("s3", "models", "")),
        ("gs://models/a", Bucket("gs", "models", "a")),
        ("az://models/a", Bucket("az", "models", "a")),
        ("https://host:8443/a/b", Web("https://host:8443/a/b")),
        ("http://host", Web("http://host")),
        ("pvc://claim", Claim("claim", "")),
        ("pvc://claim/a/b/", Claim("claim", "a/b")),
        ("oci://registry:5000/a/b:v1", Image("registry:5000/a/b:v1")),
        ("finetune://tickets-lora", FineTune("tickets-lora")),
        ("backup://support", Backup("support", None)),
        ("backup://support@2026-11-20T03:00:00Z", Backup("support", "2026-11-20T03:00:00Z")),
        ("configMap://tickets/data.jsonl", ConfigData("tickets", "data.jsonl")),
    ],
)
def test_a_source_means(text: str, meaning: Source) -> None:
    assert parse(text) == meaning


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "begin with one of hf://"),
        ("org/model", "begin with one of hf://"),
        ("hf:org/model", "begin with one of hf://"),
        ("hf://", "write it like hf://meta-llama/Llama-3.1-8B-Instruct"),
        ("hf://org/model\n", "write it like hf://"),
        ("hf://org/mödel", "write it like hf://"),
        ("s3://models/a b", "write it like s3://"),
        ("s3://models/a/../b", "write the path out"),
        ("pvc://claim/.", "write the path out"),
        ("https://user:password@host/", "write it like https://"),
        ("backup://support@yesterday", "write it like backup://"),
    ],
)
def test_a_text_that_is_no_source_says_what_would_be(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(text)


def test_every_example_is_right() -> None:
    for scheme in source.SCHEMES.values():
        parse(scheme.example)


@pytest.mark.parametrize(
    ("quantity", "number"),
    [("500m", "0.5"), (2, "2"), ("1Ki", "1024"), ("1.5Gi", "1610612736"), ("40G", "40000000000"), ("0", "0")],
)
def test_a_quantity_means(quantity: int | str, number: str) -> None:
    assert amount(quantity) == Decimal(number)


@pytest.mark.parametrize("quantity", ["", "Gi", "1 Gi", "-1", "1e3", "1KiB"])
def test_a_text_that_is_no_quantity_is_refused(quantity: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        amount(quantity)
