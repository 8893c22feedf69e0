"""Frames to columns: the rows of a session as NumPy arrays, one block for each set of keys.

Where equal rows follow each other, one look at a strided view finds how many, and all of them are
read at once; where rows of several shapes take turns, a plain walk over the headers finds where
each begins, and those of one shape are gathered at once. Nothing is done row by row but the walk.

Rule: pure. Ingest has checked the structure of what is read here; what is wrong all the same costs
      itself alone (a row whose schema does not fit) or, where nobody can tell where the next record
      begins, the rest of its chunk, and is counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from plait_collector.store import Chunk, Schema
from plaitwire.names import key_flaw
from plaitwire.records import (
    FLAG_AUTOMATIC_STEP,
    KIND_MASK,
    NO_STEP,
    ROW_HEADER,
    Kind,
    aligned,
)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]

WORD: Final = 8
ROW_WORDS: Final = ROW_HEADER.size // WORD
"""Words of a row before its values: header, step, wall time."""
_PROBE_ROWS: Final = 32
"""Rows looked at first where equal ones may follow each other; then four times as many, …"""
_AUTOMATIC: Final = FLAG_AUTOMATIC_STEP << 32


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one session with the same keys. All arrays are as long as there are rows."""

    keys: tuple[str, ...]
    offsets: Ints
    """Of the records, in their stream."""
    steps: Ints
    """As written."""
    times_ns: Ints
    automatic: Bools
    values: Floats
    """A row of values for each row, in the order of keys."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a session's chunks hold."""

    blocks: tuple[Block, ...]
    anchor: int | None
    """Offset of the first row or event with a given step. What stands before it floats."""
    bad: int
    """Records that could not be read."""


class Decoder:
    """Reads one session's chunks, given in the order of their offsets."""

    def __init__(
        self,
        schemas: Iterable[Schema],
        *,
        keys: Collection[str] | None = None,
        end: int | None = None,
    ) -> None:
        """
        Args:
            schemas: of the session, all segments.
            keys: what to decode; None: everything.
            end: stream offset at which to stop, between two records.
        """
        wanted = None if keys is None else frozenset(keys)
        self._columns = {
            (schema.segment_base, schema.id): _columns(schema, wanted) for schema in schemas
        }
        self._end = end
        self._parts: dict[tuple[str, ...], list[Block]] = {}
        self._anchor: int | None = None
        self._bad = 0

    def feed(self, chunk: Chunk) -> None:
        """Read one chunk; its bytes are not kept."""
        if self._end is not None and chunk.offset + len(chunk.payload) > self._end:
            chunk = replace(chunk, payload=chunk.payload[: max(0, self._end - chunk.offset)])
        walk = _walk(chunk.payload)
        self._bad += walk.damaged
        if self._anchor is None and walk.anchor is not None:
            self._anchor = chunk.offset + walk.anchor
        for head, runs in walk.runs.items():
            self._gather(chunk, walk.words, head, runs)

    @property
    def anchor(self) -> int | None:
        """Offset of the first row or event with a given step, as far as was read."""
        return self._anchor

    def decoded(self) -> Decoded:
        """What was read, each row once: the decoder lets go of it."""
        blocks = tuple(_joined(keys, self._parts.pop(keys)) for keys in list(self._parts))
        return Decoded(blocks, self._anchor, self._bad)

    def _gather(self, chunk: Chunk, words: Words, head: int, runs: list[tuple[int, int]]) -> None:
        """Take the rows of one shape: those that begin with the same header."""
        columns = self._columns.get((chunk.segment_base, head >> 48))
        stride = aligned(head & 0xFFFFFFFF) // WORD
        if columns is None or columns.width != stride - ROW_WORDS:
            self._bad += sum(count for _, count in runs)
            return
        if columns.wanted is not None and not columns.keys:
            return
        starts = _starts(runs, stride)
        if len(runs) == 1:
            table = words[starts[0] : starts[0] + len(starts) * stride].reshape(-1, stride)
        else:
            table = words[starts[:, None] + np.arange(stride)]
        rows = table.view(np.int64)
        block = Block(
            columns.keys,
            chunk.offset + starts * WORD,
            rows[:, 1].copy(),
            rows[:, 2].copy(),
            np.full(len(starts), bool(head & _AUTOMATIC)),
            columns.of(table).copy().view(np.float64),  # Lets go of the payload.
        )
        self._parts.setdefault(columns.keys, []).append(block)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which values of a schema's rows are read."""

    keys: tuple[str, ...]
    width: int
    """Values of a row."""
    wanted: list[int] | None
    """Their places; None: all, in order."""

    def of(self, table: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The values' columns of rows as words."""
        values = table[:, ROW_WORDS:]
        return values if self.wanted is None else values[:, self.wanted]


def _columns(schema: Schema, wanted: frozenset[str] | None) -> _Columns:
    places = {key: at for at, key in enumerate(schema.keys) if key_flaw(key) is None}
    if wanted is None and len(places) == len(schema.keys):
        return _Columns(schema.keys, len(schema.keys), None)
    kept = {key: at for key, at in places.items() if wanted is None or key in wanted}
    return _Columns(tuple(kept), len(schema.keys), list(kept.values()))


@dataclass(slots=True)
class _Walk:
    """Where the rows of a chunk begin. Places are in words."""

    words: Words
    runs: dict[int, list[tuple[int, int]]]
    """By header: where rows begin that follow each other, and how many."""
    anchor: int | None = None
    """Byte at which the first row or event with a given step begins."""
    damaged: int = 0


def _walk(payload: bytes) -> _Walk:
    """Find the rows of a chunk."""
    whole = len(payload) // WORD
    words = np.frombuffer(payload, "<u8", whole).astype(np.uint64, copy=False)
    walk = _Walk(words, {}, damaged=int(whole * WORD != len(payload)))
    view = words.data  # Reads a single word several times faster than NumPy does.
    at = 0
    while at < whole:
        head = view[at]
        stride = ((head & 0xFFFFFFFF) + 7) // WORD
        if not stride or at + stride > whole:
            walk.damaged += 1
            break
        kind = (head >> 32) & KIND_MASK
        count = 1
        if kind == Kind.ROW and stride >= ROW_WORDS:
            if at + 2 * stride <= whole and view[at + stride] == head:
                count = _run_length(words, at, stride, head)
            walk.runs.setdefault(head, []).append((at, count))
        if walk.anchor is None and kind in (Kind.ROW, Kind.EVENT) and not head & _AUTOMATIC:
            stepless = stride < ROW_WORDS or view[at + 1] == NO_STEP & (2**64 - 1)
            walk.anchor = None if stepless else at * WORD
        at += count * stride
    return walk


def _run_length(words: Words, at: int, stride: int, head: int) -> int:
    """How many rows with this header follow each other from at on."""
    most = (len(words) - at) // stride
    length, probe = 1, _PROBE_ROWS
    while length < most:
        window = words[at + length * stride : at + min(length + probe, most) * stride : stride]
        differs = window != np.uint64(head)
        first = int(differs.argmax())
        if differs[first]:
            return length + first
        length += len(window)
        probe *= 4
    return length


def _starts(runs: list[tuple[int, int]], stride: int) -> Ints:
    """Where each row of some runs begins, in words."""
    pairs: Ints = np.array(runs, np.int64)
    first, counts = pairs[:, 0], pairs[:, 1]
    if len(runs) == counts.sum():
        return first
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts: Ints = np.repeat(first, counts) + within * stride
    return starts


def coalesced(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Chunks that follow each other in one segment as one: small ones cost a walk each."""
    groups: list[list[Chunk]] = []
    for chunk in chunks:
        last = groups[-1][-1] if groups else None
        follows = (
            last is not None
            and last.session == chunk.session
            and last.segment_base == chunk.segment_base
            and last.offset + len(last.payload) == chunk.offset
        )
        if follows:
            groups[-1].append(chunk)
        else:
            groups.append([chunk])
    return [
        replace(group[0], payload=b"".join(chunk.payload for chunk in group))
        if len(group) > 1
        else group[0]
        for group in groups
    ]


def _joined(keys: tuple[str, ...], parts: list[Block]) -> Block:
    """Blocks of the same keys as one, in the order of offsets."""
    if len(parts) == 1:
        return parts[0]  # The rows of one chunk were found in their order.
    offsets = np.concatenate([part.offsets for part in parts])
    block = Block(
        keys,
        offsets,
        np.concatenate([part.steps for part in parts]),
        np.concatenate([part.times_ns for part in parts]),
        np.concatenate([part.automatic for part in parts]),
        np.concatenate([part.values for part in parts]),
    )
    if bool(np.all(offsets[1:] > offsets[:-1])):
        return block
    order = np.argsort(offsets, kind="stable")
    return Block(
        keys,
        offsets[order],
        block.steps[order],
        block.times_ns[order],
        block.automatic[order],
        block.values[order],
    )
