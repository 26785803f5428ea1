"""FineTuneJobs as another object's reconcile sees them: what it names, read live."""

from __future__ import annotations

from pydantic import ValidationError

from llmops.api.conditions import Reason
from llmops.api.fine_tune_job import FineTuneJob
from llmops.api.problem import NeedsUser
from llmops.judge.verdict import shortened
from llmops.shell.resources import FINE_TUNE_JOB
from llmops.shell.world import World


async def named(namespace: str, name: str, world: World) -> FineTuneJob | None:
    """The FineTuneJob of this name; `None` when there is none.

    Raises:
        NeedsUser: the stored one no longer parses: nobody can say what it made.
    """
    live = await world.cluster.get(FINE_TUNE_JOB, namespace, name)
    if live is None:
        return None
    try:
        return FineTuneJob.from_manifest(live)
    except ValidationError as error:
        first = error.errors()[0]
        said = shortened(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        raise NeedsUser(
            Reason.INVALID_SPEC, f"FineTuneJob {name}, which this names, cannot be read ({said}). Create it anew."
        ) from error
