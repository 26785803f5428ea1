"""What the Job does: unload what is not wished for, copy, try, prove and name what is."""

from __future__ import annotations

from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from llmops_serving.jobs.adapters import proof
from llmops_serving.jobs.adapters.engine import Engine, Refused
from llmops_serving.jobs.adapters.store import Store, Unusable

log = structlog.get_logger()


class Wish(BaseModel):
    """One adapter that the engine should have; `origin` is where its files are, if they must be copied."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: str = Field(pattern="^sha256:[0-9a-f]{16,64}$")
    origin: Path | None = Field(alias="from")

    @property
    def trial(self) -> str:
        """A name that no client can send: it is proven under this one first."""
        return f"{self.name}@{self.digest.removeprefix('sha256:')[:16]}"


WISHES = TypeAdapter(tuple[Wish, ...])


def given(engine: Engine, model: str, store: Store, wishes: tuple[Wish, ...]) -> dict[str, proof.Flaw]:
    """Bring the engine to exactly these adapters; returns what is wrong with those it does not serve, by name.

    One that is loaded already keeps answering until the one that takes its name is proven, and when that fails.

    Raises:
        httpx.TransportError: the engine does not answer.
        Refused: the engine does not list or unload.
    """
    wished = {wish.name for wish in wishes}
    for name in engine.adapters().keys() - wished:
        engine.unload(name)
        log.info("unloaded", adapter=name)
    flaws: dict[str, proof.Flaw] = {}
    for wish in wishes:
        try:
            flaw = _tried(engine, model, store, wish)
        except Unusable as problem:
            flaw = proof.Flaw("AdapterLoadFailed", str(problem))
        except Refused as refusal:
            flaw = proof.Flaw("AdapterLoadFailed", f"The engine refuses it: {refusal}")
        if flaw:
            flaws[wish.name] = flaw
            log.warning("not served", adapter=wish.name, reason=flaw.reason, message=flaw.message)
        else:
            log.info("served", adapter=wish.name, digest=wish.digest)
    return flaws


def _tried(engine: Engine, model: str, store: Store, wish: Wish) -> proof.Flaw | None:
    place = store.kept(wish.digest, wish.origin)
    recorded = _recorded(place)
    engine.load(wish.trial, place)
    try:
        answered = [
            proof.Answered(
                engine.log_probabilities(model, row.ids, row.start),
                engine.log_probabilities(wish.trial, row.ids, row.start),
            )
            for row in recorded.rows
        ]
    finally:
        engine.unload(wish.trial)
    if flaw := proof.flaw(recorded, answered):
        return flaw
    listed = engine.adapters()
    if listed.get(wish.name) != str(place):
        engine.load(wish.name, place, again=wish.name in listed)
    if engine.adapters().get(wish.name) != str(place):
        raise Refused("it was loaded and /v1/models does not list it.")
    return None


def _recorded(place: Path) -> proof.Recorded:
    try:
        return proof.Recorded.model_validate_json((place / proof.RECORD).read_bytes())
    except (OSError, ValidationError) as error:
        raise Unusable(
            f"Its artifact has no {proof.RECORD} of what its training measured: nothing can be proven. Train it again."
        ) from error
