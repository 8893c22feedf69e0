"""What people see: tables that fit 80 columns on a terminal, and plain columns in a pipe.

Rule: what was written elsewhere (names, values, messages) is never read as markup, and no control
      character of it reaches the terminal.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from plait.cli.columns import Column, print_columns
from plait.cli.rows import Row, strict

if TYPE_CHECKING:
    from plait.api import Label, Run

PIPE_WIDTH: Final = 10_000
"""In a pipe nothing is cut or wrapped."""
KEY_TITLE_FOLDS_AT: Final = 16
"""A key's name may be folded to this many characters, over its numbers."""
VALUE_CHARACTERS_MAX: Final = 200
OWN_COLUMNS: Final = 4
"""Columns of a history that are no keys."""
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_STYLES: Final = {
    "running": "cyan",
    "finished": "green",
    "failed": "red",
    "crashed": "red",
    "live": "green",
    "silent": "yellow",
    "lost": "red",
    "ended": "dim",
}


def out() -> Console:
    """Where answers go."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=PIPE_WIDTH)
    return console


def err() -> Console:
    """Where errors and notes go."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def plain(text: str) -> str:
    """Text without what could steer a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def moment(time_ns: int, timespec: str = "seconds") -> str:
    """A time for people, UTC; nothing for 0.

    Args:
        time_ns: nanoseconds since 1970.
        timespec: how exact: seconds or minutes.
    """
    if not time_ns:
        return ""
    try:
        found = datetime.fromtimestamp(time_ns // 10**9, UTC).replace(tzinfo=None)
        return found.isoformat(" ", timespec)
    except (ValueError, OverflowError, OSError):  # A clock beyond the calendar.
        return str(time_ns)


def _maybe(number: int | None) -> str:
    return "-" if number is None else str(number)


def _plain_cells(*cells: object) -> list[str]:
    return [plain(str(cell)) for cell in cells]


def _print_table(
    console: Console,
    columns: Sequence[Column],
    lines: Sequence[Sequence[str]],
    styles: Sequence[str] = (),
    noted: int | None = None,
) -> list[int]:
    """A table, and a note on stderr of what there was no room for, which is given back.

    Args:
        noted: of how many of the first columns the note speaks; None: of all.
    """
    left_out = print_columns(console, columns, lines, styles)
    if titles := [columns[at].title for at in left_out if noted is None or at < noted]:
        err().print(f"no room for: {', '.join(titles)}", style="dim")
    return left_out


def value_text(value: Any) -> str:
    """A value of a config or summary, on one line."""
    told = strict(value)  # A NaN of its own is the word, without quotes.
    text = told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)
    text = plain(text)
    return text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 1] + "…"


def print_runs(runs: Sequence[Run]) -> None:
    """Runs, a line each."""
    console = out()
    if not runs:
        err().print("no runs", style="dim")
        return
    columns = (
        Column("run", folds_at=32),
        Column("state"),
        Column("liveness"),
        Column("started (UTC)", spare=1),
        Column("last step", right=True, spare=2),
        Column("rows", right=True, spare=3),
    )
    timespec = "minutes" if console.is_terminal else "seconds"
    lines = [
        _plain_cells(
            run.path,
            run.state,
            run.liveness,
            moment(run.started_ns, timespec),
            _maybe(run.last_step),
            run.rows,
        )
        for run in runs
    ]
    styles = [_STYLES.get(run.state, "") for run in runs]
    _print_table(console, columns, lines, styles)


def print_run(run: Run) -> None:
    """All that is known of a run."""
    console = out()
    head = f"{run.path} is {run.state} ({run.liveness})"
    details = [f"started {moment(run.started_ns)} UTC"]
    details += [f"group {run.group}"] if run.group else []
    details += [f"primary {run.primary}"] if run.primary else ["no primary"]
    console.print(plain(head), style="bold")
    console.print(plain(", ".join(details)))
    _print_values(console, "config", run.config)
    for key, values in run.conflicts.items():
        said = ", ".join(f"{label}: {value_text(value)}" for label, value in values.items())
        console.print(plain(f"labels differ about {key}: {said}"), style="yellow")
    _print_values(console, "summary", run.summary)
    console.print()
    _print_labels(console, run.labels)
    for gap in run.gaps:
        count = "an unknown number of" if gap.records is None else str(gap.records)
        after = "before all rows" if gap.after_step is None else f"after step {gap.after_step}"
        sentence = f"label {gap.label} lost {count} records {after} ({gap.reason})"
        console.print(plain(sentence), style="yellow")


def _print_values(console: Console, title: str, values: Mapping[str, Any]) -> None:
    if not values:
        return
    console.print()
    columns = (Column(title, folds_at=40), Column("", folds_at=40))
    _print_table(console, columns, [_plain_cells(k, value_text(values[k])) for k in sorted(values)])


def _print_labels(console: Console, labels: Mapping[str, Label]) -> None:
    columns = (
        Column("label", folds_at=16),
        Column("state"),
        Column("liveness"),
        Column("attempts", right=True, spare=2),
        Column("last step", right=True),
        Column("complete to", right=True),
        Column("rows", right=True, spare=3),
        Column("host", folds_at=16, spare=1),
    )
    lines = [
        _plain_cells(
            name,
            label.state if label.exit_code in (None, 0) else f"{label.state} {label.exit_code}",
            label.liveness,
            len(label.attempts),
            _maybe(label.last_step),
            _maybe(label.complete_through),
            label.rows,
            label.host,
        )
        for name, label in labels.items()
    ]
    _print_table(console, columns, lines, [_STYLES.get(each.state, "") for each in labels.values()])


def print_rows(rows: Sequence[Row], keys: Sequence[str] | None) -> int:
    """A history as a table; gives how many keys there was no room for.

    Args:
        rows: the rows.
        keys: the columns; None: those that rows have, sorted, as many as fit.
    """
    console = out()
    if not rows:
        err().print("no rows", style="dim")
        return 0
    names = list(keys) if keys else sorted({key for row in rows for key in row.values})
    own = len(names) if keys else 0  # Keys that were chosen stay longer than time and attempt.
    others = 0 if keys else 2
    columns = [
        Column("label", folds_at=16),
        Column("attempt", right=True, spare=own + 1),
        Column("step", right=True),
        Column("time (UTC)", spare=own + 2),
    ]
    for at, key in enumerate(names):  # The first one always stays.
        spare = others + at if at else 0
        columns.append(
            Column(plain(key), right=True, title_folds_at=KEY_TITLE_FOLDS_AT, spare=spare)
        )
    lines = []
    for row in rows:
        numbers = (format(row.values[key], ".6g") if key in row.values else "" for key in names)
        lines.append(_plain_cells(row.label, row.attempt, row.step, moment(row.time_ns), *numbers))
    left_out = _print_table(console, columns, lines, noted=OWN_COLUMNS)
    return sum(1 for at in left_out if at >= OWN_COLUMNS)


def print_json_rows(rows: Iterable[Row]) -> None:
    """A history as one JSON array, a row on each line, written as it comes."""
    write = sys.stdout.write
    before = "[\n"
    for row in rows:
        write(before + json.dumps(row.as_json()))
        before = ",\n"
    write("[]\n" if before == "[\n" else "\n]\n")


def print_status(answer: Mapping[str, Any]) -> None:
    """An agent and its streams."""
    console = out()
    agent, streams = answer["agent"], answer["streams"]
    connected = bool(agent.get("connected"))
    link = "connected to" if connected else "not connected to"
    head = f"agent {agent.get('version', '')} on {agent.get('node', '')}: {link}"
    console.print(
        plain(f"{head} {agent.get('collector', '')}"), style="green" if connected else "yellow"
    )
    if not connected and agent.get("last_error"):
        console.print(plain(f"last error: {agent['last_error']}"))
    if not streams:
        console.print("no streams")
        return
    columns = (
        Column("run", folds_at=24),
        Column("label", folds_at=16),
        Column("state"),
        Column("committed", right=True),
        Column("shipped", right=True, spare=1),
        Column("acked", right=True),
        Column("kept", right=True, spare=2),
    )
    lines = []
    for stream in sorted(streams, key=_stream_key):
        kept = int(stream.get("hot_bytes") or 0) + int(stream.get("cold_bytes") or 0)
        path = f"{stream.get('project', '')}/{stream.get('run', '')}"
        numbers = [_size(stream.get(name)) for name in ("committed", "shipped", "acked")]
        name = path if stream.get("run") else str(stream.get("kind", ""))
        lines.append(
            _plain_cells(name, stream.get("label"), stream.get("state"), *numbers, _size(kept))
        )
    _print_table(console, columns, lines)
    for stream in streams:
        if stream.get("error"):
            console.print(plain(f"{stream.get('session')}: {stream['error']}"), style="red")


def _stream_key(stream: Mapping[str, Any]) -> tuple[str, str, list[tuple[int, str]]]:
    """Streams of a run together, labels with digits compared as numbers."""
    parts = re.split("([0-9]+)", str(stream.get("label", "")))
    label = [(int(part), "") if part.isascii() and part.isdigit() else (-1, part) for part in parts]
    return str(stream.get("project", "")), str(stream.get("run", "")), label


def _size(value: object) -> str:
    """Bytes for people."""
    if not isinstance(value, int):
        return "-"
    size = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("the last unit holds any size")
