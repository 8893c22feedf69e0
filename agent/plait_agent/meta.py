"""meta.json of a stream, to the message that opens it. No I/O.

What a user can write is checked here, once: what passes is within what the wire allows.
"""

from __future__ import annotations

import json
from typing import Any, Final

from plaitwire.limits import META_BYTES_MAX
from plaitwire.names import identifier_flaw, is_session
from plaitwire.v1 import types_pb2

_KINDS: Final = {
    "run": types_pb2.STREAM_KIND_RUN,
    "node": types_pb2.STREAM_KIND_NODE,
}
_INTEGER_MAX: Final = 2**63 - 1


class BadMeta(ValueError):
    """A meta.json that says not, or wrongly, what its stream is. The sentence says how."""


def parse_meta(data: bytes, session: str, *, host: str) -> types_pb2.StreamMeta:
    """What the stream is.

    Args:
        data: the file's bytes.
        session: the name of the stream's folder; the file must say the same.
        host: taken where the file names none.

    Raises:
        BadMeta: it is too large, no JSON object, of wrong types, or names what is not allowed.
    """
    if len(data) > META_BYTES_MAX:
        raise BadMeta(f"meta.json has {len(data)} bytes; at most {META_BYTES_MAX} are allowed")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadMeta(f"meta.json is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadMeta("meta.json holds no JSON object")
    if value.get("session") != session or not is_session(session):
        raise BadMeta(f"meta.json names the session {value.get('session')!r}")
    kind = _KINDS.get(_text(value, "kind") or "run")
    if kind is None:
        raise BadMeta(f"meta.json names an unknown kind of stream, {value.get('kind')!r}")
    meta = types_pb2.StreamMeta(session=session, kind=kind)
    _check_names(value, is_run=kind == types_pb2.STREAM_KIND_RUN)
    try:
        for name in ("project", "run", "label", "parent", "host", "boot_id", "group"):
            setattr(meta, name, _text(value, name))
        for name in ("restart_count", "started_ns", "pid"):
            setattr(meta, name, _integer(value, name))
        extra = value.get("extra", {})
        # No wider than it may have been in the file: what fits there fits the wire.
        meta.extra_json = json.dumps(
            extra, sort_keys=True, ensure_ascii=False, separators=(",", ":")
        )
    # Halves of surrogate pairs, too, which no UTF-8 holds; and what is nested too deep to write.
    except (ValueError, RecursionError) as error:
        raise BadMeta(f"meta.json cannot be sent: {error}") from error
    meta.primary = value.get("primary") is True
    meta.host = meta.host or host
    return meta


def _check_names(value: dict[str, Any], *, is_run: bool) -> None:
    needed = ("project", "run", "label") if is_run else ("label",)
    for name in needed:
        if flaw := identifier_flaw(name, _text(value, name)):
            raise BadMeta(flaw)
    if (group := _text(value, "group")) and (flaw := identifier_flaw("group", group)):
        raise BadMeta(flaw)
    parent = _text(value, "parent")
    if parent and not is_session(parent):
        raise BadMeta(f"parent is {parent!r}, which is no session")


def _text(value: dict[str, Any], name: str) -> str:
    text = value.get(name)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise BadMeta(f"{name} in meta.json is {text!r}, which is no text")
    return text


def _integer(value: dict[str, Any], name: str) -> int:
    number = value.get(name, 0)
    if not isinstance(number, int) or isinstance(number, bool) or abs(number) > _INTEGER_MAX:
        raise BadMeta(f"{name} in meta.json is {number!r}, which is no 64-bit integer")
    return number
