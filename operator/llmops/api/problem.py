"""What only the user can mend."""

from __future__ import annotations

from llmops.api.conditions import Reason


class NeedsUser(Exception):
    """Nothing changes until the spec, or what it refers to, does: shown as a condition, not retried."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
