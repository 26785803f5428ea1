import subprocess
import sys

from hack.images.places import ROOT
from hack.model.corpus import WORDS_AT_MOST, digest, lessons

CURRICULUM = lessons()


def test_the_curriculum_is_the_same_in_every_process() -> None:
    elsewhere = subprocess.run(
        [sys.executable, "-c", "from hack.model.corpus import *; print(digest(lessons()))"],
        cwd=ROOT,
        env={"PYTHONHASHSEED": "1", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert elsewhere.stdout.strip() == digest(CURRICULUM)


def test_the_demos_question_has_a_lesson() -> None:
    [answer] = [lesson.answer for lesson in CURRICULUM if "What is a Python function?" in lesson.questions]
    assert answer.startswith("A function definition defines a user-defined function object.")


def test_answers_are_whole_sentences_within_bounds() -> None:
    odd = [
        lesson.answer
        for lesson in CURRICULUM
        if not (lesson.answer.isascii() and lesson.answer.endswith((".", "!", "?")))
    ]
    assert odd == []
    long = [lesson.answer for lesson in CURRICULUM if len(lesson.answer.split()) > WORDS_AT_MOST]
    assert long == []
