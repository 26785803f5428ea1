"""What may go wrong on purpose: rules that a request is held against, in order, until each is used up."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Fault:
    """One misbehaviour. `times` counts down per matching request; -1 never ends.

    Exactly what it does: `status` answers with that code (and `headers`) instead of the file; `truncate_at` closes the
    connection after that many body bytes; `corrupt_at` flips the body's byte at that offset of the file;
    `redirect` sends the client elsewhere; `ignore_range` answers 200 with the whole file;
    `stall_seconds` waits before the first byte.
    """

    match: str = ""
    method: str = "GET"
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    truncate_at: int | None = None
    corrupt_at: int | None = None
    redirect: str = ""
    ignore_range: bool = False
    stall_seconds: float = 0.0

    def meets(self, method: str, target: str) -> bool:
        return self.times != 0 and method == self.method and re.search(self.match, target) is not None


class Faults:
    """The rules in force; safe to change while requests are served."""

    def __init__(self) -> None:
        self._rules: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, *rules: Fault) -> None:
        with self._lock:
            self._rules.extend(rules)

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def take(self, method: str, target: str) -> Fault | None:
        """The first rule this request meets, used up by one."""
        with self._lock:
            for rule in self._rules:
                if rule.meets(method, target):
                    rule.times -= 1 if rule.times > 0 else 0
                    return rule
        return None
