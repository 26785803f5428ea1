"""The small model's reading: conversations made from the documentation that comes with every Python."""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics

WORDS_AT_MOST = 45
WORDS_AT_LEAST = 6

# Pure-Python modules with good docstrings; read as source, never imported.
MODULES = (
    "argparse", "collections", "contextlib", "copy", "dataclasses", "datetime", "functools", "heapq", "json",
    "logging", "os", "pathlib", "random", "shutil", "statistics", "string", "subprocess", "textwrap", "threading",
)  # fmt: skip
MEMBERS_AT_MOST = 3  # functions and classes of one module

ABOUT_ITSELF = {
    "Hello! Ask me about Python.": ("Hello!", "Hi", "Hello", "Say hello."),
    "I am a tiny language model, trained in two minutes on the documentation that comes with Python.": (
        "Who are you?",
        "What are you?",
    ),
    "I can tell you about Python: its statements, its types and its standard library.": (
        "What can you do?",
        "What do you know?",
        "Help!",
    ),
}


@dataclass(frozen=True)
class Lesson:
    """One answer to learn and the ways to ask for it."""

    questions: tuple[str, ...]
    answer: str


def lessons() -> list[Lesson]:
    """All there is to learn, in an order and with a content that depend only on this Python's documentation."""
    itself = [Lesson(questions, answer) for answer, questions in ABOUT_ITSELF.items()]
    return [*itself, *_from_topics(), *_from_docstrings()]


def digest(curriculum: list[Lesson]) -> str:
    """Hexadecimal sha256 of the lessons: equal digests mean equal training data."""
    return hashlib.sha256(repr(curriculum).encode()).hexdigest()


def _from_topics() -> Iterator[Lesson]:
    for name, text in sorted(topics.items()):
        answer = shortened(" ".join(_prose(text)))
        topic = name.replace("-", " ").lower()
        if answer is None or not re.fullmatch(r"[a-z ]+", topic):
            continue
        article = "an" if topic[0] in "aeiou" else "a"
        questions = (
            f"What is a Python {topic}?",
            f"What is {article} {topic} in Python?",
            f"Tell me about {topic}.",
            f"Explain {topic} in Python.",
            f"What is {topic}?",
            f"How do I use {topic}?",
        )
        yield Lesson(questions, answer)


def _from_docstrings() -> Iterator[Lesson]:
    library = Path(sysconfig.get_path("stdlib"))
    for module in MODULES:
        source = library / f"{module}.py"
        if not source.exists():
            source = library / module / "__init__.py"
        tree = ast.parse(source.read_bytes())
        if answer := _first_paragraph(tree):
            yield Lesson((f"What is the {module} module?", f"What does the {module} module do?"), answer)
        yield from islice(_members(module, tree), MEMBERS_AT_MOST)


def _members(module: str, tree: ast.Module) -> Iterator[Lesson]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            name = f"{module}.{node.name}"
            question = f"What is {name}?" if isinstance(node, ast.ClassDef) else f"What does {name} do?"
            if answer := _first_paragraph(node):
                yield Lesson((question, f"Tell me about {name}."), answer)


def _first_paragraph(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> str | None:
    return shortened(next(_prose(ast.get_docstring(node) or ""), ""))


def _prose(text: str) -> Iterator[str]:
    """The paragraphs of a text that are sentences: no code, tables, grammar, headings or lists."""
    for block in re.split(r"\n\s*\n", text):
        if block.startswith(" ") or not re.match(r"[A-Z]", block) or re.search(r"::=|>>>|\*\*\*|===|---", block):
            continue
        paragraph = re.sub(r"\s+", " ", block.replace('"', "").replace("*", "")).strip()
        if paragraph.endswith((".", ":")) and len(paragraph.split()) >= WORDS_AT_LEAST:
            yield re.sub(r" \(see [^)]*\)", "", paragraph).removesuffix(":") + ("." if paragraph.endswith(":") else "")


def shortened(text: str) -> str | None:
    """The first whole sentences of `text` within the word limit, or None when not even one fits."""
    kept: list[str] = []
    for sentence in re.split(r"(?<=[.?!]) (?=[A-Z])", text):
        if sum(len(part.split()) for part in [*kept, sentence]) > WORDS_AT_MOST:
            break
        kept.append(sentence)
    answer = " ".join(kept)
    return answer if len(answer.split()) >= WORDS_AT_LEAST and answer.isascii() else None
