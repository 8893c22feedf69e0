"""The store in memory, with the looks into it that the simulator's checks need."""

from __future__ import annotations

from tests.support.memory_store import MemoryStore


class WatchedStore(MemoryStore):
    """A MemoryStore whose streams can be looked at without a copy."""

    def sessions(self) -> set[str]:
        """All streams."""
        return set(self._contents.streams)

    def next_offset(self, session: str) -> int:
        """How far a stream is stored; 0 for one that is not there."""
        stream = self._contents.streams.get(session)
        return stream.next_offset if stream is not None else 0

    def is_deleted(self, session: str) -> bool:
        """Whether the stream went with its run."""
        return session in self._contents.deleted_sessions

    def is_finished(self, session: str) -> bool:
        """Whether the stream's end is known."""
        return self._contents.streams[session].finish is not None

    def rows(self, session: str) -> int:
        """The rows of a stream, as ingest counted them."""
        return self._contents.streams[session].rows

    def pieces(self, session: str) -> list[tuple[int, int, bytes | None]]:
        """A stream's bytes and gaps by offset: (offset, end, bytes, or None for a gap)."""
        stream = self._contents.streams[session]
        chunks: list[tuple[int, int, bytes | None]] = [
            (chunk.offset, chunk.offset + len(chunk.payload), chunk.payload)
            for chunk in stream.chunks
        ]
        gaps = [(gap.offset, gap.end, None) for gap in stream.gaps if gap.end > gap.offset]
        return sorted([*chunks, *gaps], key=lambda piece: piece[0])
