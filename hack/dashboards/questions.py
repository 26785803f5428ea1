"""What each dashboard asks. `$__rate_interval`, `$namespace` and `$model` are Grafana's to fill in."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmops.desired import queries
from llmops.desired.slo_rules import BETWEEN, TO_FIRST

CHOSEN = 'namespace=~"$namespace",model=~"$model"'
DEPLOYED = 'namespace=~"$namespace",deployment=~"$model"'
RATE = "$__rate_interval"
MODEL = "namespace, model"
NAMED = "{{namespace}}/{{model}}"


@dataclass(frozen=True)
class Panel:
    """One panel: PromQL by its legend, in a unit that Grafana knows; `now` shows the last values only."""

    title: str
    unit: str
    lines: dict[str, str]
    about: str = ""
    now: bool = False
    span: int = 8


@dataclass(frozen=True)
class Dashboard:
    """A page of panels under headings. `chooses` are the variables on top, each with the series it is read from."""

    uid: str
    title: str
    about: str
    rows: dict[str, tuple[Panel, ...]]
    chooses: dict[str, str] = field(
        default_factory=lambda: {
            "namespace": "label_values(llmops_gateway_requests_total, namespace)",
            "model": 'label_values(llmops_gateway_requests_total{namespace=~"$namespace"}, model)',
        }
    )

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels in reading order."""
        return tuple(panel for row in self.rows.values() for panel in row)


def rate(metric: str, by: str, more: str = "") -> str:
    """Per second, summed by these labels."""
    return f"sum by ({by}) (rate({metric}{{{CHOSEN}{more}}}[{RATE}]))"


def quantile(q: float, histogram: str, by: str = "", more: str = "") -> str:
    """A quantile of one of the gateway's histograms."""
    labels = ", ".join(label for label in ("le", by) if label)
    return f"histogram_quantile({q:g}, {rate(f'{histogram}_bucket', labels, more)})"


def quantiles(histogram: str, more: str = "") -> dict[str, str]:
    """Median, 95th and 99th percentile."""
    return {f"p{q * 100:g}": quantile(q, histogram, more=more) for q in (0.5, 0.95, 0.99)}


def share(part: str, whole: str) -> str:
    """A ratio that is absent, and not a division by nothing, while nothing happens."""
    return f"{part} / ({whole} > 0)"


REQUESTS = "llmops_gateway_requests_total"
DURATION = "gen_ai_server_request_duration_seconds"
TOKENS = "gen_ai_client_token_usage"
PROMPT, COMPLETION = (f',gen_ai_token_type="{kind}"' for kind in ("input", "output"))
# Zero times the requests: a model without errors has no series of errors, and its share is zero, not unknown.
ERRORS = f"""({rate(REQUESTS, MODEL, ',code=~"5.."')} or 0 * {rate(REQUESTS, MODEL)})"""

OVERVIEW = Dashboard(
    "llmops-overview",
    "LLMs / Overview",
    "Every model behind the gateway.",
    {
        "Traffic": (
            Panel("Requests", "reqps", {NAMED: rate(REQUESTS, MODEL)}),
            Panel("Failed requests", "percentunit", {NAMED: share(ERRORS, rate(REQUESTS, MODEL))}),
            Panel("Time to first token, p95", "s", {NAMED: quantile(0.95, TO_FIRST, MODEL)}),
            Panel("In flight", "short", {NAMED: f"sum by ({MODEL}) (llmops_gateway_in_flight{{{CHOSEN}}})"}),
            Panel(
                "Held",
                "short",
                {NAMED: f"sum by ({MODEL}) (llmops_gateway_held{{{CHOSEN}}})"},
                "Requests that wait for a replica.",
            ),
            Panel(
                "Tokens",
                "short",
                {
                    f"{kind} {NAMED}": rate(f"{TOKENS}_sum", MODEL, more)
                    for kind, more in {"prompt": PROMPT, "completion": COMPLETION}.items()
                },
                "Per second.",
            ),
        ),
        "Accelerators": (
            Panel(
                "Accelerators by state",
                "short",
                {"{{state}}": f"sum by (state) (rate(llmops_accelerator_seconds_total{{{DEPLOYED}}}[{RATE}]))"},
                "Loading, idle or busy: accelerator-seconds per second.",
            ),
            Panel("Cost of an hour", "short", {"{{namespace}}/{{model}}": queries.per_hour()}, now=True),
        ),
        "Operator": (
            Panel(
                "Looks",
                "ops",
                {"{{kind}} {{outcome}}": f"sum by (kind, outcome) (rate(llmops_operator_reconciles_total[{RATE}]))"},
            ),
            Panel("Oldest due object", "s", {"late": "max(llmops_operator_queue_lateness_seconds)"}),
            Panel(
                "Kubernetes API calls",
                "ops",
                {"{{verb}} {{code}}": f"sum by (verb, code) (rate(llmops_operator_api_calls_total[{RATE}]))"},
            ),
        ),
    },
)

DEPLOYMENT = Dashboard(
    "llmops-deployment",
    "LLMs / One deployment",
    "What its users feel, and what its engines do.",
    {
        "Users": (
            Panel("Requests by status", "reqps", {"{{code}}": rate(REQUESTS, "code")}),
            Panel("Time to first token", "s", quantiles(TO_FIRST)),
            Panel("Between tokens", "s", quantiles(BETWEEN)),
            Panel("Whole request", "s", quantiles(DURATION)),
            Panel("Prompt tokens of a request", "short", quantiles(TOKENS, PROMPT)),
            Panel("Completion tokens of a request", "short", quantiles(TOKENS, COMPLETION)),
            Panel("Finish reasons", "reqps", {"{{reason}}": rate("llmops_gateway_finish_reason_total", "reason")}),
            Panel("Requests by tenant", "reqps", {"{{tenant}}": rate(REQUESTS, "tenant")}),
            Panel(
                "Retried and cut",
                "reqps",
                {
                    "tried again": f"sum(rate(llmops_gateway_retries_total{{{CHOSEN}}}[{RATE}]))",
                    "cut": f"sum(rate(llmops_gateway_cut_total{{{CHOSEN}}}[{RATE}]))",
                },
                "Tried again on another pod before the first byte; ended before it was complete.",
            ),
        ),
        "Engines (vLLM)": (
            Panel(
                "Running and waiting",
                "short",
                {
                    "running": f"sum(vllm:num_requests_running{{{CHOSEN}}})",
                    "waiting": f"sum(vllm:num_requests_waiting{{{CHOSEN}}})",
                },
            ),
            Panel("Fullest KV cache", "percentunit", {"": f"max(vllm:kv_cache_usage_perc{{{CHOSEN}}})"}),
            Panel(
                "Prefix cache hits",
                "percentunit",
                {
                    "of tokens asked for": share(
                        f"sum(rate(vllm:prefix_cache_hits_total{{{CHOSEN}}}[{RATE}]))",
                        f"sum(rate(vllm:prefix_cache_queries_total{{{CHOSEN}}}[{RATE}]))",
                    )
                },
            ),
        ),
    },
)

COST = Dashboard(
    "llmops-cost",
    "LLMs / Cost",
    "What accelerators cost, for whom, and what was idle. The currency is that of profiles.NAME.pricePerHour.",
    {
        "Now": (Panel("Cost of an hour", "short", {NAMED: queries.per_hour()}, now=True),),
        "Over the chosen time": (
            Panel("Cost", "short", {NAMED: queries.cost("$__range")}, now=True),
            Panel("Saved by sleeping", "short", {NAMED: queries.saved("$__range")}, now=True),
            Panel("Idle", "percentunit", {NAMED: queries.idle_share("$__range")}, now=True),
            Panel("Cost of a million tokens", "short", {NAMED: queries.cost_per_million_tokens("$__range")}, now=True),
            Panel(
                "Cost by tenant",
                "short",
                {"{{namespace}}/{{model}} {{tenant}}": queries.tenant_cost("$__range")},
                "By each tenant's part of the model's tokens.",
                now=True,
                span=16,
            ),
        ),
    },
)

# Each bin's part of PSI.
BIN = "on (namespace, model, signal, baseline, bin)"
SHARE, EXPECTED = (f"llmops:drift_{each}{{{CHOSEN}}}" for each in ("share", "baseline_share"))
TERMS = f"({SHARE} - {BIN} {EXPECTED}) * {BIN} ln({SHARE} / {BIN} {EXPECTED})"

DRIFT = Dashboard(
    "llmops-drift",
    "LLMs / Drift",
    "How far traffic is from what was learned, and which bins make it so.",
    {
        "Score": (
            Panel(
                "Debiased PSI and the bar it must pass",
                "short",
                {
                    f"{{{{signal}}}} {NAMED}": f"llmops:drift_psi_debiased{{{CHOSEN}}}",
                    f"bar {{{{signal}}}} {NAMED}": f"llmops:drift_bar{{{CHOSEN}}}",
                },
                "The bar is the threshold, or higher where the same hour of last week or a small sample explains "
                "the score. An alarm also needs a sample large enough.",
                span=16,
            ),
            Panel("Requests in the window", "short", {f"{{{{signal}}}} {NAMED}": f"llmops:drift_samples{{{CHOSEN}}}"}),
        ),
        "Bins": (
            Panel(
                "Contribution to the score",
                "short",
                {"{{signal}} {{bin}}": f"topk(10, {TERMS})"},
                now=True,
                span=12,
            ),
            Panel(
                "Share now and as learned",
                "percentunit",
                {
                    "now {{signal}} {{bin}}": SHARE,
                    "learned {{signal}} {{bin}}": EXPECTED,
                },
                now=True,
                span=12,
            ),
        ),
    },
    {
        "namespace": "label_values(llmops:drift_threshold, namespace)",
        "model": 'label_values(llmops:drift_threshold{namespace=~"$namespace"}, model)',
    },
)

JOB = 'namespace=~"$namespace",fine_tune_job=~"$job"'
FINE_TUNE = Dashboard(
    "llmops-fine-tune",
    "LLMs / Fine-tuning",
    "Runs while they train.",
    {
        "Progress": (
            Panel(
                "Steps done",
                "percentunit",
                {
                    "{{namespace}}/{{fine_tune_job}}": f"llmops_finetune_step{{{JOB}}} "
                    f"/ (llmops_finetune_planned_steps{{{JOB}}} > 0)"
                },
            ),
            Panel("Time left", "s", {"{{fine_tune_job}}": f"llmops_finetune_eta_seconds{{{JOB}}}"}),
            Panel("Tokens per second", "short", {"{{fine_tune_job}}": f"llmops_finetune_tokens_per_second{{{JOB}}}"}),
        ),
        "Loss": (
            Panel("On training rows", "short", {"{{fine_tune_job}}": f"llmops_finetune_loss{{{JOB}}}"}, span=12),
            Panel(
                "On held-out rows",
                "short",
                {
                    "{{fine_tune_job}}": f"llmops_finetune_eval_loss{{{JOB}}}",
                    "best {{fine_tune_job}}": f"llmops_finetune_best_eval_loss{{{JOB}}}",
                },
                span=12,
            ),
        ),
    },
    {
        "namespace": "label_values(llmops_finetune_step, namespace)",
        "job": 'label_values(llmops_finetune_step{namespace=~"$namespace"}, fine_tune_job)',
    },
)

KIND = f"{{{DEPLOYED}}}"
BACKED_UP = "{{namespace}}/{{deployment}}"
BACKUP = Dashboard(
    "llmops-backup",
    "LLMs / Restore points",
    "How old the newest restore point is, whether it was proven, and what it takes.",
    {
        "Points": (
            Panel(
                "Age of the newest point",
                "s",
                {BACKED_UP: f"time() - llmops_backup_point_timestamp_seconds{KIND}"},
                "An alert comes at one and a half times the schedule's interval.",
            ),
            Panel(
                "Age in intervals of the schedule",
                "short",
                {
                    BACKED_UP: f"(time() - llmops_backup_point_timestamp_seconds{KIND}) "
                    f"/ (llmops_backup_interval_seconds{KIND} > 0)"
                },
            ),
            Panel(
                "Age of the newest verified point",
                "s",
                {BACKED_UP: f"time() - llmops_backup_verified_point_timestamp_seconds{KIND}"},
            ),
        ),
        "Runs": (
            Panel(
                "Failing",
                "short",
                {f"{{{{kind}}}} {{{{reason}}}} {BACKED_UP}": f"llmops_backup_failing{KIND}"},
                "1 while the newest run of a kind is a failure.",
            ),
            Panel(
                "Since the last success",
                "s",
                {f"{{{{kind}}}} {BACKED_UP}": f"time() - llmops_backup_last_success_timestamp_seconds{KIND}"},
            ),
            Panel("Duration", "s", {f"{{{{kind}}}} {BACKED_UP}": f"llmops_backup_duration_seconds{KIND}"}),
        ),
        "Size": (
            Panel("Newest point", "bytes", {BACKED_UP: f"llmops_backup_bytes{KIND}"}, span=12),
            Panel("Stored in the repository", "bytes", {BACKED_UP: f"llmops_backup_stored_bytes{KIND}"}, span=12),
        ),
    },
    {
        "namespace": "label_values(llmops_backup_bytes, namespace)",
        "model": 'label_values(llmops_backup_bytes{namespace=~"$namespace"}, deployment)',
    },
)

DASHBOARDS = (OVERVIEW, DEPLOYMENT, COST, DRIFT, FINE_TUNE, BACKUP)
