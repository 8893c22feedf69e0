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
from typing import TYPE_CHECKING, Any, Final, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from plait.cli.rows import Row, strict

if TYPE_CHECKING:
    from plait.api import Label, Run

PIPE_WIDTH: Final = 10_000
"""In a pipe nothing is cut or wrapped."""
NUMBER_WIDTH: Final = 12
"""What a key's column takes at least."""
VALUE_CHARACTERS_MAX: Final = 200
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


def _table(console: Console, *columns: str, right: Iterable[str] = ()) -> Table:
    """An empty table."""
    terminal = console.is_terminal
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, show_edge=False)
    numbers = set(right)
    for column in columns:
        number = column in numbers
        justify: Literal["right", "left"] = "right" if number else "left"
        table.add_column(plain(column), justify=justify, overflow="fold", no_wrap=number)
    return table


def _add(table: Table, *cells: str, style: str = "") -> None:
    table.add_row(*(plain(cell) for cell in cells), style=style)


def moment(time_ns: int) -> str:
    """A time for people, UTC; nothing for 0."""
    if not time_ns:
        return ""
    try:
        return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # A clock beyond the calendar.
        return str(time_ns)


def _maybe(number: int | None) -> str:
    return "-" if number is None else str(number)


def value_text(value: Any) -> str:
    """A value of a config or summary, on one line."""
    text = value if isinstance(value, str) else json.dumps(strict(value), ensure_ascii=False)
    text = plain(text)
    return text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 1] + "…"


def print_runs(runs: Sequence[Run]) -> None:
    """Runs, a line each."""
    console = out()
    if not runs:
        err().print("no runs", style="dim")
        return
    columns = ("run", "state", "liveness", "started (UTC)", "last step", "rows")
    table = _table(console, *columns, right=("last step", "rows"))
    for run in runs:
        _add(
            table,
            run.path,
            run.state,
            run.liveness,
            moment(run.started_ns),
            _maybe(run.last_step),
            str(run.rows),
            style=_STYLES.get(run.state, "") if console.is_terminal else "",
        )
    console.print(table)


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
    console.print(_label_table(console, run.labels))
    for gap in run.gaps:
        count = "an unknown number of" if gap.records is None else str(gap.records)
        after = "before all rows" if gap.after_step is None else f"after step {gap.after_step}"
        sentence = f"label {gap.label} lost {count} records {after} ({gap.reason})"
        console.print(plain(sentence), style="yellow")


def _print_values(console: Console, title: str, values: Mapping[str, Any]) -> None:
    if not values:
        return
    table = _table(console, title, "")
    for key in sorted(values):
        _add(table, key, value_text(values[key]))
    console.print()
    console.print(table)


def _label_table(console: Console, labels: Mapping[str, Label]) -> Table:
    columns = ("label", "state", "liveness", "attempts", "last step", "complete to", "rows", "host")
    numbers = ("attempts", "last step", "complete to", "rows")
    table = _table(console, *columns, right=numbers)
    for name, label in labels.items():
        state = label.state if label.exit_code in (None, 0) else f"{label.state} {label.exit_code}"
        _add(
            table,
            name,
            state,
            label.liveness,
            str(len(label.attempts)),
            _maybe(label.last_step),
            _maybe(label.complete_through),
            str(label.rows),
            label.host,
            style=_STYLES.get(label.state, "") if console.is_terminal else "",
        )
    return table


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
    columns = list(keys) if keys else sorted({key for row in rows for key in row.values})
    fitting = len(columns) if keys else max(1, (console.width - 50) // NUMBER_WIDTH)
    shown = columns[:fitting]
    table = _table(console, "label", "attempt", "step", "time (UTC)", right=("attempt", "step"))
    for key in shown:
        table.add_column(plain(key), justify="right", overflow="fold")
    for row in rows:
        cells = [format(row.values[key], ".6g") if key in row.values else "" for key in shown]
        _add(table, row.label, str(row.attempt), str(row.step), moment(row.time_ns), *cells)
    console.print(table)
    return len(columns) - len(shown)


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
    columns = ("run", "label", "state", "committed", "shipped", "acked", "kept")
    table = _table(console, *columns, right=("committed", "shipped", "acked", "kept"))
    for stream in sorted(streams, key=_stream_key):
        kept = int(stream.get("hot_bytes") or 0) + int(stream.get("cold_bytes") or 0)
        path = f"{stream.get('project', '')}/{stream.get('run', '')}"
        numbers = [_size(stream.get(name)) for name in ("committed", "shipped", "acked")]
        name = path if stream.get("run") else str(stream.get("kind", ""))
        _add(table, name, str(stream.get("label")), str(stream.get("state")), *numbers, _size(kept))
    console.print(table)
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
