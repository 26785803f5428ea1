"""`llmops drift status`, `ack` and `rebase`: what drifted, and the owner's word about it.

The word is an annotation on the LLMDeployment, written with the rights of the person at the keyboard. Argo CD and Flux
leave alone what a manifest does not mention; who wants it in Git writes the same annotation there.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from llmops.api.drift import ACKNOWLEDGED_ANNOTATION, REBASED_ANNOTATION, Signal
from llmops.api.drift_state import Memory, Remembered, State
from llmops.cli.cluster import NO, CliError, Cluster, Context, Json, Namespace, Refused
from llmops.cli.output import Form, Output, age, now, print_json, table
from llmops.desired import drift as desired
from llmops.shell.resources import CONFIG_MAP, LLM_DEPLOYMENT

Name = Annotated[str, typer.Argument(help="The LLMDeployment.")]


def status(name: Name, *, namespace: Namespace = None, context: Context = None, output: Output = Form.TEXT) -> None:
    """Say of every signal where it stands, and how it drifted; exit 1 while a drift is not acknowledged."""
    cluster = Cluster(context, namespace)
    condition, known = _condition(cluster, name), _remembered(cluster, name)
    if output is Form.JSON:
        print_json({"condition": condition, **known.model_dump(by_alias=True, mode="json", exclude_none=True)})
    else:
        typer.echo(f"{condition['reason']}: {condition['message']}\n")
        columns = ("signal", "state", "for", "threshold", "learned from", "drift", "n", "most in bins")
        table(columns, [_row(known, signal, memory) for signal, memory in known.memories.signals.items()])
    if condition["reason"] == State.DRIFTING:
        raise typer.Exit(NO)


def ack(name: Name, *, namespace: Namespace = None, context: Context = None) -> None:
    """Accept the drift that is there: it alarms again only when it grows by half."""
    _say(name, ACKNOWLEDGED_ANNOTATION, namespace, context)
    typer.echo("Acknowledged. It alarms again when it grows by half, or returns after it was gone.")


def rebase(name: Name, *, namespace: Namespace = None, context: Context = None) -> None:
    """Call the traffic of now normal: forget the baseline and learn a new one from here on."""
    _say(name, REBASED_ANNOTATION, namespace, context)
    typer.echo("Rebased. Until the new baseline is learned (spec.drift.baseline), nothing can alarm.")


def _say(name: str, annotation: str, namespace: str | None, context: str | None) -> None:
    cluster = Cluster(context, namespace)
    moment = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    _condition(cluster, name)
    try:
        cluster.annotate(LLM_DEPLOYMENT, name, {annotation: moment})
    except Refused as refusal:
        raise refusal.exit() from refusal


def _condition(cluster: Cluster, name: str) -> Json:
    try:
        live = cluster.get(LLM_DEPLOYMENT, name)
    except Refused as refusal:
        raise refusal.exit() from refusal
    found = live.get("status", {}).get("conditions", [])
    drifted: Json | None = next((each for each in found if each["type"] == "Drifted"), None)
    if drifted is None:
        raise CliError(f"{name} does not watch for drift: add `drift: {{}}` to its spec", NO)
    return drifted


def _remembered(cluster: Cluster, name: str) -> Remembered:
    try:
        return desired.remembered(cluster.get(CONFIG_MAP, desired.memory_name(name)))
    except Refused as refusal:
        if refusal.status == 404:
            return Remembered()
        raise refusal.exit() from refusal


def _row(known: Remembered, signal: Signal, memory: Memory) -> tuple[str, ...]:
    baseline, onset = known.baseline(signal), memory.onset
    learned = f"{baseline.samples:.0f} in {baseline.windows} windows" if baseline else "-"
    found = ("-", "-", "-")
    if onset:
        bins = ", ".join(f"{label} ({part:.3f})" for label, part in onset.bins)
        found = (f"{onset.debiased:.3f}", str(onset.samples), bins)
    return (
        signal,
        f"{memory.state} ({memory.doubt})" if memory.doubt else str(memory.state),
        age(memory.since.isoformat(), now()),
        f"{baseline.threshold:.3f}" if baseline else "-",
        learned,
        *found,
    )
