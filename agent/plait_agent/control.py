"""The control socket's server: what a file cannot say, as JSON lines on a Unix socket.

One line is one request; each gets one line back, `wait` several. A request that cannot be carried
out is answered with `{"ok": false, "error": sentence}`, and the connection goes on.

Rule: only processes of the same user (or root) are answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from plait_agent.events import Progress
from plait_agent.signals import Changes
from plaitwire.folders import ALIVE, Folders
from plaitwire.names import is_session

log = logging.getLogger(__name__)

_LINE_BYTES_MAX: Final = 64 * 1024
_CONNECTIONS_MAX: Final = 4096
_WAIT_S_MAX: Final = 3600.0
_FAREWELL_S: Final = 1.0
"""Who waits has so long to take the last line when the agent stops."""
_BETWEEN_LINES_S: Final = 0.5
"""Lines of `wait` come at most this often, but for the last."""
_PEER: Final = struct.Struct("3i")
"""pid, uid, gid of the process at the other end."""

Answer = dict[str, Any]


class BadRequest(ValueError):
    """A request that cannot be carried out. The sentence says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStatus:
    """The agent, for people."""

    id: str
    version: str
    node: str
    collector: str
    connected: bool
    last_error: str
    store_id: str
    uptime_s: float
    credit_bytes: int


class Node(Protocol):
    """What the control socket needs of the agent."""

    def announce(self, session: str) -> None:
        """Look at this stream now."""

    def progress(self, session: str) -> Progress | None:
        """How far a stream is; None: nobody has heard of it."""

    def agent_status(self) -> AgentStatus:
        """The agent, for people."""

    def stream_statuses(self) -> list[dict[str, Any]]:
        """Each stream, for people, as JSON values."""


class ControlServer:
    """Serves one agent's control socket."""

    def __init__(
        self,
        node: Node,
        folders: Folders,
        *,
        notices: tuple[str, ...],
        changes: Changes,
        clock: Callable[[], float],
    ) -> None:
        """
        Args:
            node: the agent.
            folders: the ones it serves.
            notices: said to whoever opens a stream.
            changes: rung when a stream's progress may have changed.
            clock: seconds that never go back.
        """
        self._node, self._folders, self._notices = node, folders, notices
        self._changes, self._clock = changes, clock
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._waits: set[asyncio.Task[None]] = set()
        """Connections with a wait under way; the others have nothing to be told at the end."""
        self._stopping = False

    async def start(self) -> Path:
        """Listen. Returns where."""
        path = self._folders.control_socket
        self._server = await asyncio.start_unix_server(self._serve, path, limit=_LINE_BYTES_MAX)
        path.chmod(0o600)
        return path

    async def stop(self) -> None:
        """Tell those who wait that the agent ends, and stop listening.

        Safe before start, and twice.
        """
        self._stopping = True
        self._changes.ring()
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self._folders.control_socket.unlink(missing_ok=True)
        for task in self._connections - self._waits:
            task.cancel()
        if self._waits:
            _, late = await asyncio.wait(self._waits, timeout=_FAREWELL_S)
            for task in late:
                task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            peer = _peer_of(writer)
            if peer is None or len(self._connections) > _CONNECTIONS_MAX:
                return
            while not self._stopping:
                line = await reader.readline()
                if not line:
                    return
                await self._answer(line, peer, reader, writer, task)
        except (ConnectionError, ValueError) as error:  # ValueError: a line beyond the limit.
            log.debug("control connection ends: error=%r", error)
        finally:
            self._connections.discard(task)
            self._waits.discard(task)
            writer.close()

    async def _answer(
        self,
        line: bytes,
        peer: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        task: asyncio.Task[None],
    ) -> None:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise BadRequest("a request is a JSON object")
            if request.get("op") == "wait":
                self._waits.add(task)
                try:
                    await self._wait(request, reader, writer)
                finally:
                    self._waits.discard(task)
                return
            answer = self._carry_out(request, peer)
        except BadRequest as error:
            answer = {"ok": False, "error": str(error)}
        except (ValueError, RecursionError) as error:
            answer = {"ok": False, "error": f"the line is not JSON: {error}"}
        await _send(writer, answer)

    def _carry_out(self, request: Answer, peer: int) -> Answer:
        match request.get("op"):
            case "hello":
                return self._hello()
            case "open":
                return self._open(request, peer)
            case "status":
                streams = self._node.stream_statuses()
                return {"ok": True, "agent": asdict(self._node.agent_status()), "streams": streams}
            case op:
                raise BadRequest(f"unknown op {op!r}; there are hello, open, wait and status")

    def _hello(self) -> Answer:
        status = self._node.agent_status()
        return {
            "ok": True,
            "agent": status.id,
            "version": status.version,
            "pid": os.getpid(),
            "node": status.node,
            "collector": status.collector,
            "hot": str(self._folders.hot),
            "cold": str(self._folders.cold),
        }

    def _open(self, request: Answer, peer: int) -> Answer:
        session = _session(request)
        collector = self._node.agent_status().collector
        if request.get("collector") not in (None, collector):
            raise BadRequest(
                f"this agent relays to {collector} and not to {request['collector']}: "
                f"set PLAIT_COLLECTOR to the agent's, or start an agent with folders of its own"
            )
        for name, ours in (("hot", self._folders.hot), ("cold", self._folders.cold)):
            theirs = request.get(name)
            if not isinstance(theirs, str) or os.path.realpath(theirs) != os.path.realpath(ours):
                raise BadRequest(f"this agent's {name} folder is {ours} and not {theirs}")
        try:
            found = os.stat(self._folders.hot_stream(session) / ALIVE, follow_symlinks=False)
        except OSError as error:
            raise BadRequest(f"this agent does not see the stream {session}: {error}") from error
        if (found.st_dev, found.st_ino) != (request.get("dev"), request.get("ino")):
            raise BadRequest(
                f"{self._folders.hot} is another folder here than at the writer: mount one and the "
                f"same into both containers"
            )
        self._node.announce(session)
        return {
            "ok": True,
            "outlives": _outlives(peer),
            "collector": collector,
            "notices": list(self._notices),
        }

    async def _wait(
        self, request: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        session, offset = _session(request), _number(request, "offset")
        until_s = self._clock() + min(_number(request, "timeout_s"), _WAIT_S_MAX)
        self._node.announce(session)
        last: Answer | None = None
        spoke_s = float("-inf")
        while True:
            seen, now_s = self._changes.count, self._clock()
            line = self._waiting_line(session)
            over = now_s >= until_s or self._stopping or line["refused"]
            if line["acked"] >= offset or over:
                await _send(writer, {**line, "done": line["acked"] >= offset})
                return
            if line != last and now_s - spoke_s >= _BETWEEN_LINES_S:
                last, spoke_s = line, now_s
                await _send(writer, line)
            if reader.at_eof():
                raise ConnectionResetError("who waited is gone")
            await self._changes.after(seen, timeout_s=min(until_s - now_s, _BETWEEN_LINES_S))

    def _waiting_line(self, session: str) -> Answer:
        progress = self._node.progress(session) or Progress(0, 0)
        connected = self._node.agent_status().connected
        return {
            "acked": progress.acked,
            "end": progress.end,
            "connected": connected,
            "refused": progress.refused,
        }


def _peer_of(writer: asyncio.StreamWriter) -> int | None:
    """The pid at the other end; None: it is another user's process, which is not answered."""
    peer = writer.get_extra_info("socket")
    data = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, uid, _ = _PEER.unpack(data)
    if uid not in (os.geteuid(), 0):
        log.warning("a control connection is turned away: uid=%d pid=%d", uid, pid)
        return None
    return int(pid)


def _outlives(peer: int) -> bool:
    """Whether this agent goes on when the peer's job ends: it is in another session.

    A peer whose pid means nothing here is in another container, and so is its end.
    """
    try:
        return peer > 0 and os.getsid(peer) != os.getsid(0)
    except OSError:
        return False


def _session(request: Answer) -> str:
    session = request.get("session")
    if not isinstance(session, str) or not is_session(session):
        raise BadRequest(f"session is {session!r}, and not 32 hexadecimal digits")
    return session


def _number(request: Answer, name: str) -> float:
    number = request.get(name)
    if isinstance(number, bool) or not isinstance(number, int | float) or not number >= 0:
        raise BadRequest(f"{name} is {number!r}, and not a number from 0 on")
    return number


async def _send(writer: asyncio.StreamWriter, answer: Answer) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
    await writer.drain()
