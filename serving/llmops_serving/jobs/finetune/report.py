"""What a run leaves for people: report.md with the loss curve, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from llmops_serving.jobs.finetune import scores
from llmops_serving.jobs.finetune.evaluation import Evaluation

Json = dict[str, Any]
CURVE = "loss.png"
LONGEST = 300  # characters of an answer that is quoted
TITLES = {
    "evalLoss": "loss (nats per token)",
    "perplexity": "perplexity",
    "bitsPerByte": "bits per byte",
    "exactMatch": "exact match",
    "tokenF1": "token F1",
    "bleu": "BLEU",
    "chrF": "chrF",
    "rouge1": "ROUGE-1",
    "rougeL": "ROUGE-L",
}


def status(metrics: list[scores.Metric]) -> dict[str, str]:
    """The metrics as the status of the FineTuneJob has them: value, base value, and gain with its interval."""
    said = {}
    for metric in metrics:
        said[metric.name] = f"{metric.tuned:.4g}"
        said[f"base{metric.name[0].upper()}{metric.name[1:]}"] = f"{metric.base:.4g}"
        said[f"{metric.name}Gain"] = interval(metric)
    return said


def interval(metric: scores.Metric) -> str:
    """What was gained, as `-0.85 [-0.9, -0.8]`."""
    return f"{metric.gain:+.3g} [{metric.low:+.3g}, {metric.high:+.3g}]"


def as_json(facts: Json, data: Json, history: list[Json], evaluation: Evaluation, provenance: Json) -> Json:
    """Everything, for programs."""
    return {
        "facts": facts,
        "data": data,
        "history": history,
        "evaluation": asdict(evaluation),
        "provenance": provenance,
    }


def as_markdown(said: Mapping[str, Any], digest: str) -> str:
    """The same for people, from what `as_json` has made."""
    facts, provenance = said["facts"], said["provenance"]
    spec = provenance["spec"]
    base = spec["baseModel"].get("source") or f"LLMDeployment {spec['baseModel'].get('deployment')}"
    parts = [
        f"# {spec.get('method', 'LoRA')} of {base}",
        f"Step {facts['step']} of {facts['total']} is exported ({facts['restarts']} restarts). Digest: `{digest}`.",
        *_warnings(facts),
        f"![Loss by step]({CURVE})",
        "## Result",
        *_result(said["evaluation"]),
        "## Data",
        _table(
            ("", ""), [(name, _short(value)) for name, value in said["data"].items() if value not in ({}, [], None)]
        ),
        "## Settings",
        _table(("", ""), _listed(provenance["config"])),
        "## Provenance",
        "`provenance.json` beside this file has every input: base model, data, settings, image and versions.",
    ]
    return "\n\n".join(parts) + "\n"


def _warnings(facts: Json) -> list[str]:
    if not facts.get("overfitting"):
        return []
    said = (
        f"**Overfitting:** the held-out loss was worse {facts['overfitting']} evaluations in a row while the training "
    )
    return [said + "loss fell. The best checkpoint is what is exported; more rows or fewer epochs would help."]


def _result(evaluation: Json) -> list[str]:
    if not evaluation["metrics"]:
        return ["No rows were held out, and no test file was given: nothing can be said."]
    rows = "rows of the test file" if evaluation["own"] else "held-out rows"
    intro = (
        f"On {evaluation['rows']} {rows}; {evaluation['answered']} of them were answered by both models, "
        "always with the likeliest token. In brackets: a confidence interval of 95 % (paired bootstrap over rows)."
    )
    table = [
        (TITLES[metric.name], f"{metric.base:.4g}", f"{metric.tuned:.4g}", interval(metric))
        for metric in (scores.Metric(**one) for one in evaluation["metrics"])
    ]
    found = [intro, _table(("metric", "base", "tuned", "gain"), table)]
    if evaluation["examples"]:
        cells = [tuple(_short(one[name]) for name in ("wanted", "base", "tuned")) for one in evaluation["examples"]]
        found += ["### Answers", _table(("wanted", "base", "tuned"), cells)]
    return found


def _listed(facts: Json) -> list[tuple[str, str]]:
    return [(name, _short(value)) for name, value in facts.items() if value not in ({}, [], None, "")]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _short(value: Any) -> str:
    """One cell: one line, nothing that ends it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
