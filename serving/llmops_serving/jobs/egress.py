"""The one way out of a job: a proxy on loopback that decides by the address it connects to.

Sources are named by users, so a job may be pointed at the cluster's inside or at a cloud's metadata service, directly,
by a redirect, or by a name whose address changes between check and use. Every client of the job (the hub's, the HTTP
one, the object store's, whose sockets are out of Python's reach) is given this proxy; it resolves the name once, judges
every address and connects to the one it judged.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Self
from urllib.parse import urlsplit

from llmops_serving.jobs.addresses import refusal

HEAD_LIMIT_BYTES = 65536
CONNECT_SECONDS = 15.0
IDLE_SECONDS = 120.0  # a source that sends nothing for so long is taken for dead, and the client tries again
BUFFER_BYTES = 1 << 18

Resolver = Callable[[str, int], Iterable[str]]


def addresses_of(host: str, port: int) -> tuple[str, ...]:
    """The addresses that the system's resolver gives, in its order and without repeats."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class Forbidden(Exception):
    """The policy refuses the address."""


class Egress:
    """Serves between `__enter__` and `__exit__`. `refused` keeps why connections were not made."""

    def __init__(self, *, allow_private: bool, resolve: Resolver = addresses_of) -> None:
        self.allow_private = allow_private
        self.refused: list[str] = []
        self._resolve = resolve
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True, name="egress").start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def environment(self) -> dict[str, str]:
        """Environment variables that send every HTTP client of the process this way, also one we did not think of."""
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        return {form: self.url for name in names for form in (name, name.lower())} | {"NO_PROXY": "", "no_proxy": ""}

    def connect(self, host: str, port: int) -> socket.socket:
        """A connection to an address of `host` that the policy allows; all of them must be allowed."""
        addresses = tuple(self._resolve(host, port))
        for address in addresses:
            if reason := refusal(address, allow_private=self.allow_private):
                self.refused.append(f"{host}: {reason}" if host != address else reason)
                raise Forbidden(reason)
        problem: OSError = ConnectionError(f"{host} has no address")
        for address in addresses:
            try:
                upstream = socket.create_connection((address, port), timeout=CONNECT_SECONDS)
            except OSError as error:
                problem = error
            else:
                upstream.settimeout(IDLE_SECONDS)
                return upstream
        raise problem

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return  # closed: the job is over
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(IDLE_SECONDS)
        with client, contextlib.suppress(OSError):
            head, rest = _head(client)
            method, target, version = _request_line(head)
            try:
                if method == "CONNECT":
                    host, port = _authority(f"//{target}", 443)
                    with self.connect(host, port) as upstream:
                        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                        upstream.sendall(rest)
                        _relay(client, upstream)
                else:
                    host, port = _authority(target, 80)
                    with self.connect(host, port) as upstream:
                        upstream.sendall(_one_exchange(_origin_form(head, method, target, version)) + rest)
                        _relay(client, upstream, one_exchange=True)
            except Forbidden as verdict:
                _refuse(client, "403 Forbidden", str(verdict))
            except (OSError, ValueError) as error:
                _refuse(client, "502 Bad Gateway", type(error).__name__)


def _head(client: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = client.recv(8192)
        if not chunk or len(data) > HEAD_LIMIT_BYTES:
            raise ConnectionError("no head of a request or answer")
        data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _request_line(head: bytes) -> tuple[str, str, str]:
    method, target, version = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    return method, target, version


def _authority(url: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError("no host")
    return parts.hostname, parts.port or default_port


def _origin_form(head: bytes, method: str, target: str, version: str) -> bytes:
    parts = urlsplit(target)
    path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    _, _, fields = head.partition(b"\r\n")
    return f"{method} {path} {version}\r\n".encode("latin-1") + fields


def _one_exchange(head: bytes) -> bytes:
    """The head, saying on both sides that the connection ends with it: a second request could be for another host."""
    dropped = (b"proxy-", b"connection:", b"keep-alive:")
    start, *fields = head.split(b"\r\n")
    kept = [field for field in fields if not field.lower().startswith(dropped)]
    return b"\r\n".join([start, *kept, b"Connection: close"]) + b"\r\n\r\n"


def _relay(client: socket.socket, upstream: socket.socket, *, one_exchange: bool = False) -> None:
    """Both ways at once: a server answers an upload when it has all of it."""
    back = threading.Thread(target=_pump, args=(client, upstream), daemon=True)
    back.start()
    with contextlib.suppress(OSError):
        if one_exchange:
            answer, body = _head(upstream)
            client.sendall(_one_exchange(answer) + body)
        _pump(upstream, client)
    for end in (client, upstream):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with contextlib.suppress(OSError):
        while count := source.recv_into(buffer):
            sink.sendall(buffer[:count])
        sink.shutdown(socket.SHUT_WR)


def _refuse(client: socket.socket, status: str, reason: str) -> None:
    body = reason.encode()
    client.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
