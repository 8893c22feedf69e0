"""What a log() costs a training step: against json.dumps of the same dict, and at its worst.

    python benchmarks/log_call.py

Blocks of log() and of json.dumps alternate, so that what else the machine does strikes both; the
ratio is the median of the blocks' ratios. Single calls are timed one by one for the 99th
percentile, the clock's own cost in both figures. What the import, and a first init(), cost is
measured in fresh interpreters.

Targets: ratio at most 1/3; p99 at most 5 times the median; `import plait` under 40 ms and 8 MB more
than a bare interpreter; no thread.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import perf_counter_ns

from plait.identity import Meta
from plait.writer import Writer
from plaitwire.folders import resolve

BLOCKS = 200
LOGS_PER_BLOCK = 1000
DUMPS_PER_BLOCK = 200
SINGLE_CALLS = 200_000
IMPORTS = 15

ROOM = "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
"""The most memory a program had, in KiB."""
BARE = ROOM
IMPORT = f"import plait; {ROOM}"
WRITING = f"import plait.run, plait.writer, plait.exits, plait.control, plait.config; {ROOM}"
"""What init() imports besides."""


def main() -> None:
    """Measure, and print a table."""
    hot = Path(tempfile.mkdtemp(prefix="plait-bench-", dir="/dev/shm"))
    cold = Path(tempfile.mkdtemp(prefix="plait-bench-"))
    try:
        environ = {"PLAIT_HOT_DIR": str(hot / "hot"), "PLAIT_DIR": str(cold / "cold")}
        folders = resolve(environ, os.geteuid())
        meta = Meta.of_this_process(kind="run", project="bench", run="log-call", label="0")
        writer = Writer(folders, meta)
        threads = threading.active_count()
        rows = [("", "measured", "target", "")]
        rows += log_against_json(writer, folders.hot_stream(meta.session))
        rows += single_calls(writer, folders.hot_stream(meta.session))
        rows.append(judged("threads started", threading.active_count() - threads, 0, ""))
        assert writer.statistics().dropped == 0
        writer.close()
    finally:
        shutil.rmtree(hot)
        shutil.rmtree(cold)
    rows += imports()
    for name, measured, target, verdict in rows:
        print(f"{name:<46}{measured:>14}{target:>14}  {verdict}")


def data() -> dict[str, float]:
    """Ten random floats."""
    return {f"metric_{at}": random.random() for at in range(10)}


def acknowledge(stream: Path) -> None:
    """Delete sealed segments, as an agent does with those that are acknowledged."""
    for path in sorted(stream.glob("*.log"))[:-1]:
        path.unlink()


def log_against_json(writer: Writer, stream: Path) -> list[tuple[str, str, str, str]]:
    """Interleaved blocks of both, in nanoseconds a call."""
    row, logged, dumped = data(), [], []
    log, dumps = writer.log, json.dumps
    for _ in range(BLOCKS):
        start = perf_counter_ns()
        for _ in range(LOGS_PER_BLOCK):
            log(row)
        logged.append((perf_counter_ns() - start) / LOGS_PER_BLOCK)
        start = perf_counter_ns()
        for _ in range(DUMPS_PER_BLOCK):
            dumps(row)
        dumped.append((perf_counter_ns() - start) / DUMPS_PER_BLOCK)
        acknowledge(stream)
    ratio = statistics.median(one / other for one, other in zip(logged, dumped, strict=True))
    return [
        ("log() of 10 floats, median of blocks", f"{statistics.median(logged):.0f} ns", "", ""),
        ("json.dumps of the same", f"{statistics.median(dumped):.0f} ns", "", ""),
        judged("ratio", ratio, 1 / 3, ""),
    ]


def single_calls(writer: Writer, stream: Path) -> list[tuple[str, str, str, str]]:
    """Calls timed one by one."""
    row, log, took = data(), writer.log, []
    for at in range(SINGLE_CALLS):
        start = perf_counter_ns()
        log(row)
        took.append(perf_counter_ns() - start)
        if at % 5000 == 0:
            acknowledge(stream)
    took.sort()
    median, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
    return [
        ("one log(), median", f"{median} ns", "", ""),
        ("one log(), p99", f"{p99} ns", "", ""),
        ("one log(), p99.9", f"{took[len(took) * 999 // 1000]} ns", "", ""),
        ("one log(), longest", f"{took[-1] / 1e6:.2f} ms", "", ""),
        judged("p99 / median", p99 / median, 5, ""),
    ]


def imports() -> list[tuple[str, str, str, str]]:
    """What imports add to a bare interpreter, in fresh ones, alternating."""
    programs = (BARE, IMPORT, WRITING)
    times: dict[str, list[float]] = {program: [] for program in programs}
    sizes: dict[str, list[int]] = {program: [] for program in programs}
    for _ in range(IMPORTS):
        for program in programs:
            start = perf_counter_ns()
            done = subprocess.run(
                [sys.executable, "-c", program], capture_output=True, text=True, check=True
            )
            times[program].append((perf_counter_ns() - start) / 1e6)
            sizes[program].append(int(done.stdout))

    def added(program: str) -> tuple[float, float]:
        ms = statistics.median(times[program]) - statistics.median(times[BARE])
        mb = (statistics.median(sizes[program]) - statistics.median(sizes[BARE])) / 1024
        return ms, mb

    (import_ms, import_mb), (init_ms, init_mb) = added(IMPORT), added(WRITING)
    return [
        judged("import plait", import_ms, 40, "ms"),
        judged("import plait", import_mb, 8, "MB"),
        ("with what init() imports later", f"{init_ms:.2f} ms", "", ""),
        judged("with what init() imports later", init_mb, 8, "MB"),
    ]


def judged(name: str, measured: float, target: float, unit: str) -> tuple[str, str, str, str]:
    """A line of the table with a target."""
    verdict = "ok" if measured <= target else "MISSED"
    return name, f"{measured:.2f} {unit}", f"<= {target:.2f} {unit}", verdict


if __name__ == "__main__":
    main()
