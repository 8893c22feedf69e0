"""The whole path on one machine: a collector, an agent, four ranks that train, and reading it back.

    make demo

Promise: whatever happens, an error and Ctrl-C included, every process started here is ended. What
the collector stored is kept in demo-data/ (or --data), so that one can go on looking at it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

import plait
from plaitwire.status import WireError

ROOT = Path(__file__).resolve().parent.parent
RANKS = 4
START_WITHIN_S = 60.0
STOP_WITHIN_S = 20.0
SHOWN_STEPS = 8

console = Console()


class DemoError(Exception):
    """A part of the demo did not do what it should; the text says which, and where its log is."""


class Program:
    """A program that runs beside us, with its log in a file."""

    def __init__(self, log: Path, arguments: list[str], environment: dict[str, str]) -> None:
        self.name = log.stem
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                env=environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for us: we end the others, in order.
            )

    def wait_until_ready(self) -> str:
        """The line in which the program says that it serves, and where.

        Raises:
            DemoError: it ended, or said nothing in time.
        """
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline:
            for line in self.log.read_text().splitlines():
                if re.search(r'\bmsg="?ready\b', line):
                    return line
            if self.process.poll() is not None:
                raise DemoError(f"the {self.name} ended at once: {self.last_words()}")
            time.sleep(0.05)
        raise DemoError(f"the {self.name} was not ready in {START_WITHIN_S:.0f} s; see {self.log}")

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text().splitlines()[-12:]) or "it said nothing"

    def stop(self) -> None:
        """End it: politely, and after a while not. Safe when it has ended."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            try:
                self.process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # Ranks that outlived their parent.
            return


class StopSignals:
    """Signals that ask us to stop: the first one is a KeyboardInterrupt, the others change nothing.

    Invariant: none interrupts the start or the end of a program, which would leave it running.
    """

    def __init__(self) -> None:
        self._asked = False
        self._raised = False
        self._is_held = False

    def install(self) -> None:
        """Handle them from now on, but for those that whoever started us had ignored."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._received)

    def _received(self, number: int, frame: object) -> None:
        self._asked = True
        self._raise_unless_held()

    def _raise_unless_held(self) -> None:
        if self._asked and not self._raised and not self._is_held:
            self._raised = True
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What comes within the block is heard at its end."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        self._raise_unless_held()


STOP = StopSignals()


@contextlib.contextmanager
def running(log: Path, arguments: list[str], environment: dict[str, str]) -> Iterator[Program]:
    """A program for the length of a block. It is called as its log file is."""
    program = None
    try:
        with STOP.held():
            program = Program(log, arguments, environment)
        yield program
    finally:
        if program is not None:
            with STOP.held():
                program.stop()


@contextlib.contextmanager
def node_folders() -> Iterator[tuple[Path, Path]]:
    """The hot folder (in memory) and the cold one (on disk) of a node, as an agent has them."""
    hot = Path(tempfile.mkdtemp(prefix="plait-demo-", dir="/dev/shm"))
    cold = Path(tempfile.mkdtemp(prefix="plait-demo-"))
    try:
        yield hot, cold
    finally:
        left = {log.parent for folder in (hot, cold) for log in folder.glob("streams/*/*.log")}
        if left:
            console.print(f"[yellow]Not delivered, and kept: {len(left)} streams in {hot}, {cold}")
        else:
            shutil.rmtree(hot, ignore_errors=True)
            shutil.rmtree(cold, ignore_errors=True)


@contextlib.contextmanager
def collector_and_agent(logs: Path, data: Path) -> Iterator[dict[str, str]]:
    """Both programs, on free ports, for the length of a block.

    Yields:
        The environment in which ranks and readers find them.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PLAIT_")}
    serve = ["-m", "plait_collector", "--data", str(data)]
    serve += ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    with contextlib.ExitStack() as started:
        hot, cold = started.enter_context(node_folders())
        collector = started.enter_context(running(logs / "collector.log", serve, environment))
        address = bound_address(collector.wait_until_ready())
        relay = ["-m", "plait_agent", "--collector", address]
        relay += ["--dir", str(cold), "--hot-dir", str(hot)]
        agent = started.enter_context(running(logs / "agent.log", relay, environment))
        agent.wait_until_ready()
        yield environment | {
            "PLAIT_COLLECTOR": address,
            "PLAIT_HOT_DIR": str(hot),
            "PLAIT_DIR": str(cold),
        }


def demo(kept: Path) -> None:
    """Start everything, train, read back, print. Logs and data are in `kept`."""
    run_id = time.strftime("demo-%Y%m%d-%H%M%S")
    kept.mkdir(parents=True, exist_ok=True)
    with collector_and_agent(kept, kept / "collector") as environment:
        console.print(f"A collector listens on {environment['PLAIT_COLLECTOR']}, and an agent")
        console.print(f"relays to it what ranks write into {environment['PLAIT_HOT_DIR']}.")
        train(run_id, kept / "training.log", environment)
        show(environment["PLAIT_COLLECTOR"], run_id)
    say_what_next(run_id, kept / "collector")


def bound_address(ready: str) -> str:
    """The gRPC address in a program's ready line."""
    found = re.search(r'\bgrpc="?([^\s"]+)', ready)
    if found is None:
        raise DemoError(f"the ready line names no gRPC address: {ready}")
    return found[1]


def train(run_id: str, log: Path, environment: dict[str, str]) -> None:
    """Run examples/digits.py to its end."""
    one_core_each = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [str(ROOT / "examples" / "digits.py"), "--ranks", str(RANKS), "--id", run_id]
    with running(log, command, environment | one_core_each) as training:
        with console.status(f"{RANKS} ranks train on handwritten digits, into digits/{run_id} …"):
            code = training.process.wait()
        if code:
            raise DemoError(f"the training ended with code {code}: {training.last_words()}")
    console.print(f"{RANKS} ranks have trained, into one run: digits/{run_id}.\n")


def show(address: str, run_id: str) -> None:
    """Read the run back and print it."""
    with plait.Api(address) as api:
        run = api.run(f"digits/{run_id}")
        loss = run.history(keys=["loss"])
        accuracy = run.summary.get("held_out_accuracy", float("nan"))
        console.print(f"[bold]digits/{run_id}[/] is [bold]{run.state}[/] ({run.liveness}).")
        console.print(f"On digits that no rank trained on, {accuracy:.1%} are read right.\n")
        labels = Table("label", "state", "last step", "rows", "loss", title="What each rank logged")
        for name, label in run.labels.items():
            last = loss.filter(pc.field("label") == name)["loss"][-1].as_py()
            labels.add_row(name, label.state, str(label.last_step), str(label.rows), f"{last:.4f}")
        console.print(labels)
    across = Table("step", "labels", "min", "mean", "max", title="The loss across the ranks")
    steps = loss.group_by("step").aggregate(
        [("loss", "count"), ("loss", "min"), ("loss", "mean"), ("loss", "max")]
    )
    rows = steps.sort_by("step").to_pylist()
    for at in range(SHOWN_STEPS):
        row = rows[at * (len(rows) - 1) // (SHOWN_STEPS - 1)]
        values = [f"{row[f'loss_{what}']:.4f}" for what in ("min", "mean", "max")]
        across.add_row(str(row["step"]), f"{row['loss_count']} of {len(run.labels)}", *values)
    console.print(across)


def say_what_next(run_id: str, data: Path) -> None:
    """Commands that go on from here."""
    kept, programs = (as_typed(path) for path in (data, Path(sys.executable).parent))
    console.print(f"\nAll that was started has ended. The data is in [bold]{kept}[/].")
    commands = {
        "Serve it again:": [f"plait collector --data {kept}"],
        "Then, in another terminal, read it:": [
            f"plait show digits/{run_id}",
            f"plait history digits/{run_id} --keys loss --labels 0",
        ],
        "Or train once more, beside an agent:": [
            "plait agent",
            f"python {as_typed(ROOT / 'examples' / 'digits.py')} --id exp-2",
        ],
    }
    for what, lines in commands.items():
        console.print(what)
        for line in lines:
            console.print(f"  {programs}/{line}", highlight=False, soft_wrap=True)


def as_typed(path: Path) -> str:
    """A path as one types it here: relative, where it is below the folder one is in."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def main() -> int:
    """Run the demo; the answer is the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT / "demo-data", help="what is kept")
    arguments = parser.parse_args()
    STOP.install()
    try:
        demo(arguments.data.absolute())
    except (DemoError, WireError) as error:
        console.print(f"The demo failed: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped; all that was started has ended.")
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
