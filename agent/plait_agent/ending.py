"""How streams end whose writer cannot say so any more.

Three cases, told apart by what is left:

- The writer died and its files are here: all that it committed counts, and a closing segment says
  what is missing (that it crashed, records that were dropped).
- The node went down since: of what is on disk, only what was synced and written down is believed.
- The memory that held the last bytes is gone (a container's tmpfs): what is on disk is believed.

In the last two the collector may know more than the node. The stream is an orphan until the
collector has said its offset, and is then closed at the later of both.

Rule: an end is decided once. What decides it is on disk before anybody is told.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from plait_agent.closing import closing_records, closing_segment, orphan_records
from plait_agent.disk import Disk, make_folder, write_file
from plait_agent.liveness import read_drops
from plait_agent.spill import trusted_end
from plait_agent.state import States
from plait_agent.stream import Phase, Stream
from plaitwire.folders import STATUS, segment_name
from plaitwire.records import aligned
from plaitwire.v1 import ingest_pb2 as pb

log = logging.getLogger(__name__)

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)

Tell = Callable[[Stream, int], None]
"""Takes a stream whose end is now final, and the end."""


class Ending:
    """Decides where streams end, and writes it down."""

    def __init__(self, states: States, *, boot_id: str, uid: int, disk: Disk, tell: Tell) -> None:
        """
        Args:
            states: the agent's own files.
            boot_id: of the kernel that runs now.
            uid: who owns the streams.
            disk: what syncs.
            tell: called once for each end.
        """
        self._states, self._boot_id, self._uid = states, boot_id, uid
        self._disk, self._tell = disk, tell

    def resume(self, stream: Stream, *, alive: bool, is_new: bool) -> None:
        """Go on where an earlier life of an agent, or of the node, left this stream.

        Args:
            stream: just made.
            alive: its writer holds its lock.
            is_new: no agent has seen it before.
        """
        state, tail = stream.state, stream.tail
        if alive or state.refused:
            return
        is_foreign = self._is_foreign(stream)
        if is_foreign:
            if is_new and self._finished_offline(stream):
                return
            tail.trust(trusted_end(stream.cold, stream.mark, uid=self._uid))
        elif state.ended is None and state.closing is None:
            return  # Its writer's death is noticed by following it.
        tail.look(final=True)
        if state.closing is not None:
            self._write_orphan_closing(stream, state.closing)
        elif state.ended is not None and tail.end >= state.ended:
            self._end(stream, state.ended)
        elif is_foreign and state.ended is None and _is_complete(stream):
            self._end(stream, tail.end)
        else:
            stream.phase = Phase.ORPHANED

    def writer_died(self, stream: Stream) -> None:
        """Close a stream of this boot. Its tail has had its last look."""
        tail = stream.tail
        last = tail.last_record()
        hot_is_here = stream.hot.is_dir()
        if not hot_is_here and not _is_complete(stream):
            stream.phase = Phase.ORPHANED
            return
        drops = read_drops(stream.hot / STATUS) or read_drops(stream.cold / STATUS)
        time_ns = last.time_ns if last is not None else 0
        packed = closing_records(last, drops, time_ns=time_ns or stream.state.meta.started_ns)
        if packed:
            self._write_closing(stream, tail.end, packed, in_hot=hot_is_here)
            log.info("writer is gone: session=%s end=%d", stream.session, tail.end)
        tail.look(final=True)
        self._end(stream, tail.end)

    def collector_is_at(self, stream: Stream, offset: int) -> None:
        """Close an orphan, now that the collector said where it is."""
        if stream.state.ended is not None and offset == stream.state.ended:
            self._end(stream, offset)  # It had it all.
            return
        # One that was closed before, and whose collector has come back from a copy that knows more,
        # is closed once more behind that.
        base = aligned(max(stream.tail.end, offset))
        log.error(
            "the end of a stream is lost: session=%s from=%d reason=%s",
            stream.session,
            base,
            pb.GapReason.Name(self._orphan_reason(stream)),
        )
        stream.state = replace(stream.state, closing=base)
        self._states.write(stream.state, synced=True)
        self._write_orphan_closing(stream, base)

    def _finished_offline(self, stream: Stream) -> bool:
        """End a stream that its writer, having no agent, moved to disk and synced itself."""
        stream.tail.look(final=True)
        if not _is_complete(stream):
            return False
        self._end(stream, stream.tail.end)
        return True

    def _orphan_reason(self, stream: Stream) -> pb.GapReason.ValueType:
        is_foreign = self._is_foreign(stream)
        return pb.GAP_REASON_REBOOT if is_foreign else pb.GAP_REASON_VANISHED

    def _is_foreign(self, stream: Stream) -> bool:
        """Whether the node went down since the stream was written.

        What is still in memory was not lost with it, whatever its writer took for the boot's id: a
        container may be told another one than the node.
        """
        return stream.state.boot_id != self._boot_id and not stream.hot.is_dir()

    def _write_orphan_closing(self, stream: Stream, base: int) -> None:
        started_ns = stream.state.meta.started_ns
        packed = orphan_records(started_ns, reason=self._orphan_reason(stream))
        self._write_closing(stream, base, packed, in_hot=False)
        stream.tail.close_at(base, base + len(packed))
        self._end(stream, base + len(packed))

    def _write_closing(self, stream: Stream, base: int, packed: bytes, *, in_hot: bool) -> None:
        data, name = closing_segment(base, packed), segment_name(base)
        if in_hot:
            try:
                write_file(stream.hot / name, data, disk=None)
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
            # An empty last segment has the same base, and in memory it would hide the closing.
            (stream.hot / name).unlink(missing_ok=True)
        make_folder(stream.cold, disk=self._disk)
        write_file(stream.cold / name, data, disk=self._disk)

    def _end(self, stream: Stream, end: int) -> None:
        stream.phase = Phase.ENDED
        stream.tail.final = True
        if stream.state.ended != end:
            stream.state = replace(stream.state, ended=end)
            self._states.write(stream.state, synced=False)
        self._tell(stream, end)


def _is_complete(stream: Stream) -> bool:
    last = stream.tail.last_record()
    return last is not None and (last.is_finish or last.is_closing)
