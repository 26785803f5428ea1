"""Which of a source's file names may land on a volume, and which are wanted: pure judgements over strings."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from llmops_serving.jobs.outcome import Failure, Reason

MAX_FILES = 10_000
MAX_DEPTH = 16
MAX_PATH_BYTES = 1024
MAX_COMPONENT_BYTES = 240  # ext4 and most others stop at 255; ours get a suffix while they are partial
MARKER = ".llmops-complete.json"
WORK = ".llmops"

WEIGHTS = ".safetensors"
PLAIN = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".jsonl")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CODE = (".py",)
TERMS = re.compile(r"(?i)(licen[cs]e|notice|copying|use_policy)([.-]\w+)?")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
INVISIBLE = frozenset(
    "\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)


def checked(paths: Iterable[str]) -> None:
    """Raise UnsafeModel unless every path is a plain relative path and no two could meet on any file system."""
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for count, path in enumerate(paths, 1):
        if count > MAX_FILES:
            raise _unsafe(path, f"is one of more than {MAX_FILES} files")
        if flaw := _flaw(path):
            raise _unsafe(path, flaw)
        key = _key(path)
        if key in seen:
            raise _unsafe(path, f"is the same file as {seen[key]!r} where case or Unicode form does not count")
        seen[key] = path
        for parent in PurePosixPath(path).parents:
            if str(parent) != "." and folders.setdefault(_key(str(parent)), str(parent)) != str(parent):
                raise _unsafe(path, f"is in a folder that differs from {folders[_key(str(parent))]!r} in case only")
    for key in seen.keys() & folders.keys():
        raise _unsafe(seen[key], "is both a file and a folder")


def selected(paths: Sequence[str], *, allow_pickle: bool, trust_remote_code: bool) -> tuple[str, ...]:
    """The files of a model that are wanted: safetensors, configuration, tokenizer, licence.

    Pickles only where allowed and where there is no safetensors; code only where trusted. Raises UnsafeModel when all
    weights are pickles that are not allowed, ModelNotFound when there are no weights.
    """
    weights = [path for path in paths if path.endswith(WEIGHTS)]
    pickles = [path for path in paths if path.endswith(PICKLES)]
    if not weights and pickles and not allow_pickle:
        example = pickles[0]
        raise Failure(
            Reason.UNSAFE_MODEL,
            f"The weights are pickles only ({example}), which run code when they are loaded. "
            "Use a safetensors revision of the model, or allow pickles.",
        )
    if not weights and not pickles:
        raise Failure(Reason.MODEL_NOT_FOUND, "There are no weights (*.safetensors) at this source.")
    if any("/" not in path and path.startswith("model") for path in weights):
        # The same weights again in another layout: twice the volume, and engines may pick either.
        weights = [path for path in weights if not path.startswith("consolidated")]
    wanted = {path for path in paths if path.endswith(PLAIN) or TERMS.fullmatch(PurePosixPath(path).name)}
    wanted.update(weights or pickles)
    if trust_remote_code:
        wanted.update(path for path in paths if path.endswith(CODE))
    return tuple(path for path in paths if path in wanted)


def _flaw(path: str) -> str | None:
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "is not Unicode"
    parts = path.split("/")
    if not path or size > MAX_PATH_BYTES or len(parts) > MAX_DEPTH:
        return "is empty, too long or too deep"
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "is an absolute path"
    if "\\" in path or CONTROL.search(path) or INVISIBLE & set(path):
        return "has a backslash or a character that cannot be seen"
    if any(part in ("", ".", "..") for part in parts):
        return "would leave the model's directory"
    if any(len(part.encode()) > MAX_COMPONENT_BYTES or part != part.strip() or part.endswith(".") for part in parts):
        return "has a part that is too long or that not every file system keeps"
    if _key(parts[0]) in (_key(WORK), _key(MARKER)):
        return "is a name of our own"
    return None


def _key(path: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())


def _unsafe(path: str, flaw: str) -> Failure:
    shown = ascii(path) if len(path) <= 60 else f"{path[:60]!a}…"
    return Failure(Reason.UNSAFE_MODEL, f"The file name {shown} {flaw}.")
