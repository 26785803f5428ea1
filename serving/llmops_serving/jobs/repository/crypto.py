"""Keys and sealed bytes: a random master key wrapped by the Secret, and what is derived from it.

The Secret only wraps the master key, so that changing it rewrites 200 bytes and not the repository.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from llmops_serving.jobs.repository import direct
from llmops_serving.jobs.repository.errors import Damaged, KeyWrong
from llmops_serving.jobs.repository.pieces import PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]

MASTER_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
KEY_BYTES: Final = 20  # of the HMAC that names a blob: 160 bits
SECRET_LEAST_BYTES: Final = 16
SCRYPT: Final = {"n": 1 << 15, "r": 8, "p": 1}


class Keys:
    """The derived keys of one repository."""

    def __init__(self, master: bytes) -> None:
        self._names = _derived(master, b"llmops blob name")
        self._blobs = AESGCM(_derived(master, b"llmops blob"))
        self._records = AESGCM(_derived(master, b"llmops record"))
        self.master = master
        self._thread = threading.local()

    def blob_key(self, sha256: bytes) -> str:
        """The name under which bytes of this digest are stored: HMAC-SHA256, first 20 bytes, hexadecimal.

        A keyed hash, so that whoever can list the bucket cannot tell which public model is in it.
        """
        return hmac.digest(self._names, sha256, "sha256")[:KEY_BYTES].hex()

    def seal_blob(self, name: str, data: memoryview) -> memoryview:
        """Sealed bytes, in memory of this thread that holds until its next call, or until it reads some."""
        out = self._memory("sealed", NONCE_BYTES + len(data) + TAG_BYTES)
        out[:NONCE_BYTES] = nonce = os.urandom(NONCE_BYTES)
        self._blobs.encrypt_into(nonce, data, name.encode(), out[NONCE_BYTES:])
        return out

    def open_blob(self, name: str, data: memoryview) -> memoryview:
        """The opened bytes, in memory of this thread that holds until its next call.

        Raises:
            Damaged.
        """
        out = self._memory("opened", max(0, len(data) - NONCE_BYTES - TAG_BYTES))
        try:
            self._blobs.decrypt_into(data[:NONCE_BYTES], data[NONCE_BYTES:], name.encode(), out)
        except (InvalidTag, ValueError) as problem:
            raise Damaged(f"{name}: the stored bytes have changed", [name]) from problem
        return out

    def stored(self, size: int) -> memoryview:
        """Memory of this thread for sealed bytes that are read; holds until its next call, or until it seals some."""
        return self._memory("sealed", size)

    def _memory(self, use: str, size: int) -> memoryview:
        made: direct.Memory | None = getattr(self._thread, use, None)
        if made is None or made.size < size:
            made = direct.memory(max(size, PIECE_BYTES + 1024))
            setattr(self._thread, use, made)
        return made[:size].data

    def seal_record(self, name: str, data: Buffer) -> bytes:
        return _sealed(self._records, name, data)

    def open_record(self, name: str, data: Buffer) -> bytes:
        return _opened(self._records, name, data)


def wrapped(master: bytes, secret: bytes, *, bound_to: bytes) -> bytes:
    """`salt(16) | fingerprint(8) | nonce(12) | ciphertext+tag(48)`; the first two and `bound_to` are authenticated."""
    salt = os.urandom(16)
    wrapping, fingerprint = _from_secret(secret, salt)
    nonce = os.urandom(NONCE_BYTES)
    head = salt + fingerprint
    return head + nonce + AESGCM(wrapping).encrypt(nonce, master, head + bound_to)


def unwrapped(box: Buffer, secret: bytes, *, bound_to: bytes) -> bytes:
    """The master key.

    Raises:
        KeyWrong: the box was made with another Secret.
        Damaged: it was made with this one but has changed since.
    """
    box = bytes(box)
    if len(box) != 16 + 8 + NONCE_BYTES + MASTER_BYTES + TAG_BYTES:
        raise Damaged("the wrapped key has the wrong length")
    wrapping, fingerprint = _from_secret(secret, box[:16])
    try:
        return AESGCM(wrapping).decrypt(box[24:36], box[36:], box[:24] + bound_to)
    except InvalidTag as problem:
        if hmac.compare_digest(fingerprint, box[16:24]):
            raise Damaged("the wrapped key or the repository's header has changed") from problem
        raise KeyWrong("the Secret is not this repository's key") from problem


@lru_cache(maxsize=4)  # a tenth of a second each, and a check opens original and copy of every key
def _from_secret(secret: bytes, salt: bytes) -> tuple[bytes, bytes]:
    secret = secret.strip()  # `kubectl create secret --from-file` keeps an editor's newline
    if len(secret) < SECRET_LEAST_BYTES:
        raise KeyWrong(f"the Secret's key has {len(secret)} bytes; it needs at least {SECRET_LEAST_BYTES}")
    okm = hashlib.scrypt(secret, salt=salt, maxmem=64 << 20, dklen=40, **SCRYPT)
    return okm[:32], okm[32:]


def _derived(master: bytes, purpose: bytes) -> bytes:
    return HKDFExpand(algorithm=SHA256(), length=32, info=purpose).derive(master)


def _sealed(cipher: AESGCM, name: str, data: Buffer) -> bytes:
    # 96-bit random nonces: with 2^32 blobs of 8 MiB (32 PiB) under one key a collision has odds of 2^-33.
    nonce = os.urandom(NONCE_BYTES)
    return b"".join((nonce, cipher.encrypt(nonce, data, name.encode())))


def _opened(cipher: AESGCM, name: str, data: Buffer) -> bytes:
    view = memoryview(data)
    try:
        return cipher.decrypt(view[:NONCE_BYTES], view[NONCE_BYTES:], name.encode())
    except (InvalidTag, ValueError) as problem:
        raise Damaged(f"{name}: the stored bytes have changed", [name]) from problem
