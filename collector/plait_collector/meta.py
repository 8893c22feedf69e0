"""What a stream says it is: the wire's words to the store's value, and what is wrong with them."""

from __future__ import annotations

import json

from plait_collector.store import Meta
from plaitwire import limits
from plaitwire.names import identifier_flaw, is_session
from plaitwire.v1 import types_pb2

_KINDS = {types_pb2.STREAM_KIND_RUN, types_pb2.STREAM_KIND_NODE}
"""What an agent relays; the streams of edits are the collector's own."""


def meta_flaw(meta: types_pb2.StreamMeta) -> str | None:
    """Why a stream cannot be taken; None if it can."""
    if meta.ByteSize() > limits.META_BYTES_MAX:
        return f"a meta of {meta.ByteSize()} bytes; at most {limits.META_BYTES_MAX} are allowed"
    if not is_session(meta.session):
        return f"{meta.session[:40]!r} is no session id"
    if meta.parent and not is_session(meta.parent):
        return f"{meta.parent[:40]!r} is no session id"
    if meta.kind not in _KINDS:
        return f"streams of kind {meta.kind} are not taken from agents"
    names = {"label": meta.label}
    if meta.kind == types_pb2.STREAM_KIND_RUN:
        names |= {"project": meta.project, "run": meta.run}
    if meta.group:
        names["group"] = meta.group
    for what, name in names.items():
        if (flaw := identifier_flaw(what, name)) is not None:
            return flaw
    if meta.restart_count < 0 or meta.started_ns < 0:
        return "a restart count or a start is negative"
    return _extra_flaw(meta.extra_json)


def _extra_flaw(extra_json: str) -> str | None:
    if not extra_json:
        return None
    try:
        extra = json.loads(extra_json)
    except (ValueError, RecursionError) as error:
        return f"the extra meta is no JSON: {error}"
    return None if isinstance(extra, dict) else "the extra meta is no JSON object"


def meta_value(meta: types_pb2.StreamMeta) -> Meta:
    """The meta as a value. meta_flaw(meta) must be None."""
    return Meta(
        session=meta.session,
        kind=meta.kind,
        project=meta.project,
        run=meta.run,
        label=meta.label,
        parent=meta.parent,
        restart_count=meta.restart_count,
        started_ns=meta.started_ns,
        host=meta.host,
        boot_id=meta.boot_id,
        pid=meta.pid,
        primary=meta.primary,
        group=meta.group,
        extra_json=meta.extra_json or "{}",
    )
