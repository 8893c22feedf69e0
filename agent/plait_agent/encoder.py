"""How a frame's payload travels: as it is, or compressed where a sample says that this pays."""

from __future__ import annotations

from typing import Final

import zstandard

from plaitwire.v1 import ingest_pb2 as pb

_BYTES_MIN: Final = 512
_SAMPLE_BYTES: Final = 8 * 1024
_RATIO_MAX: Final = 0.7
"""Compression pays where it leaves at most this share: it costs an agent about 5 ms a MB. Rows of
random doubles leave 0.77, rows of what is float32 in truth about 0.5."""


class Encoder:
    """Zstandard at its fastest level, behind a look at the payload's first bytes."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=1)

    def encode(self, payload: bytes) -> tuple[pb.Encoding.ValueType, bytes]:
        """The encoding and the bytes for a frame's payload."""
        if len(payload) < _BYTES_MIN:
            return pb.ENCODING_RAW, payload
        if len(payload) > _SAMPLE_BYTES and self._pack(payload[:_SAMPLE_BYTES]) is None:
            return pb.ENCODING_RAW, payload
        packed = self._pack(payload)
        return (pb.ENCODING_RAW, payload) if packed is None else (pb.ENCODING_ZSTD, packed)

    def _pack(self, data: bytes) -> bytes | None:
        packed = self._compressor.compress(data)
        return packed if len(packed) <= len(data) * _RATIO_MAX else None
