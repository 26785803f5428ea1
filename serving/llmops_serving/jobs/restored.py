"""What lies restored in a directory: the marker that says so, and the outcome that the operator reads."""

from __future__ import annotations

from pathlib import Path

from llmops_serving.jobs.adapters.store import FILES
from llmops_serving.jobs.repository.format import ADAPTERS, Manifest
from llmops_serving.jobs.repository.job import Outcome
from llmops_serving.jobs.weights.marker import Landed, Marker, completed, total_digest


def there(directory: Path, requested: str) -> Outcome | None:
    """The outcome of the restore that has filled the directory; `None` when none has, or of another point."""
    found = completed(directory)
    return complete(found) if found and found.requested == requested else None


def marker_of(manifest: Manifest, requested: str) -> Marker:
    """What the weights job leaves beside a model, for a restored one; the digest is the model's without adapters."""
    return Marker(
        source=f"backup://{manifest.ref.source}",
        requested=requested,
        revision=manifest.ref.source,
        digest=manifest.digest,
        bytes=manifest.bytes,
        files=tuple(Landed(path=file.path, size_bytes=file.bytes, sha256=file.sha256) for file in manifest.files),
    )


def complete(marker: Marker) -> Outcome:
    adapters = adapters_of(marker)
    with_adapters = f", with {len(adapters)} adapters" if adapters else ""
    message = f"{len(marker.files)} files, {marker.bytes:,} bytes{with_adapters}, every digest checked."
    facts = {
        "revision": marker.revision,
        "digest": marker.digest,
        "bytes": marker.bytes,
        "files": len(marker.files),
        "adapters": adapters,
    }
    return Outcome("Complete", message, 0, facts)


def adapters_of(marker: Marker) -> dict[str, str]:
    """The adapters of a restored point: by name the digest of what an engine loads, as its FineTuneJob took it.

    Shortened, as the names of their directories are: 32 of them must fit into a termination message.
    """
    found: dict[str, list[Landed]] = {}
    for file in marker.files:
        if file.path.startswith(ADAPTERS):
            _, name, inside = file.path.split("/", 2)
            found.setdefault(name, [])
            if inside in FILES:
                found[name].append(file.model_copy(update={"path": inside}))
    return {name: total_digest(files)[: len("sha256:") + 16] for name, files in sorted(found.items())}
