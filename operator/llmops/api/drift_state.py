"""What the operator remembers of a deployment's drift between two looks, as it is stored beside the baselines."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from llmops.api.drift import Action, Frozen, FrozenBaseline, Signal


class State(StrEnum):
    """Where a signal stands."""

    LEARNING = "Learning"
    ARMED = "Armed"
    DRIFTING = "Drifting"
    ACKNOWLEDGED = "Acknowledged"
    REBASED = "Rebased"  # the owner said that this is the new normal: learning again


class Doubt(StrEnum):
    """Why nobody can tell: never the same as "no drift"."""

    TOO_FEW_SAMPLES = "TooFewSamples"
    NO_PROMETHEUS = "NoPrometheus"
    RULES_NOT_LOADED = "RulesNotLoaded"
    SIGNAL_MISSING = "SignalMissing"
    ROLLING_OUT = "RollingOut"
    SCALED_TO_ZERO = "ScaledToZero"


class Onset(Frozen):
    """A drift when it was found: what its message quotes for as long as it lasts. `bins`: label and part of PSI."""

    since: datetime
    debiased: float
    threshold: float
    samples: int
    bins: tuple[tuple[str, float], ...]


class Memory(Frozen):
    """What is remembered of one signal.

    `key`: what a baseline must be valid for; `learn_from`: begin of the reference; `since`: begin of the state;
    `turning_since`: when the signal began to look as if it left its state, if it does; `doubt`: of the last look.
    """

    key: str
    state: State = State.LEARNING
    since: datetime
    learn_from: datetime
    turning_since: datetime | None = None
    onset: Onset | None = None
    doubt: Doubt | None = None

    @property
    def learning(self) -> bool:
        """Whether there is no baseline to compare with."""
        return self.state in (State.LEARNING, State.REBASED)


class Served(Frozen):
    """The model that baselines are about: its files by `digest`, and where they came from when they were first met."""

    source: str
    revision: str | None = None
    digest: str | None = None


class Memories(Frozen):
    """All of one deployment: by signal, and when each action was last taken. `served`: what the keys were made of."""

    served: Served | None = None
    signals: dict[Signal, Memory] = Field(default_factory=dict)
    actions: dict[Action, datetime] = Field(default_factory=dict)


class Remembered(Frozen):
    """Everything that is stored."""

    baselines: tuple[FrozenBaseline, ...] = ()
    memories: Memories = Memories()

    def baseline(self, signal: Signal) -> FrozenBaseline | None:
        """The signal's own, whatever it is valid for."""
        return next((each for each in self.baselines if each.signal == signal), None)
