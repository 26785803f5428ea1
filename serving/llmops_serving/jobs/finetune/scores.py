"""Two models' results on the same rows, compared: each metric, what was gained, and how sure that is. Pure.

Confidence intervals are percentiles of a paired bootstrap over rows (Efron and Tibshirani 1993; for BLEU as Koehn
2004): both models are always judged on the same resampled rows.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

SAMPLES, SEED = 1000, 20040725
LEVEL = (2.5, 97.5)  # percent
Rows = npt.NDArray[np.intp]  # places of rows, some more than once
Score = Callable[[Rows], float]


@dataclass(frozen=True)
class Row:
    """One model's result on one row.

    Attributes:
        nats: Negative log-likelihood of the tokens that are learned.
        tokens: How many they are.
        text_bytes: How many bytes of UTF-8 they are.
        answer: What the model writes itself, if it was asked to.
        wanted: What the row answers.
    """

    nats: float
    tokens: int
    text_bytes: int
    answer: str | None = None
    wanted: str = ""


@dataclass(frozen=True)
class Metric:
    """One metric of both models; `low` and `high` are the interval of what was gained. Losses fall, all else rises."""

    name: str
    base: float
    tuned: float
    low: float
    high: float

    @property
    def gain(self) -> float:
        """Tuned minus base."""
        return self.tuned - self.base


def compared(base: Sequence[Row], tuned: Sequence[Row]) -> list[Metric]:
    """Every metric that the rows allow; of no rows none.

    Args:
        base: The base model's results.
        tuned: The tuned model's, of the same rows in the same order.
    """
    if not base:
        return []
    written = [place for place, row in enumerate(base) if row.answer is not None]
    both = [
        (_losses(base), _losses(tuned), len(base)),
        (_answers(base, written), _answers(tuned, written), len(written)),
    ]
    return [_metric(name, before[name], after[name], count) for before, after, count in both for name in before]


def _metric(name: str, base: Score, tuned: Score, count: int) -> Metric:
    everyone = np.arange(count)
    drawn = np.random.default_rng(SEED).integers(0, count, (SAMPLES, count))
    low, high = np.percentile([tuned(rows) - base(rows) for rows in drawn], LEVEL)
    return Metric(name, base(everyone), tuned(everyone), float(low), float(high))


def _losses(rows: Sequence[Row]) -> dict[str, Score]:
    nats, tokens = np.array([row.nats for row in rows]), np.array([row.tokens for row in rows])
    text_bytes = np.array([row.text_bytes for row in rows])

    def loss(places: Rows) -> float:
        return float(nats[places].sum() / max(1, tokens[places].sum()))

    def bits(places: Rows) -> float:
        return float(nats[places].sum() / math.log(2) / max(1, text_bytes[places].sum()))

    return {
        "evalLoss": loss,
        "perplexity": lambda places: math.exp(min(loss(places), 700)),
        "bitsPerByte": bits,
    }


def _answers(rows: Sequence[Row], written: Sequence[int]) -> dict[str, Score]:
    if not written:
        return {}
    pairs = [(rows[place].answer or "", rows[place].wanted) for place in written]
    rouge = RougeScorer(["rouge1", "rougeL"])
    rouges = [rouge.score(wanted, answer) for answer, wanted in pairs]
    chrf = CHRF()
    per_row = {
        "exactMatch": [float(normalized(answer) == normalized(wanted)) for answer, wanted in pairs],
        "tokenF1": [token_f1(answer, wanted) for answer, wanted in pairs],
        "chrF": [chrf.sentence_score(answer, [wanted]).score for answer, wanted in pairs],
        "rouge1": [found["rouge1"].fmeasure for found in rouges],
        "rougeL": [found["rougeL"].fmeasure for found in rouges],
    }
    return {name: _mean(values) for name, values in per_row.items()} | {"bleu": _bleu(pairs)}


def _mean(values: Sequence[float]) -> Score:
    array = np.array(values)
    return lambda places: float(array[places].mean())


def _bleu(pairs: Sequence[tuple[str, str]]) -> Score:
    """BLEU of a corpus, from the counts of its rows."""
    metric = BLEU(effective_order=True)
    found = [metric.sentence_score(answer, [wanted]) for answer, wanted in pairs]
    correct, total = np.array([one.counts for one in found]), np.array([one.totals for one in found])
    written, wanted = np.array([one.sys_len for one in found]), np.array([one.ref_len for one in found])

    def score(places: Rows) -> float:
        whole = BLEU.compute_bleu(
            correct=correct[places].sum(axis=0).tolist(),
            total=total[places].sum(axis=0).tolist(),
            sys_len=int(written[places].sum()),
            ref_len=int(wanted[places].sum()),
            smooth_method="exp",
            effective_order=True,
        )
        return float(whole.score)

    return score


def normalized(text: str) -> str:
    """As SQuAD's evaluation compares answers (Rajpurkar et al. 2016), without its English articles."""
    return " ".join("".join(char for char in text.lower() if char not in string.punctuation).split())


def token_f1(answer: str, wanted: str) -> float:
    """Harmonic mean of the shares of words that both have, repeated words counted."""
    said, meant = (re.findall(r"\S+", normalized(text)) for text in (answer, wanted))
    common = sum((Counter(said) & Counter(meant)).values())
    if not said or not meant:
        return float(said == meant)
    return 2 * common / (len(said) + len(meant))
