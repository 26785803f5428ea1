"""What can go wrong with a repository, each with the reason a condition quotes and who must act."""

from __future__ import annotations

from collections.abc import Sequence


class RepositoryError(Exception):
    """Base of everything raised on purpose here. `reason` is a condition's reason; `transient` means time may help."""

    reason = "RepositoryError"
    transient = False


class NotARepository(RepositoryError):
    """The target holds no repository, or one of a newer format."""

    reason = "RepositoryNotFound"


class KeyWrong(RepositoryError):
    """The Secret does not open this repository: it belongs to another key."""

    reason = "RepositoryKeyWrong"


class PointNotFound(RepositoryError):
    """No such restore point."""

    reason = "PointNotFound"


class PointExists(RepositoryError):
    """A point of this name exists already and holds something else."""

    reason = "PointExists"


class Damaged(RepositoryError):
    """Stored bytes are missing, cut or changed. `findings` names each object."""

    reason = "ChecksumMismatch"

    def __init__(self, message: str, findings: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.findings = tuple(findings)


class Missing(Damaged):
    """A stored object that a point needs is not there."""


class Unsafe(RepositoryError):
    """A path, link, device or pickled file that must not be backed up or restored."""

    reason = "UnsafeContent"


class SourceChanged(RepositoryError):
    """A file changed while it was being read, so that there was no consistent point. The next run may succeed."""

    reason = "SourceChanged"
    transient = True


class Expired(RepositoryError):
    """The writer took so long that what it found stored may have been collected meanwhile. The next run succeeds."""

    reason = "BackupTookTooLong"
    transient = True


class DiskFull(RepositoryError):
    """No space left on the disk that is written to: the target, the staging directory or the cache."""

    reason = "DiskFull"


class TargetFull(DiskFull):
    """The target takes no more bytes. What was stored stays; the next run goes on from there."""

    reason = "TargetFull"


class ClockSkewed(RepositoryError):
    """The target refuses requests of a machine whose clock is far off its own."""

    reason = "ClockSkewed"
    transient = True


class TargetDenied(RepositoryError):
    """The target refused the credentials, or they lack a right."""

    reason = "TargetAccessDenied"


class TargetNotFound(RepositoryError):
    """There is no such bucket, or no such account (some servers say "not found" to both)."""

    reason = "TargetNotFound"


class TargetUnreachable(RepositoryError):
    """The target did not answer within the retries."""

    reason = "RepositoryUnreachable"
    transient = True


class DestinationExists(RepositoryError):
    """What would be restored to is there already and holds something else."""

    reason = "DestinationExists"
