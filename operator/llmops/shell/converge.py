"""Make the cluster hold what is wished: apply what differs, delete what is not wished for any more, touch nothing else.

A child that already satisfies the wish costs no request. Whether it does is judged by its fields, and by the digest
of the wish it was last given: fields alone would not show that a wish lost one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmops import names
from llmops.api.conditions import Reason
from llmops.api.problem import NeedsUser
from llmops.api.quantity import amount
from llmops.judge import ownership
from llmops.shell.cluster import Cluster, Conflicting, Refused, exact
from llmops.shell.mirror import Mirror
from llmops.shell.resources import of

Json = dict[str, Any]

# A Job's template is immutable: its name says what it is for, and one that exists is left to finish.
WRITE_ONCE = {"Job"}


async def converge(
    cluster: Cluster,
    mirror: Mirror,
    owner: Json,
    wanted: Sequence[Json],
    live: Sequence[Json],
    *,
    removable: Sequence[Json],
) -> list[str]:
    """Bring the children to the wish; returns what was done, as `applied Kind/name` and `deleted Kind/name`.

    Of `live`, only what is also `removable` is deleted when it is not wished for: all of it, when the wish is whole.

    Raises:
        NeedsUser: an object of a wished name belongs to someone else, or admission refuses the child.
    """
    uid = owner["metadata"]["uid"]
    existing = {_identity(child): child for child in live}
    done = []
    for wish in wanted:
        stamped = _stamped(wish)
        child = existing.get(_identity(wish))
        if child is not None and wish["kind"] in WRITE_ONCE:
            continue
        child = child or await _claimable(cluster, wish, owner)
        if _stands(stamped, child, uid):
            continue
        try:
            mirror.put(await _apply(cluster, stamped, child, uid))
        except Conflicting:
            # Our copy was late. Whether it still is to be written is judged by what is there now.
            child = await _claimable(cluster, wish, owner)
            if _stands(stamped, child, uid):
                continue
            mirror.put(await _apply(cluster, stamped, child, uid))
        done.append(f"applied {wish['kind']}/{wish['metadata']['name']}")
    wished = {_identity(wish) for wish in wanted}
    for child in removable:
        if _identity(child) in wished or child["metadata"].get("deletionTimestamp") or not _owned(child, uid):
            continue
        await _drop(cluster, child, uid)
        done.append(f"deleted {child['kind']}/{child['metadata']['name']}")
    return done


def _stands(wish: Json, live: Json | None, uid: str) -> bool:
    """Whether nothing is to be written: it is as it should be, on its way out, or ours and never written twice."""
    if live is None:
        return False
    if live["metadata"].get("deletionTimestamp"):
        return True  # it must be gone before its name is free; its deletion wakes us
    return (wish["kind"] in WRITE_ONCE and _owned(live, uid)) or _holds(wish, live, uid)


def _holds(wish: Json, live: Json, uid: str) -> bool:
    """Whether the child needs no write; other owners of a shared one are none of our business."""
    if not _shared(wish):
        return satisfied(wish, live)
    without = {key: value for key, value in wish["metadata"].items() if key != "ownerReferences"}
    return satisfied({**wish, "metadata": without}, live) and (_owned(live, uid) or not ownership.owner_uids(wish))


def satisfied(wish: Any, live: Any) -> bool:
    """Whether every field of the wish is so in the live object; fields it does not mention are somebody else's."""
    if live is None:
        return wish is False or wish in ({}, [], "", None)  # the API server leaves out what is empty
    if isinstance(wish, dict):
        if not isinstance(live, dict):
            return False
        return all(satisfied(value, live.get(key)) for key, value in wish.items())
    if isinstance(wish, list):
        if not isinstance(live, list):
            return False
        return len(wish) == len(live) and all(satisfied(a, b) for a, b in zip(wish, live, strict=True))
    return wish == live or _same_quantity(wish, live)


def _same_quantity(one: Any, other: Any) -> bool:
    """The API server rewrites quantities: 1024Mi is returned as 1Gi."""
    if not isinstance(other, str) or isinstance(one, bool) or not isinstance(one, (str, int)):
        return False
    try:
        return amount(one) == amount(other)
    except ValueError:
        return False


async def _claimable(cluster: Cluster, wish: Json, owner: Json) -> Json | None:
    """What there is of a wished name, read live; an object that a user, or another owner, made is not taken over.

    Raises:
        NeedsUser: it is somebody else's.
        Conflicting: it is what a deleted object of the owner's name left behind, and its deletion is on its way.
    """
    meta, uid = wish["metadata"], owner["metadata"]["uid"]
    found = await cluster.get(of(wish), meta["namespace"], meta["name"])
    if found is None or _owned(found, uid):
        return found
    if ownership.of_predecessor(found, owner):
        name = f"{wish['kind']} {meta['namespace']}/{meta['name']}"
        raise Conflicting(409, f"{name} goes with the object of this name that was deleted")
    if _shared(wish) and names.MANAGED_BY.items() <= (found["metadata"].get("labels") or {}).items():
        return found
    raise NeedsUser(
        Reason.CONFLICT,
        f"{wish['kind']} {meta['namespace']}/{meta['name']} exists and does not belong to this object. "
        "Delete or rename it, or rename this object.",
    )


async def _apply(cluster: Cluster, wish: Json, live: Json | None, uid: str) -> Json:
    """Write the wish over the very version it was judged against.

    A process that is stopped in the instant of its write sends it when it goes on, by then perhaps as one of two: what
    the other wrote meanwhile is newer.
    """
    versioned = {**wish, "metadata": {**wish["metadata"], **(exact(live) if live else {})}}
    try:
        return await cluster.apply(versioned, manager=_manager(wish, uid))
    except Refused as error:
        if error.status in (400, 403, 422):
            reason = Reason.QUOTA_EXCEEDED if "exceeded quota" in str(error) else Reason.FORBIDDEN
            name = f"{wish['kind']} {wish['metadata']['name']}"
            raise NeedsUser(reason, f"The API server refused {name}: {error}") from error
        raise


async def _drop(cluster: Cluster, child: Json, uid: str) -> None:
    """Delete what was read a moment ago, and only if it is still ours; of a shared one, only our share."""
    meta = child["metadata"]
    found = await cluster.get(of(child), meta["namespace"], meta["name"])
    if found is None or found["metadata"]["uid"] != meta["uid"] or not _owned(found, uid):
        return
    there = {"apiVersion": child["apiVersion"], "kind": child["kind"], "metadata": exact(found)}
    try:
        if ownership.owner_uids(found) != {uid}:
            # Applying nothing gives back every field that only this manager owns: its owner reference.
            await cluster.apply(there, manager=_manager(child, uid))
        else:
            await cluster.delete(there)
    except Conflicting:
        return  # it changed under our hands: its change wakes us, and then it is judged again


def _manager(manifest: Json, uid: str) -> str:
    """Each owner of a shared child is a field manager of its own, so that each can take back its share."""
    return f"{names.CHILD_MANAGER}-{uid[:8]}" if _shared(manifest) else names.CHILD_MANAGER


def _stamped(wish: Json) -> Json:
    """The wish with its own digest, which does not depend on who else wishes it."""
    meta = wish["metadata"]
    content = {**wish, "metadata": {key: value for key, value in meta.items() if key != "ownerReferences"}}
    annotations = {**meta.get("annotations", {}), names.DIGEST_ANNOTATION: names.digest(content, length=16)}
    return {**wish, "metadata": {**meta, "annotations": annotations}}


def _identity(manifest: Json) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _owned(manifest: Json, uid: str) -> bool:
    return uid in ownership.owner_uids(manifest)


def _shared(manifest: Json) -> bool:
    """A child without a controller has several owners, or outlives its owner: it goes with the last one, or never."""
    references = manifest["metadata"].get("ownerReferences") or []
    return not any(reference.get("controller") for reference in references)
