"""What must hold for every request the operator ever makes, whatever else a test is about."""

from __future__ import annotations

from collections import Counter

from llmops import names
from tests.faultproxy.calls import Call, Json

# An apply of a child may be in vain once, when a watch brings the news of its repair late; a status is judged against
# a live read and never is.
VAIN_CHILD_WRITES = 1
CONFLICT = 409


class Standing:
    """The assertions, over all traffic of the operators that share one Lease; `violations` says what broke them."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.too_late = 0  # writes of a former leader that the API server refused for the version they were meant for
        self.leader = ""
        self._leading = ""  # the leader's process: what one that was killed had sent before may come after its death
        self._versions: dict[str, int] = {}
        self._vain: Counter[str] = Counter()
        self._disturbed: set[str] = set()

    def disturb(self, namespace: str) -> None:
        """A fault was injected here: repeating a write whose answer got lost is right."""
        self._disturbed.add(namespace)

    def before(self, call: Call) -> int:
        """Judge a request that is about to be sent on; returns the newest version known of its object."""
        for broken in _broken(call):
            self.violations.append(f"{call.source}: {call.namespace}: {call}: {broken}")
        if call.writes and not call.is_lease and call.process != self._leading:
            call.late = (
                f"{call.source}: {call.namespace}: {call}: a write, while the leader is {self._leading or 'nobody'}"
            )
            self.violations.append(call.late)
        return self._versions.get(self._identity(call), 0)

    def after(self, call: Call, answer: Json, known: int) -> None:
        """Judge what came of it.

        A process can be stopped between its last look at the clock and its write. Nothing on its side can help against
        that: what it wrote is harmless when it was meant for a version that is gone, as the API server then says.
        """
        if call.late and call.status == CONFLICT:
            self.violations.remove(call.late)
            self.too_late += 1
        if call.is_lease and call.writes and call.status in (200, 201):
            held = call.wish["spec"].get("holderIdentity")
            self.leader, self._leading = (call.source, call.process) if held else ("", "")
        if call.subresource == "status" and call.status in (400, 422):
            self.violations.append(f"{call.source}: {call.namespace}: {call}: refused: {answer.get('message')}")
        version = self.learn(call, answer)
        if call.verb != "patch" or call.namespace in self._disturbed or not version or version > known:
            return
        self._vain[str(call)] += 1
        if call.subresource == "status" or self._vain[str(call)] > VAIN_CHILD_WRITES:
            self.violations.append(f"{call.source}: {call.namespace}: {call}: it changed nothing")

    def learn(self, call: Call, manifest: Json) -> int:
        """Take note of an object's version, wherever it is seen; 0 where there is none."""
        meta = manifest.get("metadata") or {}
        version = int(meta["resourceVersion"]) if str(meta.get("resourceVersion", "")).isdigit() else 0
        if "name" in meta and version:
            identity = f"{call.resource}/{meta.get('namespace', '')}/{meta['name']}"
            self._versions[identity] = max(version, self._versions.get(identity, 0))
        return version

    @staticmethod
    def _identity(call: Call) -> str:
        return f"{call.resource}/{call.namespace}/{call.name}"


def _broken(call: Call) -> list[str]:
    """The rules a request breaks by itself."""
    broken = []
    if call.resource == "secrets":
        broken.append("the operator has no business with Secrets")
    if not call.writes:
        return broken
    if call.verb == "delete":
        if not call.name:
            broken.append("a collection is deleted")
        elif not call.wish.get("preconditions", {}).get("uid"):
            broken.append("a DELETE without preconditions")
    elif not call.query.get("fieldManager"):
        broken.append("a write without a field manager")
    if (call.verb, call.resource) == ("create", "finetunejobs"):
        if call.wish["spec"].get("suspend") is not True:
            broken.append("a FineTuneJob that nobody has to start")
    elif call.group == names.GROUP and (call.subresource != "status" or "spec" in call.wish) and not _record(call):
        broken.append("a write to what the user wrote")
    return broken


def _record(call: Call) -> bool:
    """Whether it is about the record of a scheduled restore point, which the operator itself writes."""
    ours = names.MANAGED_BY.items() <= (call.wish.get("metadata", {}).get("labels") or {}).items()
    return call.resource == "modelbackups" and not call.subresource and (ours or call.verb == "delete")
