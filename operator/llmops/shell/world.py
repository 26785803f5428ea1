"""What a reconcile may touch, and nothing else: made once by the process, handed to every look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from llmops.config import Config
from llmops.shell.backup_series import BackupSeries
from llmops.shell.cluster import Cluster
from llmops.shell.costs import Costs
from llmops.shell.mirror import Mirror
from llmops.shell.sizes import Sizes
from llmops.shell.traffic import Traffic
from llmops.shell.troubles import Troubles


@dataclass(frozen=True)
class World:
    """Everything a reconcile may touch, made once by the process."""

    cluster: Cluster
    mirror: Mirror
    sizes: Sizes
    costs: Costs
    traffic: Traffic
    backups: BackupSeries
    troubles: Troubles
    config: Config
    now: Callable[[], datetime]
