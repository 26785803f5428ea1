from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops_serving.jobs.outcome import Failure, Reason
from llmops_serving.jobs.weights import names

HOSTILE = [
    ("climbs out", ["../x.json"]),
    ("climbs out from within", ["a/../../x.json"]),
    ("climbs out at the end", ["a/.."]),
    ("a dot", ["./x.json"]),
    ("only dots", [".."]),
    ("absolute", ["/etc/passwd"]),
    ("a drive", ["C:/x.json"]),
    ("a drive without a slash", ["c:x.json"]),
    ("a UNC path", ["\\\\host\\share"]),
    ("a backslash", ["a\\..\\x.json"]),
    ("a doubled slash", ["a//x.json"]),
    ("a slash at the end", ["a/"]),
    ("nothing", [""]),
    ("a NUL", ["x.json\0.safetensors"]),
    ("a line break", ["x\n.json"]),
    ("an escape sequence", ["\x1b[31mx.json"]),
    ("a C1 control", ["x\x9b.json"]),
    ("text that runs backwards", ["x\u202enosj.py"]),
    ("a character that is not seen", ["config\u200b.json"]),
    ("half a character", ["x\ud800.json"]),
    ("a long part", ["a" * 241 + ".json"]),
    ("a long path", ["/".join(["abcdefgh"] * 15) + "x" * 1000]),
    ("too deep", ["/".join(["a"] * 17)]),
    ("spaces around", [" x.json"]),
    ("spaces around a folder", ["a /x.json"]),
    ("a dot at the end", ["x.json."]),
    ("our marker", [".llmops-complete.json"]),
    ("our marker in capitals", [".LLMOPS-COMPLETE.JSON"]),
    ("our work folder", [".llmops/done/x"]),
    ("our work folder as a file", [".llmops"]),
    ("the same name twice", ["x.json", "x.json"]),
    ("names that differ in case", ["Config.json", "config.json"]),
    ("names that differ in Unicode form", ["caf\u00e9.json", unicodedata.normalize("NFD", "caf\u00e9.json")]),
    ("names that differ in width", ["config.json", "\uff43onfig.json"]),
    ("sharp s and ss", ["straße.json", "strasse.json"]),
    ("folders that differ in case", ["A/x.json", "a/y.json"]),
    ("a file that is also a folder", ["a", "a/x.json"]),
    ("a file that is also a folder, in capitals", ["A", "a/x.json"]),
    ("too many", [f"{index}.json" for index in range(names.MAX_FILES + 1)]),
]


@pytest.mark.parametrize("paths", [case[1] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_a_hostile_listing_is_refused_whole(paths: list[str]) -> None:
    with pytest.raises(Failure) as failure:
        names.checked(["model.safetensors", *paths])
    assert failure.value.reason is Reason.UNSAFE_MODEL
    assert str(failure.value).isprintable()
    assert len(str(failure.value)) < 256


def test_usual_names_pass() -> None:
    names.checked(
        [
            "config.json",
            "onnx/config.json",
            "model-00001-of-00002.safetensors",
            "a b.txt",
            "日本語.txt",
            ".gitattributes",
        ]
    )


@settings(max_examples=50)
@given(st.lists(st.text(max_size=30), max_size=6))
def test_what_passes_stays_inside_and_apart(paths: list[str]) -> None:
    try:
        names.checked(paths)
    except Failure:
        return
    assert all(".." not in path.split("/") and not path.startswith("/") and "\0" not in path for path in paths)
    assert len({path.casefold() for path in paths}) == len(paths)


REPOSITORY = [
    "config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja", "merges.txt", "LICENSE", "LICENSE.txt",
    "NOTICE", "README.md", "modeling.py", "model.safetensors", "pytorch_model.bin", "training_args.bin", "x.ckpt",
    "consolidated.safetensors", "model.gguf", "image.png", ".gitattributes", "a/adapter_model.safetensors",
]  # fmt: skip
PLAIN = {
    "config.json",
    "tokenizer.json",
    "tokenizer.model",
    "chat_template.jinja",
    "merges.txt",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
}
SAFE = PLAIN | {"model.safetensors", "a/adapter_model.safetensors"}
SELECTIONS = [
    ("by default", REPOSITORY, False, False, SAFE),
    ("pickles allowed but not needed", REPOSITORY, True, False, SAFE),
    ("code trusted", REPOSITORY, False, True, SAFE | {"modeling.py"}),
    ("pickles needed and allowed", ["config.json", "m.bin", "m.py"], True, False, {"config.json", "m.bin"}),
    (
        "only consolidated weights",
        ["params.json", "consolidated.safetensors"],
        False,
        False,
        {"params.json", "consolidated.safetensors"},
    ),
]


@pytest.mark.parametrize(
    ("paths", "allow_pickle", "trust_remote_code", "wanted"),
    [case[1:] for case in SELECTIONS],
    ids=[c[0] for c in SELECTIONS],
)
def test_what_is_taken(paths: list[str], wanted: set[str], *, allow_pickle: bool, trust_remote_code: bool) -> None:
    assert set(names.selected(paths, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)) == wanted


@pytest.mark.parametrize(
    ("paths", "reason"), [(["config.json", "m.bin"], "UnsafeModel"), (["config.json"], "ModelNotFound")]
)
def test_nothing_safe_to_take(paths: list[str], reason: str) -> None:
    with pytest.raises(Failure) as failure:
        names.selected(paths, allow_pickle=False, trust_remote_code=False)
    assert failure.value.reason == reason
