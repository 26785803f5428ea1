"""The losses of a run as a picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llmops_serving.jobs.finetune import curves

TRAIN, HELD_OUT, QUIET = "#3b6fb6", "#d1662b", "#6b7280"
SMOOTHED = 20  # points of the training loss above which a mean is drawn through them


def loss_curve(history: curves.History, title: str, place: Path) -> None:
    """Training and held-out loss by step, the best checkpoint and the base model marked, as a PNG."""
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 10, "axes.axisbelow": True}):
        figure = Figure(figsize=(8, 4.8), dpi=144, layout="constrained")
        axes = figure.add_subplot()
        trained, evaluated = curves.losses(history), curves.evaluations(history)
        if trained:
            steps, losses = zip(*trained, strict=True)
            many = len(losses) > SMOOTHED
            axes.plot(
                steps, losses, color=TRAIN, alpha=0.3 if many else 1, lw=1, label=None if many else "training rows"
            )
            if many:
                axes.plot(steps, _smooth(np.array(losses)), color=TRAIN, lw=1.8, label="training rows (mean of 10 %)")
        if evaluated:
            steps, losses = zip(*evaluated, strict=True)
            axes.plot(steps, losses, color=HELD_OUT, lw=1.8, marker="o", ms=4, label="held-out rows")
        if (base := curves.base_loss(history)) is not None:
            axes.axhline(base, color=QUIET, lw=1, ls=(0, (4, 3)), label=f"base model, held-out rows: {base:.3f}")
        if best := curves.best(history):
            label = f"exported: step {best[0]}, loss {best[1]:.3f}"
            axes.plot(*best, marker="*", ms=13, color=HELD_OUT, mec="white", mew=0.8, ls="none", label=label)
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#e5e7eb", lw=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(frameon=False, loc="outside lower center", ncols=2)
        figure.savefig(place, format="png", metadata={"Software": None})


def _smooth(losses: np.ndarray) -> np.ndarray:
    """A mean over a tenth of the points, of as many as there are at the ends."""
    width = max(3, len(losses) // 10)
    weights = np.ones(width)
    return np.convolve(losses, weights, "same") / np.convolve(np.ones(len(losses)), weights, "same")
