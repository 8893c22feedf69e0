"""A collector, an agent and a bystander: a rank that logs on whatever others do, and is whole."""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import subprocess
import sys
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import plait
from tests.system.paced_rank import KEYS, value
from tests.system.programs import DEADLINE_S, Site, wait_until
from tests.system.raw_agent import RawAgent, raw_agent

STEPS = 10
"""Rows of the bystander each time it logs on."""


class Scene:
    """A collector, an agent, and a bystander."""

    def __init__(self, here: Site, pace: Path, *, total: int = 100 * STEPS) -> None:
        self.here = here
        self.collector, self.agent = here.collector(), here.agent()
        pace.write_bytes(bytes(16))
        with pace.open("r+b") as file:
            self._mapping = mmap.mmap(file.fileno(), 0)
        self._words = memoryview(self._mapping).cast("Q")
        self.rows = 0
        self.total = total
        self.bystander = subprocess.Popen(
            [sys.executable, "-m", "tests.system.paced_rank", str(pace), "0", str(self.total)],
            env={**os.environ, **here.environment},
            stdin=subprocess.DEVNULL,
        )

    def allow(self, to: int) -> None:
        """Let the bystander log so many rows in all, and wait until its calls have returned."""
        self.rows = self._words[0] = to
        wait_until(lambda: self._words[1] == to, f"{to} calls of log() to return")

    def log_on(self, to: int | None = None) -> None:
        """See that the bystander logs, and that all of it arrives while the others misbehave."""
        self.rows = self.rows + STEPS if to is None else to
        self._words[0] = self.rows

        def arrived() -> bool:
            assert self.bystander.poll() in (None, 0)
            with plait.Api(self.here.grpc) as api:
                names = [run.path for run in api.runs()]
                return "system/paced" in names and api.run("system/paced").rows == self.rows

        wait_until(arrived, f"{self.rows} rows of the bystander")

    def refused(self) -> dict[str, int]:
        """What the collector has refused so far, by reason."""
        with urllib.request.urlopen(f"http://{self.collector.value('http')}/healthz") as answer:
            health = json.load(answer)
        assert health["state"] == "ok"
        counts: dict[str, int] = health["relays"]["refused"]
        return counts

    def talk(self, said: Callable[[RawAgent], Awaitable[None]], **options: Any) -> None:
        """Have an agent say something to the collector."""

        async def relay() -> None:
            async with raw_agent(self.here.grpc, **options) as agent:
                await said(agent)

        asyncio.run(relay())

    def check_whole(self) -> None:
        """Let the bystander end, and read all of it back: every row once, in order."""
        self.log_on(self.total)
        assert self.bystander.wait(DEADLINE_S) == 0
        with plait.Api(self.here.grpc) as api:
            run = api.run("system/paced")
            table = run.history(keys=KEYS)
            assert table["step"].to_pylist() == list(range(self.total))
            for number, key in enumerate(KEYS):
                assert table[key].to_pylist() == [value(0, n, number) for n in range(self.total)]
            assert run.frontier()["0"].gaps == ()

    def close(self) -> None:
        """End the bystander, if it has not ended."""
        self.bystander.kill()
        self.bystander.wait()
        self._words.release()
        self._mapping.close()
