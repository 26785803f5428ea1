"""What every tier shares."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine, not about the code; figures live in bench/.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples at every run: what is found by chance is found by exploring, not while somebody wants to land.
settings.register_profile("steady", settings.get_profile("explore"), derandomize=True, max_examples=60)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
