"""What is done with rows before anybody learns from them: personal data, languages, lengths, and how it is reported."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.api.fine_tune_job import PrepareSpec
from llmops_serving.jobs.dataset.check import EVAL, TEST, TRAIN, Report, Wanted, checked
from llmops_serving.jobs.dataset.personal import is_iban, is_luhn, masked
from llmops_serving.jobs.ending import Stopped

Json = dict[str, Any]
EVERY = ("Email", "Phone", "IBAN", "Card", "Secret")

DATES = "on 2026-01-31, order 20260131, 3.14159265358979"
TALK = "password: choose a good one; a bearer of news; basic training"
PERSONAL: list[tuple[str, str, str]] = [
    ("an address", "write to jane.doe+a@mail.example.co.uk.", "write to <EMAIL>."),
    ("an address with umlauts", "an jürgen@müller.example bitte", "an <EMAIL> bitte"),
    ("no address", "meet @ 8, see foo@bar", "meet @ 8, see foo@bar"),
    ("a number with its country", "call +49 30 12345678 now", "call <PHONE> now"),
    ("a number of the region", "call (212) 555-0142 now", "call <PHONE> now"),
    ("a date and an order", DATES, DATES),
    ("an account in groups", "pay DE89 3704 0044 0532 0130 00 now", "pay <IBAN> now"),
    ("an account and a word like a group", "ES91 2100 0418 4502 0005 1332 from us", "<IBAN> from us"),
    ("a small account in small letters", "no93 8601 1117 947.", "<IBAN>."),
    ("an account with a slip", "GB82 WEST 1234 5698 7654 33", "GB82 WEST 1234 5698 7654 33"),
    ("a card", "card 4111-1111-1111-1111, 12/29", "card <CARD>, 12/29"),
    ("a card with a slip", "4111 1111 1111 1112", "4111 1111 1111 1112"),
    ("keys", "sk-abcdefghijklmnop1234 hf_abcdefgh12345678", "<SECRET> <SECRET>"),
    ("a password", "password: hunter22, thanks", "password:<SECRET> thanks"),
    ("talk of passwords", TALK, TALK),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in PERSONAL], ids=[case[0] for case in PERSONAL])
def test_personal_data_is_written_as_its_kind(text: str, expected: str) -> None:
    found: Counter[str] = Counter()
    assert masked(text, EVERY, "US", found) == expected
    assert sum(found.values()) == expected.count("<")


def test_only_what_is_asked_for_is_masked() -> None:
    text = "a@b.example, 4111 1111 1111 1111"
    assert masked(text, ["Card"], None, Counter()) == "a@b.example, <CARD>"


@settings(max_examples=25, deadline=None)
@given(st.text(alphabet="0123456789", min_size=12, max_size=18))
def test_one_check_digit_in_ten_is_a_cards(digits: str) -> None:
    assert sum(is_luhn(digits + last) for last in "0123456789") == 1


@settings(max_examples=25, deadline=None)
@given(st.text(alphabet="0123456789", min_size=18, max_size=18), st.integers(0, 17))
def test_one_wrong_digit_is_no_account(digits: str, place: int) -> None:
    check = next(f"{n:02}" for n in range(2, 99) if is_iban(f"DE{n:02}{digits}"))
    wrong = str((int(digits[place]) + 1) % 10)
    assert not is_iban(f"DE{check}{digits[:place]}{wrong}{digits[place + 1 :]}")


@settings(max_examples=25, deadline=None)
@given(st.text())
def test_any_text_can_be_masked_and_masked_again(text: str) -> None:
    once = masked(text, EVERY, None, Counter())
    assert masked(once, EVERY, None, Counter()) == once


def check(tmp_path: Path, lines: list[Json], test: list[Json] | None = None, **prepare: Any) -> Report:
    def written(name: str, rows: list[Json]) -> tuple[Path, str]:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name, name

    wanted = Wanted(prepare=PrepareSpec.model_validate(prepare, by_alias=True))
    own = written("test.jsonl", test) if test else None
    return checked(written("t.jsonl", lines), wanted, None, tmp_path / "data", test=own)


def pair(number: int, answer: str = "answer") -> Json:
    return {"prompt": f"question {number}", "completion": answer}


def test_every_turn_is_masked_and_counted(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "I am a@b.example"}, {"role": "assistant", "content": "Hi 4111111111111111"}]
    rows = [{"messages": [{"role": "system", "content": str(number)}, *turns]} for number in range(20)]
    report = check(tmp_path, rows, maskPersonalData=["Email", "Card"])
    assert report.masked == {"Email": 20, "Card": 20}
    assert "masked: 20 Email, 20 Card" in report.sentence()
    written = (tmp_path / "data" / TRAIN).read_text() + (tmp_path / "data" / EVAL).read_text()
    assert "b.example" not in written
    assert written.count("<EMAIL>") == written.count("<CARD>") == 20


def test_rows_that_become_equal_are_equal(tmp_path: Path) -> None:
    rows = [pair(1, f"user{number}@b.example") for number in range(9)] + [pair(number) for number in range(2, 20)]
    assert check(tmp_path, rows, maskPersonalData=["Email"]).duplicates == 8


GERMAN = "Bitte setzen Sie das Gerät zurück, indem Sie die Taste gedrückt halten, und warten Sie einen Augenblick."
ENGLISH = "Please reset the device by holding the button down, and then wait for a moment until it starts again."


def test_rows_in_other_languages_are_left_out_and_short_ones_stay(tmp_path: Path) -> None:
    rows = [pair(n, f"{text} {n}") for n, text in enumerate([GERMAN] * 5 + [ENGLISH] * 7 + ["ok"] * 3)]
    report = check(tmp_path, rows, languages=["en"])
    assert (report.language, report.train + report.eval) == (5, 10)
    assert "5 in other languages" in report.sentence()


def test_what_is_not_asked_for_is_not_done(tmp_path: Path) -> None:
    rows = [pair(number % 10) for number in range(30)] + [pair(99, " ")] * 2
    report = check(tmp_path, rows, deduplicate=False, dropEmpty=False)
    assert (report.duplicates, report.empty, report.train + report.eval) == (0, 0, 32)


def test_a_test_file_is_read_by_the_same_rules_and_its_leaks_are_told(tmp_path: Path) -> None:
    rows = [pair(number) for number in range(40)]
    report = check(
        tmp_path, rows, [pair(number, "a@b.example") for number in range(35, 60)], maskPersonalData=["Email"]
    )
    trained = {json.loads(line)["prompt"] for line in (tmp_path / "data" / TRAIN).read_text().splitlines()}
    tested = [json.loads(line) for line in (tmp_path / "data" / TEST).read_text().splitlines()]
    assert report.test == len(tested) == 25
    assert report.leaked == sum(row["prompt"] in trained for row in tested) > 0
    assert {row["completion"] for row in tested} == {"<EMAIL>"}
    assert f"{report.leaked} test rows answer questions that are trained on" in report.sentence()
    assert check(tmp_path, rows).digest != report.digest


REFUSED: list[tuple[str, Json, list[Json] | None, str]] = [
    ("lengths without a tokenizer", {"minTokens": 3}, None, "name its directory"),
    ("a language nobody speaks", {"languages": ["qq"]}, None, "no language qq is known"),
    ("a test file of another format", {}, [{"text": "a"}], "line 1 lacks prompt, completion"),
    ("a test file of empty answers", {}, [pair(1, "")], "has no usable row"),
]


@pytest.mark.parametrize(("prepare", "test", "says"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_be_done_is_said(tmp_path: Path, prepare: Json, test: list[Json] | None, says: str) -> None:
    with pytest.raises(Stopped, match=says) as refusal:
        check(tmp_path, [pair(number) for number in range(40)], test, **prepare)
    assert refusal.value.exit_code == 40
