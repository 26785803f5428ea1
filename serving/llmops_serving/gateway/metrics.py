"""What the gateway counts: plain integers in preallocated lists, printed as Prometheus text when asked.

What OpenTelemetry's conventions for generative AI have a metric for has its name, in Prometheus' spelling, and their
required attributes as labels (docs/gateway.md has the table); what they have none for begins with `llmops_gateway_`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from llmops import names
from llmops_serving.gateway.usage import Usage

DURATION_BUCKETS: Final[tuple[float, ...]] = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip
TOKEN_GAP_BUCKETS: Final[tuple[float, ...]] = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
Labels = tuple[str, str, str, str, str]  # namespace, model, adapter, tenant, operation


class Histogram:
    """Counts by upper bound, as Prometheus understands them."""

    __slots__ = ("_uppers", "bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are inclusive upper bounds, ascending; +Inf is added."""
        self.bounds = bounds  # as they are printed
        self._uppers = [float(bound) for bound in bounds]
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value. Compiled, this search compares numbers: a sixth of what `bisect` on objects costs."""
        uppers = self._uppers
        low, high = 0, len(uppers)
        while low < high:
            middle = (low + high) >> 1
            if uppers[middle] < value:
                low = middle + 1
            else:
                high = middle
        self.counts[low] += 1
        self.total += value

    def lines(self, name: str, labels: str) -> Iterator[str]:
        """The sample lines of this series."""
        running = 0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            running += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {running}'
        yield f"{name}_sum{{{labels}}} {self.total}"
        yield f"{name}_count{{{labels}}} {running}"


class Series:
    """Everything counted for one model, adapter and tenant."""

    __slots__ = (
        "codes", "completion_tokens", "cut", "duration", "first_byte", "gap", "max_tokens", "prefix_hits",
        "prompt_tokens", "reasons", "retries", "text", "tools",
    )  # fmt: skip

    def __init__(self) -> None:
        """Nothing counted yet."""
        self.codes: dict[int, int] = {}
        self.reasons: dict[str, int] = {}
        self.text: dict[tuple[str, str], int] = {}  # by signal and value
        self.tools: dict[str, int] = {}
        self.prefix_hits: dict[str, int] = {}
        self.retries = 0
        self.cut = 0
        self.duration = Histogram(DURATION_BUCKETS)
        self.first_byte = Histogram(DURATION_BUCKETS)
        self.gap = Histogram(TOKEN_GAP_BUCKETS)
        self.prompt_tokens = Histogram(names.TOKEN_BUCKETS)
        self.completion_tokens = Histogram(names.TOKEN_BUCKETS)
        self.max_tokens = Histogram(names.LIMIT_BUCKETS)

    def ended(self, code: int, seconds: float) -> None:
        """Count one finished request."""
        self.codes[code] = self.codes.get(code, 0) + 1
        self.duration.observe(seconds)

    def asked(self, document: dict[str, Any]) -> bool:
        """Count what a request allows; returns whether it offers tools."""
        for field in _LIMITS:
            limit = document.get(field)
            if type(limit) is int:
                self.max_tokens.observe(limit)
                break
        else:
            self.max_tokens.counts[-1] += 1  # no limit is above every other one, and would make the sum infinite
        return bool(document.get("tools"))

    def answered(self, seen: Usage, *, tools: bool) -> None:
        """Count what an answer's end says."""
        reason = seen.finish_reason
        if reason is not None:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
            use = "called" if reason == "tool_calls" else "offered" if tools else "none"
            self.tools[use] = self.tools.get(use, 0) + 1
        if seen.cached is not None and seen.prompt:
            share = _SHARES[min(4, -(-4 * seen.cached // seen.prompt))]
            self.prefix_hits[share] = self.prefix_hits.get(share, 0) + 1

    def looked_at(self, signals: dict[str, str]) -> None:
        """Count what a sampled answer was like."""
        for signal in signals.items():
            self.text[signal] = self.text.get(signal, 0) + 1


# In the order in which engines look for them.
_LIMITS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_SHARES: Final = ("none", "quarter", "half", "most", "all")  # of a prompt, each up to a quarter more
PREFIX: Final = "llmops_gateway_"
# Name, what it means, and whose counts, by the value of `gen_ai_token_type` where the name has several.
# https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
_CONVENTIONAL: Final[tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]] = (
    (
        "gen_ai_server_request_duration_seconds",
        "From a request's last byte to its answer's last byte.",
        (("", "duration"),),
    ),
    (
        "gen_ai_server_time_to_first_token_seconds",
        "From a request's last byte to the first body byte of an answer that is no error.",
        (("", "first_byte"),),
    ),
    (
        "gen_ai_client_operation_time_per_output_chunk_seconds",
        "Between two reads of a streamed answer, which are one token or a few.",
        (("", "gap"),),
    ),
    (
        "gen_ai_client_token_usage",
        "Tokens per request: the engine's usage, or for output the streamed events where the client asked for none.",
        (("input", "prompt_tokens"), ("output", "completion_tokens")),
    ),
)


class Metrics:
    """All series of one process."""

    def __init__(self) -> None:
        """Nothing counted yet."""
        self.series: dict[Labels, Series] = {}
        self.refused: dict[str, int] = {}

    def of(self, labels: Labels) -> Series:
        """The series with these labels."""
        found = self.series.get(labels)
        if found is None:
            found = self.series[labels] = Series()
        return found

    def refuse(self, code: str) -> None:
        """Count a request that was refused before it had a model."""
        self.refused[code] = self.refused.get(code, 0) + 1

    def forget(self, keep: Iterable[str]) -> None:
        """Drop the series of models that no longer exist; `keep` are `namespace/name`."""
        kept = set(keep)
        for labels in [labels for labels in self.series if f"{labels[0]}/{labels[1]}" not in kept]:
            del self.series[labels]

    def text(self, gauges: Iterable[tuple[str, str, dict[str, float]]]) -> str:
        """Prometheus text; `gauges` are name, help and values by rendered labels."""
        return "\n".join(self._lines(gauges)) + "\n"

    def _lines(self, gauges: Iterable[tuple[str, str, dict[str, float]]]) -> Iterator[str]:
        rendered = [(_labels(labels), series) for labels, series in self.series.items()]
        yield from _counters(rendered)
        yield from _header(
            f"{PREFIX}max_tokens", "histogram", "Completion tokens allowed; no limit is above all bounds."
        )
        for labels, series in rendered:
            yield from series.max_tokens.lines(f"{PREFIX}max_tokens", labels)
        yield from self._conventional()
        yield from _header(
            f"{PREFIX}refused_total", "counter", "Requests refused before they had a model, by error code."
        )
        for error, count in self.refused.items():
            yield f'{PREFIX}refused_total{{code="{escaped(error)}"}} {count}'
        for name, text, values in gauges:
            yield from _header(PREFIX + name, "gauge", text)
            for labels, value in values.items():
                yield f"{PREFIX}{name}{{{labels}}} {value}" if labels else f"{PREFIX}{name} {value}"

    def _conventional(self) -> Iterator[str]:
        rendered = [
            (f'{_labels(of)},gen_ai_provider_name="vllm",gen_ai_request_model="{escaped(of[2] or of[1])}"', series)
            for of, series in self.series.items()
        ]
        for name, text, parts in _CONVENTIONAL:
            yield from _header(name, "histogram", text)
            for token_type, attribute in parts:
                more = f',gen_ai_token_type="{token_type}"' if token_type else ""
                for labels, series in rendered:
                    yield from getattr(series, attribute).lines(name, labels + more)


# What is counted by one label more: name, what it means, the attribute, the label.
_BY_LABEL: Final = (
    ("requests_total", "Requests by the status code of their answer.", "codes", "code"),
    ("finish_reason_total", "Answers by the engine's finish reason.", "reasons", "reason"),
    ("tool_use_total", "Answers by whether tools were offered, and called.", "tools", "use"),
    ("prefix_hit_total", "Answers by how much of the prompt the engine's cache had.", "prefix_hits", "share"),
)


def _counters(rendered: Sequence[tuple[str, Series]]) -> Iterator[str]:
    for name, text, attribute, label in _BY_LABEL:
        yield from _header(PREFIX + name, "counter", text)
        for labels, series in rendered:
            for value, count in getattr(series, attribute).items():
                yield f'{PREFIX}{name}{{{labels},{label}="{escaped(str(value))}"}} {count}'
    yield from _header(f"{PREFIX}text_total", "counter", "Sampled answers by what their text was like.")
    for labels, series in rendered:
        for (signal, value), count in series.text.items():
            yield f'{PREFIX}text_total{{{labels},signal="{signal}",value="{escaped(value)}"}} {count}'
    yield from _header(f"{PREFIX}retries_total", "counter", "Attempts at another pod before the first byte.")
    for labels, series in rendered:
        yield f"{PREFIX}retries_total{{{labels}}} {series.retries}"
    yield from _header(f"{PREFIX}cut_total", "counter", "Answers that ended before they were complete.")
    for labels, series in rendered:
        yield f"{PREFIX}cut_total{{{labels}}} {series.cut}"


def _header(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def escaped(value: str) -> str:
    """A label value as the text format wants it."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _labels(labels: Labels) -> str:
    keys = ("namespace", "model", "adapter", "tenant", "gen_ai_operation_name")
    return ",".join(f'{key}="{escaped(value)}"' for key, value in zip(keys, labels, strict=True))


def summed(texts: Sequence[str]) -> str:
    """One text out of several processes' texts: samples with the same name and labels are added up."""
    if len(texts) == 1:
        return texts[0]
    order: dict[str, float] = {}
    families: dict[str, list[str]] = {}
    family = ""
    for text in texts:
        for line in text.splitlines():
            if line.startswith("#"):
                family = line.split(" ", 3)[2]
                of_family = families.setdefault(family, [])
                if line not in of_family:
                    of_family.append(line)
                continue
            sample, _, value = line.rpartition(" ")
            if sample not in order:
                families[family].append(sample)
            order[sample] = order.get(sample, 0.0) + float(value)
    lines = (line if line.startswith("#") else f"{line} {order[line]:.17g}" for of in families.values() for line in of)
    return "\n".join(lines) + "\n"
