"""Which stream folders there are on this node, and what their meta.json says.

The two folders of streams are listed when they have changed since the last look, and once more
after that: a folder made within the same tick of the file system's clock is seen at the second.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Container
from pathlib import Path
from typing import Final

from plait_agent.meta import BadMeta, parse_meta
from plait_agent.safe import Unsafe, read_file
from plaitwire.folders import META, STREAMS, Folders
from plaitwire.limits import META_BYTES_MAX
from plaitwire.names import is_session
from plaitwire.v1 import types_pb2

log = logging.getLogger(__name__)

FOUND_PER_POLL_MAX: Final = 64
"""Streams taken in at one poll: each costs a sync."""
UNFINISHED_S: Final = 60.0
"""A writer makes its folder under another name, within this time."""
_UNFINISHED: Final = re.compile(r"\.[0-9a-f]{32}\.tmp")


class Limbo:
    """There is no meta.json, or it cannot be read now."""


LIMBO: Final = Limbo()


class Finder:
    """Lists the folders of streams."""

    def __init__(self, folders: Folders, *, host: str, uid: int) -> None:
        """
        Args:
            folders: the roots.
            host: of a stream whose meta names none.
            uid: who must own the streams.
        """
        self._roots = (folders.hot / STREAMS, folders.cold / STREAMS)
        self._hot_stream, self._cold_stream = folders.hot_stream, folders.cold_stream
        self._host, self._uid = host, uid
        self._stamp: tuple[int, ...] = ()
        self._again = True
        self._limbo: dict[str, float] = {}
        self._unfinished: dict[str, float | None] = {}
        self._ignored: set[str] = set()

    def look_again(self) -> None:
        """List at the next call, whatever the folders' times say."""
        self._again = True

    def new(self, known: Container[str]) -> list[str]:
        """Sessions of folders that are not known yet, those in limbo among them.

        Args:
            known: sessions not to return.
        """
        stamp = tuple(_changed_ns(root) for root in self._roots)
        if stamp == self._stamp and not self._again:
            return list(self._limbo)
        self._again = stamp != self._stamp
        self._stamp = stamp
        names: set[str] = set()
        for root in self._roots:
            try:
                names.update(os.listdir(root))
            except FileNotFoundError:
                continue
        self._ignored &= names
        for known_names in (self._limbo, self._unfinished):
            for name in [name for name in known_names if name not in names]:
                known_names.pop(name)
        fresh = sorted(n for n in names if n not in known and n not in self._ignored)
        for name in [name for name in fresh if not is_session(name)]:
            fresh.remove(name)
            if _UNFINISHED.fullmatch(name):
                self._unfinished.setdefault(name, None)
                continue
            log.warning("not a stream's folder, left alone: name=%r", name)
            self._ignored.add(name)
        if len(fresh) > FOUND_PER_POLL_MAX:
            self._again = True
        # Those in limbo stand back, so that they hold up nobody.
        fresh.sort(key=self._limbo.__contains__)
        return fresh[:FOUND_PER_POLL_MAX]

    def abandoned(self, now_s: float) -> list[Path]:
        """Folders that a writer began to make so long ago that it must have died over it."""
        found = []
        for name, first_s in self._unfinished.items():
            if first_s is None:
                self._unfinished[name] = now_s
            elif now_s - first_s >= UNFINISHED_S:
                found.append(self._roots[0] / name)
        return found

    def read_meta(self, session: str) -> types_pb2.StreamMeta | Limbo | str:
        """What a stream is; Limbo: its folder does not say yet; a text: why it is refused."""
        for folder in (self._hot_stream(session), self._cold_stream(session)):
            try:
                data = read_file(folder, META, uid=self._uid, bytes_max=META_BYTES_MAX)
                return parse_meta(data, session, host=self._host)
            except FileNotFoundError:
                continue
            except (Unsafe, BadMeta) as error:
                return f"{META}: {error}"
            except OSError as error:
                log.warning("a meta.json cannot be read now: path=%s error=%s", folder, error)
                return LIMBO
        return LIMBO

    def limbo_since_s(self, session: str, now_s: float) -> float:
        """When this folder was first seen without meta.json."""
        return self._limbo.setdefault(session, now_s)

    def ignore(self, session: str) -> None:
        """Leave this folder alone for as long as it is there."""
        self._ignored.add(session)
        self._limbo.pop(session, None)

    def forget(self, session: str) -> None:
        """It is no folder in limbo (any more)."""
        self._limbo.pop(session, None)


def _changed_ns(root: os.PathLike[str]) -> int:
    try:
        return os.stat(root).st_mtime_ns
    except OSError:
        return -1
