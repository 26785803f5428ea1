"""Names within limits, and secrets that never leave."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops import names
from llmops.judge.redaction import redacted

NAME = st.from_regex(r"[a-z]([-a-z0-9]{0,240}[a-z0-9])?", fullmatch=True)


@given(NAME, st.lists(st.from_regex(r"[a-z0-9]{1,16}", fullmatch=True), max_size=2))
def test_a_bounded_name_fits_and_is_a_dns_label(name: str, suffixes: list[str]) -> None:
    found = names.bounded(name, *suffixes)
    assert len(found) <= names.NAME_LIMIT
    assert found[0].isalpha()
    assert found[-1] != "-"
    assert found == names.bounded(name, *suffixes)


@given(NAME, NAME)
def test_different_names_stay_different(one: str, other: str) -> None:
    assert (names.bounded(one, "engine") == names.bounded(other, "engine")) == (one == other)


SECRETS = [
    ("a hub token", "401 for hf_abcdefghijklmnopqrst", "hf_abcdefghijklmnopqrst"),
    ("an AWS key", "AKIAIOSFODNN7EXAMPLE is wrong", "AKIAIOSFODNN7EXAMPLE"),
    ("an AWS secret", "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMIK7MDENG", "wJalrXUtnFEMIK7MDENG"),
    ("an API key", "using sk-proj-abcdefghijklmnopqrst", "sk-proj-abcdefghijklmnopqrst"),
    ("a bearer", "Authorization: Bearer abc.def-ghi_jkl", "abc.def-ghi_jkl"),
    ("a URL with a password", "GET https://user:pa55word@host/x", "pa55word"),
    ("a signed URL", "https://b.example.com/k?X-Amz-Signature=deadbeefdeadbeef&x=1", "deadbeefdeadbeef"),
    ("a JSON field", '{"password": "hunter22"}', "hunter22"),
    ("a JWT", "token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-def", "eyJzdWIiOiIxMjM0In0"),
    ("a private key", "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "MIIE"),
]


@pytest.mark.parametrize(("text", "secret"), [case[1:] for case in SECRETS], ids=[case[0] for case in SECRETS])
def test_a_secret_is_masked(text: str, secret: str) -> None:
    assert secret not in redacted(text)
    assert "***" in redacted(text)


PLAIN = ["unrecognized arguments: --max-model-len", "No space left on device", "model org/name at revision 0123abcd"]


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text
