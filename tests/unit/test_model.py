import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hack.images.places import ROOT
from hack.model.corpus import WORDS_AT_MOST, digest, lessons
from hack.model.once import made

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


def test_two_that_want_the_model_at_once_make_it_once(tmp_path: Path) -> None:
    makers: list[Path] = []
    both_ask = threading.Barrier(2)

    def make(folder: Path) -> None:
        makers.append(folder)
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    def ask(_: int) -> Path:
        both_ask.wait()
        return made(tmp_path / "models" / "tiny", make)

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(ask, range(2))) == {tmp_path / "models" / "tiny"}
    assert len(makers) == 1


def test_what_a_killed_maker_left_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "tiny.partial").mkdir()
    (tmp_path / "tiny.partial" / "half").touch()
    found = made(tmp_path / "tiny", lambda folder: folder.mkdir())
    assert list(found.iterdir()) == []
