"""The numbers of a run that move, for Prometheus: on a port of the pod, while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, start_http_server

# Fact of a progress line, name of the series, and what it means.
SERIES = (
    ("step", "llmops_finetune_step", "Optimizer steps done"),
    ("total", "llmops_finetune_planned_steps", "Optimizer steps there will be"),
    ("epoch", "llmops_finetune_epoch", "Passes over the data"),
    ("loss", "llmops_finetune_loss", "Loss on the training rows"),
    ("eval_loss", "llmops_finetune_eval_loss", "Loss on the held-out rows"),
    ("best_loss", "llmops_finetune_best_eval_loss", "Lowest loss on the held-out rows"),
    ("tokens_per_second", "llmops_finetune_tokens_per_second", "Tokens trained per second, padding left out"),
    ("eta_seconds", "llmops_finetune_eta_seconds", "Seconds left to train"),
    ("checkpoint", "llmops_finetune_checkpoint_step", "Step that an interruption goes back to"),
)


class Metrics:
    """Gauges of one run.

    Args:
        port: Where they are served; 0: nowhere.
    """

    def __init__(self, port: int = 0) -> None:
        self._registry = CollectorRegistry()
        self._gauges = {fact: Gauge(name, meaning, registry=self._registry) for fact, name, meaning in SERIES}
        if port:
            start_http_server(port, registry=self._registry)

    def show(self, facts: Mapping[str, Any]) -> None:
        """Take over what a progress line says."""
        for fact, gauge in self._gauges.items():
            if facts.get(fact) is not None:
                gauge.set(facts[fact])
