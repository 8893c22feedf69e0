"""The control socket: each op, what is refused, and what a wait is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from plait_agent.control import AgentStatus, ControlServer
from plait_agent.events import Progress
from plait_agent.signals import Changes
from plaitwire.folders import ALIVE, Folders
from tests.agent.support import make_folders, session_id


class FakeNode:
    """An agent whose progress the test sets."""

    def __init__(self) -> None:
        self.announced: list[str] = []
        self.at: dict[str, Progress] = {}

    def announce(self, session: str) -> None:
        self.announced.append(session)

    def progress(self, session: str) -> Progress | None:
        return self.at.get(session)

    def agent_status(self) -> AgentStatus:
        return AgentStatus(
            id="a",
            version="0",
            node="n",
            collector="127.0.0.1:7431",
            connected=True,
            last_error="",
            store_id="s",
            uptime_s=1.0,
            credit_bytes=0,
        )

    def stream_statuses(self) -> list[dict[str, Any]]:
        return [{"session": session} for session in self.at]


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, request: object) -> None:
        """Send one line."""
        line = request if isinstance(request, bytes) else json.dumps(request).encode()
        self.writer.write(line + b"\n")

    async def hear(self) -> Any:
        """The next line; None at the end."""
        line = await self.reader.readline()
        return json.loads(line) if line else None

    async def ask(self, request: object) -> Any:
        """One line there, one back."""
        self.say(request)
        return await self.hear()


class Site:
    """A served control socket."""

    def __init__(self, folders: Folders) -> None:
        self.folders, self.node, self.changes = folders, FakeNode(), Changes()
        self.server = ControlServer(
            self.node, folders, notices=("look",), changes=self.changes, clock=time.monotonic
        )
        self.clients: list[Client] = []

    async def client(self) -> Client:
        """A new connection."""
        reader, writer = await asyncio.open_unix_connection(self.folders.control_socket)
        self.clients.append(Client(reader, writer))
        return self.clients[-1]


@pytest.fixture
def folders() -> Iterator[Folders]:
    with tempfile.TemporaryDirectory(prefix="plait-") as root:  # Sockets have short names.
        yield make_folders(Path(root))


@pytest.fixture
async def site(folders: Folders) -> AsyncIterator[Site]:
    site = Site(folders)
    await site.server.start()
    yield site
    await site.server.stop()
    await site.server.stop()
    for client in site.clients:
        client.writer.close()
        await client.writer.wait_closed()


def opening(folders: Folders) -> dict[str, object]:
    """A request that opens a stream, whose folder is made."""
    session = session_id(1)
    folder = folders.hot_stream(session)
    folder.mkdir(exist_ok=True)
    (folder / ALIVE).touch()
    found = (folder / ALIVE).stat()
    return {
        "op": "open",
        "session": session,
        "hot": str(folders.hot),
        "cold": str(folders.cold),
        "collector": None,
        "dev": found.st_dev,
        "ino": found.st_ino,
    }


async def test_hello(site: Site) -> None:
    """Says who serves which folders."""
    answer = await (await site.client()).ask({"op": "hello"})
    assert answer["ok"] is True
    assert answer["pid"] == os.getpid()
    assert answer["hot"] == str(site.folders.hot)


async def test_open(site: Site, folders: Folders) -> None:
    """A stream that the agent sees is announced; an agent of the same session does not outlive."""
    answer = await (await site.client()).ask(opening(folders))
    assert answer == {
        "ok": True,
        "outlives": False,
        "collector": "127.0.0.1:7431",
        "notices": ["look"],
    }
    assert site.node.announced == [session_id(1)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hot": "/elsewhere"}, "hot folder"),
        ({"cold": "/elsewhere"}, "cold folder"),
        ({"cold": None}, "cold folder"),
        ({"collector": "other:1"}, "relays to 127.0.0.1:7431"),
        ({"ino": 1}, "another folder"),
        ({"session": session_id(2)}, "does not see"),
        ({"session": "../../etc"}, "hexadecimal"),
    ],
)
async def test_open_is_refused(
    site: Site, folders: Folders, change: dict[str, object], words: str
) -> None:
    """What does not fit is said in a sentence, and nothing is announced."""
    answer = await (await site.client()).ask({**opening(folders), **change})
    assert answer["ok"] is False
    assert words in answer["error"]
    assert site.node.announced == []


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"op": "dance"}', b"\xff", b'{"op":"wait"}'])
async def test_nonsense_is_answered(site: Site, line: bytes) -> None:
    """A bad line gets an answer, and the connection goes on."""
    client = await site.client()
    answer = await client.ask(line)
    assert answer["ok"] is False
    assert answer["error"]
    assert (await client.ask({"op": "hello"}))["ok"] is True


async def test_a_line_without_end_ends_the_connection(site: Site) -> None:
    """More than 64 KiB without a line's end is not collected."""
    client = await site.client()
    client.writer.write(b"x" * 200_000)
    with contextlib.suppress(ConnectionError):  # What we still had to say was not taken.
        assert await client.hear() is None
    assert (await (await site.client()).ask({"op": "hello"}))["ok"] is True


async def test_wait_until_acknowledged(site: Site) -> None:
    """Lines tell how far it is; the last one says that it is done."""
    session = session_id(1)
    client = await site.client()
    client.say({"op": "wait", "session": session, "offset": 100, "timeout_s": 60})
    assert await client.hear() == {
        "acked": 0,
        "end": 0,
        "connected": True,
        "refused": "",
    }
    assert site.node.announced == [session]
    site.node.at[session] = Progress(100, 120)
    site.changes.ring()
    last = await client.hear()
    assert last is not None
    assert (last["acked"], last["end"], last["done"]) == (100, 120, True)
    assert (await client.ask({"op": "hello"}))["ok"] is True


async def test_who_waits_for_a_refused_stream_is_told_at_once(site: Site) -> None:
    """A refusal for good ends the wait with its reason, however much time is left."""
    session = session_id(1)
    site.node.at[session] = Progress(8, 120, "DELETED: the run was deleted")
    client = await site.client()
    request = {"op": "wait", "session": session, "offset": 100, "timeout_s": 600}
    answer = await client.ask(request)
    assert (answer["done"], answer["refused"]) == (False, "DELETED: the run was deleted")


async def test_wait_times_out(site: Site) -> None:
    """A wait that is over without the acknowledgement says so."""
    client = await site.client()
    request = {"op": "wait", "session": session_id(1), "offset": 100, "timeout_s": 0}
    assert (await client.ask(request))["done"] is False


async def test_wait_hears_that_the_agent_stops(site: Site) -> None:
    """Who waits is told at once when the agent ends."""
    client = await site.client()
    client.say({"op": "wait", "session": session_id(1), "offset": 100, "timeout_s": 600})
    await client.hear()
    await site.server.stop()
    assert (await client.hear())["done"] is False
    assert await client.hear() is None


async def test_status(site: Site) -> None:
    """The agent, and its streams."""
    site.node.at[session_id(1)] = Progress(1, 2)
    answer = await (await site.client()).ask({"op": "status"})
    assert answer["agent"]["node"] == "n"
    assert answer["streams"] == [{"session": session_id(1)}]


async def test_the_socket_is_its_owners_alone(site: Site) -> None:
    """Nobody else may even connect."""
    assert site.folders.control_socket.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_is_not_answered(site: Site) -> None:
    """Even where the file's mode would allow it, another uid gets nothing."""
    socket_path = site.folders.control_socket
    socket_path.chmod(0o777)
    for folder in (site.folders.hot, site.folders.hot.parent):
        folder.chmod(0o755)
    script = (
        "import os, socket, sys; os.setuid(4321); s = socket.socket(socket.AF_UNIX)\n"
        "s.connect(sys.argv[1])\n"
        "try:\n    s.sendall(b'{}\\n'); sys.exit(len(s.recv(100)))\n"
        "except ConnectionError:\n    pass"
    )
    process = await asyncio.create_subprocess_exec("python3", "-c", script, str(socket_path))
    assert await process.wait() == 0
