"""The small socket to the node's agent: only what a file cannot say.

JSON lines over a Unix stream socket. Every call has a bound, and none raises into training: what
goes wrong is an answer like any other.

Rule: the answers come from another program: each is checked before it is believed.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from plaitwire.folders import Folders

OPEN_TIMEOUT_S: Final = 2.0
"""How long init() waits for an agent that is there to answer."""
ANSWER_BYTES_MAX: Final = 64 * 1024
_PATH_BYTES_MAX: Final = 107
_CREDENTIALS: Final = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Opened:
    """What came of telling the agent that a stream is open."""

    is_agent_there: bool
    """Whether somebody answered."""
    is_accepted: bool
    """Whether the agent sees the same files and delivers them."""
    outlives: bool
    """Whether the agent lives on when this process's job ends."""
    collector: str
    """Where the agent delivers to, HOST:PORT."""
    notices: tuple[str, ...]
    error: str
    """Why it was not accepted, a sentence; empty if it was or nobody is there."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stream is acknowledged, while finish() waits."""

    acked: int
    """Stream offset up to which the collector has it on disk, in bytes."""
    end: int
    """Stream offset of the end, in bytes."""
    is_connected: bool
    """Whether the agent has a connection to the collector."""
    is_done: bool
    """Whether all that was asked for is acknowledged."""
    refused: str = ""
    """Why the collector refuses the stream for good; empty: it does not."""


NOBODY: Final = Opened(False, False, False, "", (), "")
_UNKNOWN: Final = Progress(0, 0, False, False)


def open_stream(
    folders: Folders,
    session: str,
    identity: tuple[int, int],
    collector: str | None,
    *,
    timeout_s: float = OPEN_TIMEOUT_S,
) -> Opened:
    """Tell the agent of this user, on this node, that a stream is open.

    Args:
        folders: where the stream is.
        session: its id.
        identity: device and inode of its `alive`.
        collector: where it should be delivered, HOST:PORT; None leaves that to the agent.
        timeout_s: the bound, in seconds.
    """
    request = {
        "op": "open",
        "session": session,
        "hot": str(folders.hot),
        "cold": str(folders.cold),
        "collector": collector,
        "dev": identity[0],
        "ino": identity[1],
    }
    try:
        with _Connection(folders, monotonic() + timeout_s) as agent:
            answer = agent.ask(request)
    except FileNotFoundError:
        return NOBODY
    except ConnectionRefusedError:  # The socket of an agent that has ended.
        return NOBODY
    except (OSError, ValueError) as error:
        return Opened(True, False, False, "", (), f"the agent did not answer: {error}")
    notices = answer.get("notices")
    return Opened(
        is_agent_there=True,
        is_accepted=answer.get("ok") is True,
        outlives=answer.get("outlives") is True,
        collector=str(answer.get("collector") or ""),
        notices=tuple(map(str, notices)) if isinstance(notices, list) else (),
        error="" if answer.get("ok") is True else str(answer.get("error") or "refused"),
    )


def wait_acknowledged(
    folders: Folders,
    session: str,
    offset: int,
    *,
    timeout_s: float,
    on_progress: Callable[[Progress], None],
) -> Progress:
    """Wait until the collector has a stream up to an offset on disk, or for timeout_s seconds.

    Args:
        folders: where the stream is.
        session: its id.
        offset: up to where, in bytes.
        timeout_s: the bound, in seconds.
        on_progress: called with each answer.

    Returns:
        The last progress known; not done where the agent went away or time ran out.
    """
    known = _UNKNOWN
    deadline = monotonic() + timeout_s
    request = {"op": "wait", "session": session, "offset": offset, "timeout_s": timeout_s}
    try:
        with _Connection(folders, deadline + 1.0) as agent:
            answer = agent.ask(request)
            while True:
                done = answer.get("done")
                known = Progress(
                    acked=_integer(answer.get("acked")),
                    end=_integer(answer.get("end")),
                    is_connected=answer.get("connected") is True,
                    is_done=done is True,
                    refused=str(answer.get("refused") or ""),
                )
                on_progress(known)
                if done is not None or answer.get("ok") is False:
                    return known
                answer = agent.receive()
    except (OSError, ValueError):
        return known


class _Connection:
    """A connection to the control socket, all of whose calls end at one deadline."""

    def __init__(self, folders: Folders, deadline_s: float) -> None:
        self._folders = folders
        self._deadline_s = deadline_s
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._received = b""

    def __enter__(self) -> _Connection:
        try:
            self._set_timeout()
            self._connect()
            credentials = self._socket.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
            )
            uid = _CREDENTIALS.unpack(credentials)[1]
            if uid not in (os.geteuid(), 0):
                raise ValueError(f"it is user {uid}'s")
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _connect(self) -> None:
        path = os.fspath(self._folders.control_socket)
        if len(os.fsencode(path)) <= _PATH_BYTES_MAX:
            self._socket.connect(path)
            return
        # Too long for a socket's address: a descriptor of the folder makes it short.
        folder = os.open(self._folders.hot, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._socket.connect(f"/proc/self/fd/{folder}/{self._folders.control_socket.name}")
        finally:
            os.close(folder)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self._set_timeout()
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        return self.receive()

    def receive(self) -> dict[str, Any]:
        while b"\n" not in self._received:
            self._set_timeout()
            data = self._socket.recv(ANSWER_BYTES_MAX)
            if not data:
                raise ValueError("it closed the connection")
            self._received += data
            if len(self._received) > ANSWER_BYTES_MAX:
                raise ValueError("its answer is too long")
        line, _, self._received = self._received.partition(b"\n")
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError("its answer is no JSON object")
        return answer

    def _set_timeout(self) -> None:
        left = self._deadline_s - monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        self._socket.settimeout(left)


def _integer(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
