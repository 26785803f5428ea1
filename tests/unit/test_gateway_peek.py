"""Which model a body means, and what is changed of it."""

from __future__ import annotations

import pytest

from llmops_serving.gateway.peek import UnreadableBodyError, peek, renamed

BODIES: list[tuple[str, bytes, str | None]] = [
    ("the model first", b'{"model":"a","messages":[]}', "a"),
    ("the model last", b'{"messages":[{"content":"x"}],"model":"a"}', "a"),
    ("a nested model before it", b'{"metadata":{"model":"evil"},"model":"a"}', "a"),
    ("a nested model after it", b'{"model":"a","metadata":{"model":"evil"}}', "a"),
    ("a model in a string", b'{"prompt":"\\"model\\":\\"evil\\"","model":"a"}', "a"),
    ("a string that ends like a key", b'{"prompt":"\\"model","model":"a"}', "a"),
    ("an escaped key", b'{"mod\\u0065l":"a"}', "a"),
    ("an escaped value", b'{"model":"\\u0061"}', "a"),
    ("the key twice", b'{"model":"a","model":"b"}', None),
    ("the key twice, once escaped", b'{"model":"a","\\u006dodel":"b"}', None),
    ("the key twice, one nested between", b'{"model":"a","x":{"model":"c"},"model":"b"}', None),
    ("no model", b'{"messages":[]}', None),
    ("only a nested model", b'{"x":{"model":"a"}}', None),
    ("an empty model", b'{"model":""}', None),
    ("a number", b'{"model":1}', None),
    ("an array", b'["model","a"]', None),
    ("half an object", b'{"model":"a"', None),
    ("two objects", b'{"model":"a"}{"model":"b"}', None),
    ("a byte order mark", b'\xef\xbb\xbf{"model":"a"}', None),
    ("bad UTF-8", b'{"model":"\xff"}', None),
    ("nothing", b"", None),
]


@pytest.mark.parametrize(("body", "model"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES])
def test_the_model_of_a_body_is(body: bytes, model: str | None) -> None:
    if model is None:
        with pytest.raises(UnreadableBodyError):
            peek(body, b"application/json")
    else:
        assert peek(body, b"application/json").model == model


def form(*parts: tuple[str, bytes]) -> bytes:
    encoded = b"".join(
        b'--xx\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), value)
        for name, value in parts
    )
    return encoded + b"--xx--\r\n"


FORMS: list[tuple[str, bytes, str | None]] = [
    ("the model", form(("file", b"RIFF\r\n\r\n"), ("model", b"a")), "a"),
    ("the model twice", form(("model", b"a"), ("model", b"b")), None),
    ("no model", form(("file", b"x")), None),
    ("a model inside a file", form(("file", b'name="model"\r\n\r\nevil'), ("model", b"a")), "a"),
    ("no parts", b"--xx--\r\n", None),
    ("another boundary", b'--yy\r\nContent-Disposition: form-data; name="model"\r\n\r\na\r\n--yy--\r\n', None),
]


@pytest.mark.parametrize(("body", "model"), [case[1:] for case in FORMS], ids=[case[0] for case in FORMS])
def test_the_model_of_a_form_is(body: bytes, model: str | None) -> None:
    kind = b"multipart/form-data; boundary=xx"
    if model is None:
        with pytest.raises(UnreadableBodyError):
            peek(body, kind)
    else:
        seen = peek(body, kind)
        assert seen.model == model
        assert peek(renamed(body, kind, seen, "other"), kind).model == "other"


RENAMES = [
    (b'{"model":"a/x", "n":1 }', b'{"model":"x", "n":1 }'),
    (b'{ "n":1, "model" :  "a/x"}', b'{ "n":1, "model":"x"}'),
    (b'{"model":"a\\/x"}', b'{"model":"x"}'),
    (b'{"q":{"model":"a/x"},"mod\\u0065l":"a/x"}', b'{"q":{"model":"a/x"},"model":"x"}'),
]


@pytest.mark.parametrize(("before", "after"), RENAMES)
def test_only_the_model_is_renamed(before: bytes, after: bytes) -> None:
    assert renamed(before, b"", peek(before, b""), "x") == after


def test_a_peek_of_a_form_has_no_document() -> None:
    seen = peek(form(("model", b"a")), b'multipart/form-data; boundary="xx"')
    assert (seen.model, seen.stream, seen.document) == ("a", False, None)
