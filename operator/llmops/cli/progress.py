"""A FineTuneJob as it goes on: a live bar on a terminal, a line per piece of news off it, out of its pods' logs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import typer

from llmops import names
from llmops.api.conditions import ConditionType
from llmops.cli.cluster import NO, Cluster, Json, Refused
from llmops.cli.output import console
from llmops.shell import resources

POLL_SECONDS = 1.0
_INDEX = "batch.kubernetes.io/job-completion-index"


def follow(cluster: Cluster, name: str, *, tail: int) -> None:
    """Tell of a FineTuneJob until it has ended; one that fails ends the command with exit code 1.

    Raises:
        Refused: it does not exist, or may not be read.
        typer.Exit: it failed.
    """
    read: set[str] = set()
    told = ""
    with teller() as tell:
        while True:
            live = cluster.get(resources.FINE_TUNE_JOB, name)
            state = _state(live)
            if state and state != told:
                told = state
                tell.say(state)
            for pod in _pods(cluster, name):
                if pod["metadata"]["uid"] not in read and _has_log(pod):
                    read.add(pod["metadata"]["uid"])
                    for event in _events(cluster, pod, tail):
                        tell.event(event)
            if (end := _end(live)) is not None:
                if end["type"] == ConditionType.FAILED:
                    raise typer.Exit(NO)
                return
            time.sleep(POLL_SECONDS)


def sentence(event: Json) -> str:
    """One line about an event of a job's log; empty for one that is nobody's news."""
    match event.get("event"):
        case "progress":
            share = f"{100 * event['step'] // max(1, event['total'])} %"
            return f"step {event['step']} of {event['total']} ({share}){_numbers(event)}"
        case "checkpoint":
            return f"checkpoint at step {event.get('step')}"
        case "training":
            return f"training from step {event.get('step')} to {event.get('total')}"
        case "ended" | "checked" if event.get("message"):
            return f"{event.get('outcome', event['event'])}: {event['message']}"
        case _:
            return ""


def _numbers(event: Json) -> str:
    shown = [f"{label} {event[key]:.4g}" for key, label in _LOSSES if event.get(key) is not None]
    if event.get("tokens_per_second"):
        shown.append(f"{event['tokens_per_second']} tokens/s")
    if event.get("eta_seconds"):
        shown.append(f"{_duration(event['eta_seconds'])} left")
    return "".join(f", {each}" for each in shown)


_LOSSES = (("loss", "loss"), ("eval_loss", "held-out loss"), ("best_loss", "best"))


def _duration(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class Lines:
    """One line per piece of news, for pipes and CI logs."""

    def say(self, text: str) -> None:
        """Print a line."""
        typer.echo(text)

    def event(self, event: Json) -> None:
        """Print what an event says, if it says something."""
        if text := sentence(event):
            self.say(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left behind."""


class Bar(Lines):
    """A bar that moves with the steps; other news passes above it."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415 - takes its time

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[now]}"),
        )
        self._progress = Progress(*columns, console=console())
        self._task: Any = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, markup=False)

    def event(self, event: Json) -> None:
        """Move the bar, or print what the event says."""
        if event.get("event") != "progress":
            super().event(event)
            return
        if self._task is None:
            self._task = self._progress.add_task("steps", total=event["total"], now="")
        self._progress.update(
            self._task, completed=event["step"], total=event["total"], now=_numbers(event).lstrip(", ")
        )


def teller() -> Lines:
    """A bar on a terminal, lines off it."""
    return Bar() if console().is_terminal else Lines()


def _state(live: Json) -> str:
    conditions = {entry["type"]: entry for entry in live.get("status", {}).get("conditions") or []}
    running = conditions.get(ConditionType.RUNNING)
    return f"{running['reason']}: {running['message']}" if running else ""


def _end(live: Json) -> Json | None:
    for entry in live.get("status", {}).get("conditions") or []:
        if entry["type"] in (ConditionType.COMPLETE, ConditionType.FAILED) and entry["status"] == "True":
            return dict(entry)
    return None


def _pods(cluster: Cluster, name: str) -> list[Json]:
    """The job's pods, oldest first; of those that train together the first one tells."""
    found = cluster.list(resources.POD, cluster.namespace, labelSelector=f"{names.LABEL_JOB}={name}")
    leading = [pod for pod in found if pod["metadata"]["labels"].get(_INDEX, "0") == "0"]
    return sorted(leading, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def _has_log(pod: Json) -> bool:
    return pod.get("status", {}).get("phase") in ("Running", "Succeeded", "Failed")


def _events(cluster: Cluster, pod: Json, tail: int) -> Iterator[Json]:
    """Events of a pod's log until it ends; a pod that is gone by now has none."""
    meta, container = pod["metadata"], pod["spec"]["containers"][0]["name"]
    parse: Callable[[str], Any] = json.loads
    try:
        for line in cluster.logs(meta["namespace"], meta["name"], container=container, tail=tail, follow=True):
            try:
                event = parse(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event
    except Refused as refusal:
        if refusal.status not in (400, 404):
            raise
