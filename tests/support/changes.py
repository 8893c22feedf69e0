"""Changes for a store, made of records as a rank would write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import google_crc32c

from plait_collector.scan import rescan
from plait_collector.store import Append, Meta
from plaitwire import records as r
from plaitwire.v1 import types_pb2


def session_id(number: int) -> str:
    """A session's id that sorts as its number."""
    return f"{number:032x}"


def meta_of(number: int = 1, **fields: Any) -> Meta:
    """The meta of a run's stream, with what matters set."""
    given: dict[str, Any] = {
        "session": session_id(number),
        "kind": int(types_pb2.STREAM_KIND_RUN),
        "project": "digits",
        "run": "one",
        "label": str(number),
        "started_ns": number,
    }
    return Meta(**{**given, **fields})


def append_of(
    session: str, offset: int, records: Sequence[bytes] | bytes, *, base: int = 0
) -> Append:
    """Records at a place of a stream, as ingest would hand them to the writer."""
    payload = records if isinstance(records, bytes) else b"".join(records)
    scanned = rescan(payload)
    assert scanned.flaw is None, scanned.flaw
    return Append(
        session=session,
        offset=offset,
        segment_base=base,
        payload=payload,
        crc32c=google_crc32c.value(payload),
        rows=scanned.rows,
        steps=scanned.steps,
        last_ns=scanned.last_ns,
        lifted=tuple(replace(one, offset=one.offset + offset) for one in scanned.lifted),
    )


def row_at(step: int, *, schema: int = 1, values: int = 2, automatic: bool = False) -> bytes:
    """A row of zeros, written at the time of its step."""
    return r.pack_row(schema, step, 1_000 + step, [0.0] * values, automatic=automatic)


def finish_record(exit_code: int | None, state: str, by: str = "rank") -> bytes:
    """A finish; an agent's has no time."""
    said = {"exit_code": exit_code, "state": state, "by": by}
    return r.pack_json(r.Kind.FINISH, said, time_ns=0 if by == "agent" else 9_000)


def gap_record(records: int | None, total: int | None, reason: str = "quota") -> bytes:
    """A writer's own note of what it dropped."""
    said = {"reason": reason, "records": records, "total": total}
    return r.pack_json(r.Kind.GAP, said)
