"""This node's agent, asked over its control socket. Standard library only."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any, Final

from plaitwire import folders
from plaitwire.limits import MIB

TIMEOUT_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 64 * MIB


class NoAgent(Exception):
    """No agent answers; the sentence says where it was looked for and what to do."""


def ask_status() -> dict[str, Any]:
    """What the agent says of itself and its streams.

    Raises:
        NoAgent: nobody answers, or not as an agent would.
    """
    try:
        hot = folders.resolve(os.environ, os.getuid()).hot
    except folders.UnusableFolder as error:
        raise NoAgent(str(error)) from None
    path = hot / folders.CONTROL_SOCKET
    try:
        answer = _ask(path, {"op": "status"})
    except (FileNotFoundError, ConnectionRefusedError):
        raise NoAgent(
            f"no agent runs for you on this node (nobody listens at {path}); start one with "
            f"`plait agent --collector HOST:PORT`, or set PLAIT_HOT_DIR as it has it"
        ) from None
    except (OSError, ValueError) as error:
        raise NoAgent(f"the agent at {path} does not answer: {error}") from None
    if not answer.get("ok"):
        raise NoAgent(f"the agent at {path} answers: {answer.get('error', 'nothing')}")
    return {"agent": answer.get("agent", {}), "streams": answer.get("streams", [])}


def _ask(path: Path, question: dict[str, Any]) -> dict[str, Any]:
    """One question, one line of answer."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT_S)
            # Through the open folder: a socket's path has room for 107 bytes only.
            connection.connect(f"/proc/self/fd/{folder}/{path.name}")
            connection.sendall(json.dumps(question).encode() + b"\n")
            line = _line(connection)
    finally:
        os.close(folder)
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise ValueError("its answer is no object")
    return answer


def _line(connection: socket.socket) -> bytes:
    received = bytearray()
    while b"\n" not in received:
        piece = connection.recv(1 << 20)
        if not piece:
            break
        received += piece
        if len(received) > ANSWER_BYTES_MAX:
            raise ValueError(f"its answer is longer than {ANSWER_BYTES_MAX} bytes")
    return bytes(received)
