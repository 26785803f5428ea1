"""PromQL for what serving costs, shared by dashboards and the command line.

The operator counts by `deployment`, the gateway by `model`, which is the same name; every result here is by
`namespace` and `model`.
"""

from __future__ import annotations

_MODEL = "namespace, model"
_OPERATORS = '"model", "$1", "deployment", "(.*)"'


def _by_model(expression: str) -> str:
    return f"sum by ({_MODEL}) (label_replace({expression}, {_OPERATORS}))"


def cost(window: str) -> str:
    """Cost of each model over the window (a PromQL duration)."""
    return _by_model(f"increase(llmops_cost_total[{window}])")


def saved(window: str) -> str:
    """What one replica would have cost while the model slept."""
    return _by_model(f"increase(llmops_cost_saved_total[{window}])")


def per_hour() -> str:
    """Cost of an hour of the pods there are."""
    return _by_model("llmops_cost_per_hour")


def idle_share(window: str) -> str:
    """Share of the accelerator time in which a ready replica had nothing to do."""
    idle = _by_model(f'increase(llmops_accelerator_seconds_total{{state="idle"}}[{window}])')
    return f"{idle} / ({_by_model(f'increase(llmops_accelerator_seconds_total[{window}])')} > 0)"


def tokens(window: str, by: str = _MODEL) -> str:
    """Prompt and completion tokens over the window, by these labels."""
    return f"sum by ({by}) (increase(gen_ai_client_token_usage_sum[{window}]))"


def cost_per_million_tokens(window: str) -> str:
    """Cost of each model's accelerators per million tokens that went through it."""
    return f"1e6 * {cost(window)} / ({tokens(window)} > 0)"


def tenant_cost(window: str) -> str:
    """Each tenant's part of a model's cost, by its part of the model's tokens."""
    share = f"{tokens(window, f'{_MODEL}, tenant')} / on ({_MODEL}) group_left () ({tokens(window)} > 0)"
    return f"({share}) * on ({_MODEL}) group_left () ({cost(window)})"
