"""Starting the real programs, waiting until they serve, and ending them whatever happens."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

DEADLINE_S = 60.0
"""For anything a program is waited for; a machine under load is slow, not wrong."""


def wait_until(
    condition: Callable[[], object], what: str, *, deadline_s: float = DEADLINE_S
) -> None:
    """Return once condition holds; fail with what was waited for."""
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, f"waited {deadline_s:g} s for {what}"
        time.sleep(0.01)


class Program:
    """One program, its log kept for the failure message."""

    def __init__(self, module: str, *arguments: str, environment: dict[str, str]) -> None:
        """Start `python -m module arguments`."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.name = module
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, name=f"log of {module}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line.rstrip())

    @property
    def pid(self) -> int:
        return self._process.pid

    def value(self, key: str) -> str:
        """What the ready line says of key, once it is there."""

        def ready() -> str | None:
            assert self._process.poll() is None, f"{self.name} ended:\n" + "\n".join(self.lines)
            found = [line for line in self.lines if re.search(r"msg=\"?ready", line)]
            return found[0] if found else None

        wait_until(ready, f"{self.name} to be ready")
        match = re.search(rf"\b{key}=(\S+)", ready() or "")
        assert match is not None, f"{self.name} does not say {key}"
        return match.group(1)

    def wait(self) -> int:
        """Wait for its end of its own accord; returns its exit code."""
        self._process.wait(DEADLINE_S)
        return self._end(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Send a signal that does not end it."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, and wait for its orderly end; returns its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        if self._process.poll() is None:
            self._process.send_signal(number)
        code = self._process.wait(DEADLINE_S)
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()
        return code


class Site:
    """Folders for a collector and a node, and the programs that run there."""

    def __init__(self, root: Path, hot: Path) -> None:
        self.data, self.cold, self.hot = root / "data", root / "cold", hot
        self.grpc = "127.0.0.1:0"
        self.environment = {"PLAIT_DIR": str(self.cold), "PLAIT_HOT_DIR": str(self.hot)}
        self.programs: list[Program] = []

    def collector(self) -> Program:
        """Start the collector: at first anywhere, later where it was."""
        program = self._start(
            "plait_collector",
            "--data", str(self.data), "--grpc", self.grpc, "--http", "127.0.0.1:0",
        )  # fmt: skip
        self.grpc = program.value("grpc")
        self.environment["PLAIT_COLLECTOR"] = self.grpc
        return program

    def agent(self) -> Program:
        """Start the agent, and wait until ranks can reach it."""
        program = self._start("plait_agent", "--collector", self.grpc, "--node", "node-1")
        program.value("control")
        return program

    def _start(self, module: str, *arguments: str) -> Program:
        program = Program(module, *arguments, environment=self.environment)
        self.programs.append(program)
        return program


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """A site in new folders; what still runs there at the end is killed."""
    root = Path(tempfile.mkdtemp(prefix="plait-system-"))
    hot = Path(tempfile.mkdtemp(prefix="plait-system-", dir="/dev/shm"))
    here = Site(root, hot)
    try:
        yield here
    finally:
        for program in here.programs:
            program.kill()
        shutil.rmtree(root)
        shutil.rmtree(hot)
