"""Sizes, counts and deadlines that both ends rely on, asserted against each other.

A limit that only one module needs stands in that module. Units come last in a name.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# The record log. proto/RECORDS.md tells what these bound.
RECORD_BYTES_MAX: Final = 256 * KIB
"""One record, its header included."""
CONTINUED_BYTES_MAX: Final = 8 * MIB
"""The body of a config or event, over all the records it is continued in."""
SEGMENT_BYTES_MIN: Final = 64 * KIB
"""The first segment of a stream; each next one is twice as large, up to SEGMENT_BYTES_MAX."""
SEGMENT_BYTES_MAX: Final = 1 * MIB
"""One segment file, its header included."""
SCHEMAS_PER_SEGMENT_MAX: Final = 4096
"""Past it, the rows of a further schema become events."""
SEGMENT_HEADER_BYTES: Final = 64

# What may be kept on a node.
HOT_BYTES_MAX: Final = 64 * MIB
"""Segments in memory, of all streams of one user."""
HOT_FILESYSTEM_SHARE: Final = 8
"""Hot may use one part in this many of its tmpfs, and as much of its cgroup's headroom."""
COLD_BYTES_MAX: Final = 4 * 1024 * MIB
"""Segments on disk, of one stream."""
COLD_FREE_BYTES_MIN: Final = 1024 * MIB
"""What cold leaves free on its file system."""
REENTRANT_CALLS_MAX: Final = 64
"""Calls of log() from within log() that wait for the outer one."""

# The wire. proto/README.md tells what these bound.
PROTOCOL: Final = 1
FRAME_BYTES_MAX: Final = 1 * MIB
"""One frame, before compression: the record bytes of one segment always fit."""
FRAMES_PER_MESSAGE_BYTES_MAX: Final = 2 * MIB
"""The frames of one message, before compression."""
FRAMES_PER_MESSAGE_MAX: Final = 4096
FRAME_CHARGE_BYTES_MIN: Final = 512
"""What a frame takes of the credit at least: what it costs a collector beside its bytes."""
CREDIT_BYTES_MIN: Final = 2 * MIB
"""The smallest window an agent is given."""
CREDIT_BYTES_MAX: Final = 16 * MIB
"""The largest window an agent is given."""
MESSAGE_BYTES_MAX: Final = 4 * MIB
"""One gRPC message: frames, and what says where they belong."""
META_BYTES_MAX: Final = 64 * KIB
"""meta.json."""
STREAMS_PER_RELAY_MAX: Final = 100_000
OPENS_IN_FLIGHT_MAX: Final = 256
"""Streams that an agent asks for at once."""
RELAYED_BYTES_MAX: Final = 512 * MIB
"""What the windows of all relays of a collector may add up to: what it may have to hold."""

# Names.
LABEL_CHARACTERS_MAX: Final = 128
KEY_CHARACTERS_MAX: Final = 1024

# Life and death.
HEARTBEAT_INTERVAL_S: Final = 5.0
LOST_AFTER_HEARTBEATS: Final = 3
SILENT_AFTER_INTERVALS: Final = 5
SILENT_AFTER_MIN_S: Final = 60.0
GRACE_S: Final = 60.0
"""After a primary has finished, how long its run waits for workers before it counts as ended."""
FINISH_TIMEOUT_S: Final = 30.0
SPILL_AFTER_S: Final = 1.0
"""What an outage leaves unacknowledged for longer is copied to disk and synced."""
DRAIN_S: Final = 10.0
"""How long a program that was told to stop goes on with what it has accepted."""
RECONNECT_BASE_S: Final = 0.2
RECONNECT_CAP_S: Final = 15.0

assert RECORD_BYTES_MAX < CONTINUED_BYTES_MAX
assert SEGMENT_HEADER_BYTES < SEGMENT_BYTES_MIN < SEGMENT_BYTES_MAX
assert SEGMENT_HEADER_BYTES + RECORD_BYTES_MAX < SEGMENT_BYTES_MAX
assert SEGMENT_BYTES_MAX - SEGMENT_HEADER_BYTES <= FRAME_BYTES_MAX
assert FRAME_BYTES_MAX <= FRAMES_PER_MESSAGE_BYTES_MAX <= CREDIT_BYTES_MIN <= CREDIT_BYTES_MAX
assert FRAMES_PER_MESSAGE_BYTES_MAX + FRAMES_PER_MESSAGE_MAX * 64 < MESSAGE_BYTES_MAX
assert CREDIT_BYTES_MIN < MESSAGE_BYTES_MAX
assert FRAME_CHARGE_BYTES_MIN < FRAME_BYTES_MAX
assert CREDIT_BYTES_MAX < RELAYED_BYTES_MAX
assert META_BYTES_MAX < RECORD_BYTES_MAX
assert KEY_CHARACTERS_MAX * 4 < RECORD_BYTES_MAX
assert SEGMENT_BYTES_MAX < HOT_BYTES_MAX < COLD_BYTES_MAX
assert SPILL_AFTER_S < HEARTBEAT_INTERVAL_S < DRAIN_S < FINISH_TIMEOUT_S
assert RECONNECT_BASE_S < RECONNECT_CAP_S < HEARTBEAT_INTERVAL_S * LOST_AFTER_HEARTBEATS + 1


def frame_charge(size: int) -> int:
    """What a frame of size bytes, before compression, takes of its agent's credit."""
    return max(size, FRAME_CHARGE_BYTES_MIN)
