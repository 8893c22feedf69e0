"""What the agent knows of each stream, in files of its own: the list of open streams is theirs.

    cold/agent/streams/<session>.json   the stream
    cold/agent/streams/<session>.mark   how far it is synced to cold; written by the spill alone

Promise: a file is whole, or as it was before. What must survive a power loss (that a stream is
open; how far its cold bytes are synced) is written synced; what need only survive the agent is not.
"""

from __future__ import annotations

import base64
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError

from plait_agent.disk import Disk, make_folder, write_file
from plaitwire.names import is_session
from plaitwire.v1 import types_pb2

log = logging.getLogger(__name__)

_SUFFIX: Final = ".json"
_MARK: Final = ".mark"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a stream is synced to cold: everything before `offset` that is not acknowledged."""

    base: int
    """Of the segment that offset is in."""
    offset: int
    crc32c: int
    """Of the bytes from base to offset: what a power loss left is checked against it."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """One stream, as the agent remembers it."""

    session: str
    meta: types_pb2.StreamMeta
    boot_id: str
    """Of the kernel under which the stream was written."""
    acked: int = 0
    """The furthest offset that any store acknowledged: what is missing below it, we deleted."""
    store_id: str = ""
    """The store that did."""
    ended: int | None = None
    """The stream's final end, once its writer was gone."""
    closing: int | None = None
    """The base of the closing segment, where the stream's last bytes are gone."""
    refused: str = ""
    """Why it is not offered to the collector any more."""


class States:
    """The files."""

    def __init__(self, cold: Path, *, disk: Disk) -> None:
        """
        Args:
            cold: the root on disk.
            disk: what syncs.
        """
        self._folder = cold / "agent" / "streams"
        self._disk = disk

    def load(self) -> dict[str, StreamState]:
        """All streams that an agent of this folder has not seen to their end.

        A file that does not read as a state is set aside: its stream is looked at anew.
        """
        make_folder(self._folder, disk=self._disk)
        states = {}
        for path in sorted(self._folder.iterdir()):
            if path.suffix != _SUFFIX or not is_session(path.stem):
                continue
            try:
                states[path.stem] = _decode(path.stem, json.loads(path.read_bytes()))
            except (OSError, ValueError, KeyError, TypeError, DecodeError) as error:
                log.warning("a state is set aside: path=%s error=%r", path, error)
                os.replace(path, path.with_suffix(".bad"))
        return states

    def mark(self, session: str) -> Mark | None:
        """How far a stream is synced; None: nothing of it is, as far as anybody can tell."""
        try:
            base, offset, crc = json.loads(self._path(session, _MARK).read_bytes())
            found = Mark(int(base), int(offset), int(crc))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            log.warning("a mark is not believed: session=%s error=%r", session, error)
            return None
        return found if 0 <= found.base <= found.offset else None

    def write_mark(self, session: str, mark: Mark) -> None:
        """Remember how far a stream is synced, for good."""
        data = json.dumps([mark.base, mark.offset, mark.crc32c]).encode()
        write_file(self._path(session, _MARK), data, disk=self._disk)

    def write(self, state: StreamState, *, synced: bool) -> None:
        """Remember state.

        Args:
            state: replaces what was known of its stream.
            synced: return once it survives a power loss.
        """
        data = json.dumps(_encode(state), separators=(",", ":")).encode()
        write_file(self._path(state.session), data, disk=self._disk if synced else None)

    def remove(self, session: str) -> None:
        """Forget a stream."""
        self._path(session).unlink(missing_ok=True)
        self._path(session, _MARK).unlink(missing_ok=True)

    def _path(self, session: str, suffix: str = _SUFFIX) -> Path:
        return self._folder / f"{session}{suffix}"


def _encode(state: StreamState) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "session": state.session,
        "meta": base64.b64encode(state.meta.SerializeToString(deterministic=True)).decode(),
        "boot_id": state.boot_id,
        "acked": state.acked,
        "store_id": state.store_id,
        "ended": state.ended,
        "closing": state.closing,
        "refused": state.refused,
    }


def _decode(session: str, value: dict[str, Any]) -> StreamState:
    if value["version"] != _VERSION or value["session"] != session:
        raise ValueError(f"version {value['version']} of session {value['session']}")
    meta = types_pb2.StreamMeta.FromString(base64.b64decode(value["meta"], validate=True))
    if meta.session != session:
        raise ValueError(f"its meta names {meta.session}")
    return StreamState(
        session=session,
        meta=meta,
        boot_id=str(value["boot_id"]),
        acked=int(value["acked"]),
        store_id=str(value["store_id"]),
        ended=_optional(value["ended"]),
        closing=_optional(value["closing"]),
        refused=str(value["refused"]),
    )


def _optional(value: Any) -> int | None:
    return None if value is None else int(value)
