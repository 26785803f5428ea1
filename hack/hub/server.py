"""The hub's HTTP API over a directory: model info, tree, refs, resolve with LFS redirects, ranges and error codes."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from hack.hub import repository
from hack.hub.faults import Fault, Faults
from hack.hub.repository import Blob, Repository, Tree

CHUNK_BYTES = 1 << 18
REPO = r"(?P<repo>[^/]+/[^/]+)"
ROUTES = (
    (re.compile(rf"^/api/models/{REPO}$"), "info"),
    (re.compile(rf"^/api/models/{REPO}/revision/(?P<revision>[^/]+)$"), "info"),
    (re.compile(rf"^/api/models/{REPO}/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?$"), "listing"),
    (re.compile(rf"^/api/models/{REPO}/refs$"), "refs"),
    (re.compile(rf"^/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)$"), "resolve"),
    (re.compile(rf"^/cdn/{REPO}/(?P<revision>[^/]+)/(?P<path>.+)$"), "cdn"),
)


class Refused(Exception):
    """An error answer in the hub's dialect: the client sorts by `X-Error-Code`."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Seen:
    """One request as a test may ask about it."""

    method: str
    target: str
    range: str | None
    authorization: str | None
    status: int


class Hub(ThreadingHTTPServer):
    """Listens from construction, serves between `__enter__` and `__exit__`; `requests` is what it was asked."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        root: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tokens: tuple[str, ...] = (),
        bytes_per_second: int = 0,
    ) -> None:
        super().__init__((host, port), Handler)
        self.root = root
        self.tokens = tokens
        self.bytes_per_second = bytes_per_second
        self.faults = Faults()
        self.requests: list[Seen] = []
        self.url = f"http://{host}:{self.server_address[1]}"
        self.cdn_url = ""  # where LFS files are redirected to; empty is this server
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        """`POST /control/faults` adds the JSON list of faults; an empty list clears them."""
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"[]")
        if self.path != "/control/faults":
            self._json({"error": "not found"}, status=404)
            return
        if not body:
            self.server.faults.clear()
        self.server.faults.add(*(Fault(**fault) for fault in body))
        self._json({"faults": len(body)})

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Requests are kept in `Hub.requests`, not printed."""

    def send_response(self, code: int, message: str | None = None) -> None:
        seen = Seen(self.command, self.path, self.headers.get("Range"), self.headers.get("Authorization"), code)
        self.server.requests.append(seen)
        super().send_response(code, message)

    def _answer(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/healthz":
            self._json({"ok": True})
            return
        fault = self.server.faults.take(self.command, self.path)
        if fault and fault.stall_seconds:
            time.sleep(fault.stall_seconds)
        if fault and (fault.status or fault.redirect):
            self._misbehave(fault)
            return
        try:
            self._route(url, fault)
        except Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": str(refused)}
            self._json({"error": str(refused)}, status=refused.status, headers=headers)

    def _route(self, url: SplitResult, fault: Fault | None) -> None:
        path = url.path
        self._folder, self._prefix = self.server.root, ""
        if path.startswith(("/api/datasets/", "/datasets/")):  # they are what models are, below a folder of their own
            self._folder, self._prefix = self.server.root / "datasets", "/datasets"
            path = path.replace("/api/datasets/", "/api/models/", 1).removeprefix("/datasets")
        for pattern, handler in ROUTES:
            if match := pattern.match(path):
                parts = {key: unquote(value) if value else value for key, value in match.groupdict().items()}
                getattr(self, f"_{handler}")(parts, parse_qs(url.query), fault)
                return
        raise Refused(404, "NotFound", "no such route")

    # The API

    def _info(self, parts: Mapping[str, str], query: Mapping[str, list[str]], _: Fault | None) -> None:
        repo, tree = self._tree(parts)
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in tree.blobs]
        if query.get("blobs"):
            siblings = [_sibling(blob) for blob in tree.blobs.values()]
        self._json(
            {
                "_id": tree.commit[:24],
                "id": repo.repo_id,
                "modelId": repo.repo_id,
                "sha": tree.commit,
                "private": repo.private,
                "gated": "manual" if repo.gated else False,
                "disabled": False,
                "tags": ["safetensors"],
                "downloads": 0,
                "likes": 0,
                "lastModified": "2026-01-01T00:00:00.000Z",
                "createdAt": "2026-01-01T00:00:00.000Z",
                "siblings": siblings,
            }
        )

    def _listing(self, parts: Mapping[str, str], query: Mapping[str, list[str]], _: Fault | None) -> None:
        _repo, tree = self._tree(parts)
        prefix = f"{parts['path'].rstrip('/')}/" if parts.get("path") else ""
        recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries: dict[str, dict[str, Any]] = {}
        for path, blob in tree.blobs.items():
            if not path.startswith(prefix):
                continue
            folders = path[len(prefix) :].split("/")[:-1]
            for depth in range(len(folders) if recursive else min(1, len(folders))):
                folder = prefix + "/".join(folders[: depth + 1])
                entries[folder] = {"type": "directory", "path": folder, "oid": tree.commit, "size": 0}
            if recursive or not folders:
                entries[path] = _entry(blob)
        self._json(list(entries.values()))

    def _refs(self, parts: Mapping[str, str], _query: Mapping[str, list[str]], _: Fault | None) -> None:
        repo = self._repository(parts["repo"])
        branches = [
            {"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": tree.commit}
            for ref in repo.refs
            if (tree := repo.tree(ref))
        ]
        self._json({"branches": branches, "tags": [], "converts": []})

    def _resolve(self, parts: Mapping[str, str], _query: Mapping[str, list[str]], fault: Fault | None) -> None:
        repo, tree = self._tree(parts)
        if repo.gated and not self._authorized():
            raise Refused(403 if self.headers.get("Authorization") else 401, "GatedRepo", "Access is restricted.")
        blob = self._blob(tree, parts["path"])
        headers = {"X-Repo-Commit": tree.commit, "Accept-Ranges": "bytes"}
        if not blob.sha256:
            self._file(blob, fault, headers | {"ETag": f'"{blob.oid}"'})
            return
        base = self.server.cdn_url or f"http://{self.headers.get('Host', '')}"
        place = f"{self._prefix}/cdn/{repo.repo_id}/{tree.commit}/{quote(blob.path)}"
        location = f"{base}{place}?Expires=4102444800&Signature=local"
        linked = {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size_bytes), "ETag": f'"{blob.oid}"'}
        self._empty(302, headers | linked | {"Location": location})

    def _cdn(self, parts: Mapping[str, str], query: Mapping[str, list[str]], fault: Fault | None) -> None:
        if not query.get("Signature"):
            raise Refused(403, "AccessDenied", "the address is not signed")
        repo = repository.find(self._folder, parts["repo"])
        tree = repo.tree(parts["revision"]) if repo else None
        if not tree:
            raise Refused(404, "NotFound", "no such object")
        blob = self._blob(tree, parts["path"])
        # The commit again: the client follows redirects within one host itself and reads it from the last answer.
        headers = {"ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes", "X-Repo-Commit": parts["revision"]}
        self._file(blob, fault, headers)

    # What the answers are made of

    def _authorized(self) -> bool:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") in self.server.tokens

    def _repository(self, repo_id: str) -> Repository:
        sent = self.headers.get("Authorization")
        if sent and self.server.tokens and not self._authorized():
            raise Refused(401, "", "Invalid credentials in Authorization header")
        found = repository.find(self._folder, repo_id)
        if found is None or (found.private and not self._authorized()):  # the real hub does not tell these apart
            raise Refused(404 if self._authorized() else 401, "RepoNotFound", "Repository not found")
        return found

    def _tree(self, parts: Mapping[str, str]) -> tuple[Repository, Tree]:
        repo = self._repository(parts["repo"])
        revision = parts.get("revision") or "main"
        tree = repo.tree(revision)
        if tree is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo, tree

    def _blob(self, tree: Tree, path: str) -> Blob:
        if path not in tree.blobs:
            raise Refused(404, "EntryNotFound", "Entry not found")
        return tree.blobs[path]

    def _misbehave(self, fault: Fault) -> None:
        if fault.redirect:
            self._empty(302, {"Location": fault.redirect})
        else:
            self._json({"error": HTTPStatus(fault.status).phrase}, status=fault.status, headers=fault.headers)

    def _file(self, blob: Blob, fault: Fault | None, headers: Mapping[str, str]) -> None:
        first, last, status = 0, blob.size_bytes - 1, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and not (fault and fault.ignore_range):
            first, last, status = int(asked[1]), min(int(asked[2] or last), last), 206
            if first > last:
                self._empty(416, {"Content-Range": f"bytes */{blob.size_bytes}"})
                return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{blob.size_bytes}")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Type", "application/octet-stream")
        self.end_headers()
        if self.command != "HEAD":
            self._body(blob, first, last, fault)

    def _body(self, blob: Blob, first: int, last: int, fault: Fault | None) -> None:
        begun, pace = time.monotonic(), self.server.bytes_per_second
        stop = last + 1 if fault is None or fault.truncate_at is None else min(last + 1, first + fault.truncate_at)
        at = first
        with blob.file.open("rb") as stream:
            stream.seek(first)
            while at < stop:
                chunk = stream.read(min(CHUNK_BYTES, stop - at))
                if fault and fault.corrupt_at is not None and at <= fault.corrupt_at < at + len(chunk):
                    spot = fault.corrupt_at - at
                    chunk = chunk[:spot] + bytes([chunk[spot] ^ 0xFF]) + chunk[spot + 1 :]
                self.wfile.write(chunk)
                at += len(chunk)
                if pace:
                    time.sleep(max(0.0, (at - first) / pace - (time.monotonic() - begun)))
        if stop <= last:
            self.close_connection = True

    def _empty(self, status: int, headers: Mapping[str, str]) -> None:
        self._json(None, status=status, headers=headers)

    def _json(self, value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _sibling(blob: Blob) -> dict[str, Any]:
    lfs = {"lfs": {"sha256": blob.sha256, "size": blob.size_bytes, "pointerSize": 134}} if blob.sha256 else {}
    return {"rfilename": blob.path, "size": blob.size_bytes, "blobId": blob.oid, **lfs}


def _entry(blob: Blob) -> dict[str, Any]:
    lfs = {"lfs": {"oid": blob.sha256, "size": blob.size_bytes, "pointerSize": 134}} if blob.sha256 else {}
    return {"type": "file", "oid": blob.oid, "size": blob.size_bytes, "path": blob.path, **lfs}
