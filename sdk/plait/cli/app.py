"""The commands that read: status, ls, show, history."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from plait._version import __version__
from plait.cli import node, printing, rows
from plait.cli.labels import Unreadable, listed_labels

if TYPE_CHECKING:
    from plait.api import Api, Run

FAILED, UNUSABLE = 1, 2

KEYS_TOLD = 20

CODES = "Exit codes: 0 done; 1 not found, or failed; 2 used wrongly, or unreachable."

app = typer.Typer(
    name="plait",
    help="Runs of many ranks, woven into one.",
    epilog=CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Collector = Annotated[
    str | None,
    typer.Option(
        "--collector",
        metavar="HOST:PORT",
        help="Where runs are read from. [default: $PLAIT_COLLECTOR, else 127.0.0.1:7431]",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for programs.")]
RunPath = Annotated[str, typer.Argument(metavar="RUN", help="PROJECT/RUN, like digits/exp-7.")]


def run_app(arguments: Sequence[str]) -> int:
    """Run a command; gives the exit code."""
    try:
        app(args=list(arguments), prog_name="plait")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else (0 if end.code is None else FAILED)
    return 0


def _version(wanted: bool) -> None:
    if wanted:
        printing.out().print(f"plait {__version__}")
        raise typer.Exit


@app.callback()
def plait(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Tell the version.")
    ] = False,
) -> None:
    """Runs of many ranks, woven into one."""


def _passed_on(name: str) -> None:
    """A command for the list of commands alone: main() carries it out before typer is asked."""
    raise typer.Exit(UNUSABLE)


@app.command("agent", epilog=CODES, short_help="Start this node's agent (extra: agent).")
def agent() -> None:
    """Start this node's agent, which relays ranks to a collector (extra: agent)."""
    _passed_on("agent")


@app.command("collector", epilog=CODES, short_help="Start a collector (extra: collector).")
def collector() -> None:
    """Start a collector, which keeps runs and answers (extra: collector)."""
    _passed_on("collector")


@app.command(epilog=CODES, short_help="Show this node's agent and its streams.")
def status(as_json: Json = False) -> None:
    """Show this node's agent: its connection, and what of each stream is on its way.

    Of each stream: the bytes that its rank has committed, that were shipped to the collector, that
    the collector has acknowledged, and that its files take (kept). The agent is looked for in
    $PLAIT_HOT_DIR, else in the default folder.
    """
    try:
        answer = node.ask_status()
    except node.NoAgent as error:
        _stop(str(error), UNUSABLE)
    if as_json:
        _print_json(answer)
    else:
        printing.print_status(answer)


@app.command("ls", epilog=CODES)
def list_runs(
    project: Annotated[
        str | None, typer.Argument(metavar="[PROJECT]", help="Of this project alone.")
    ] = None,
    state: Annotated[
        str | None, typer.Option(help="Only running, finished, failed or crashed ones.")
    ] = None,
    group: Annotated[str | None, typer.Option(help="Of this group alone.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many, the newest; 0: all.")] = 50,
    as_json: Json = False,
    collector: Collector = None,
) -> None:
    """List runs, newest first."""
    with _reading(collector) as api:
        found: list[Run] = []
        more = False
        for run in api.runs(project, group, state):
            more = bool(limit) and len(found) >= limit
            if more:
                break
            found.append(run)
        if as_json:
            _print_json([rows.run_line(run) for run in found])
            return
        printing.print_runs(found)
        if more:
            _note(f"these are the newest {limit}; --limit 0 lists all")


@app.command(epilog=CODES, short_help="Show what is known of a run.")
def show(run: RunPath, as_json: Json = False, collector: Collector = None) -> None:
    """Show what is known of a run: state, config, summary, labels, gaps."""
    with _reading(collector) as api:
        found = api.run(run)
        if as_json:
            _print_json(
                {
                    **rows.run_line(found),
                    "primary": found.primary,
                    "config": found.config,
                    "conflicts": found.conflicts,
                    "summary": found.summary,
                    "keys": found.keys,
                    "labels": {name: asdict(label) for name, label in found.labels.items()},
                }
            )
        else:
            printing.print_run(found)


@app.command(epilog=CODES)
def history(
    run: RunPath,
    keys: Annotated[
        str | None, typer.Option(metavar="A,B", help="The keys wanted. [default: all]")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="0-3,7", help="The labels wanted; A-B counts. [default: all]"),
    ] = None,
    min_step: Annotated[int | None, typer.Option(help="The smallest step.")] = None,
    max_step: Annotated[int | None, typer.Option(help="The largest step.")] = None,
    attempts: Annotated[
        str,
        typer.Option(
            help="effective: later attempts override earlier ones; latest: the latest alone; "
            "raw: every row as it was written."
        ),
    ] = "effective",
    limit: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="The last so many rows of each label; 0: all. [default: 20; with --json 0]",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    collector: Collector = None,
) -> None:
    """Show rows of a run.

    In JSON a row is an object of label, attempt, step, time_ns and values; a key that a row lacks
    is not in its values, and numbers JSON does not know are "NaN", "Infinity" and "-Infinity".
    """
    wanted = None if keys is None else list(dict.fromkeys(filter(None, keys.split(","))))
    if wanted == []:
        _stop(f"--keys {keys!r} names no key; it takes A,B", UNUSABLE)
    with _reading(collector) as api:
        found = api.run(run)
        _tell_unknown(wanted or [], found)
        chosen = None if labels is None else listed_labels(labels, list(found.labels))
        blocks = found.history_blocks(
            wanted,
            chosen,
            min_step,
            max_step,
            attempts,  # type: ignore[arg-type]  # Checked there.
        )
        if as_json:
            printing.print_json_rows(rows.tail(blocks, limit or 0))
        else:
            shown = 20 if limit is None else limit
            hidden = printing.print_rows(list(rows.tail(blocks, shown)), wanted)
            if hidden:
                _note(f"{hidden} more keys; name those you want with --keys, or see all in a pipe")


def _tell_unknown(keys: Sequence[str], run: Run) -> None:
    """Say which keys no row of the run has; where that is all of them, end the command."""
    unknown = [key for key in keys if key not in run.keys]
    if not unknown:
        return
    known = ", ".join(run.keys[:KEYS_TOLD]) + (", …" if len(run.keys) > KEYS_TOLD else "")
    sentence = (
        f"run {run.path} has no key {', '.join(map(repr, unknown))}; it has {known or 'none'}"
    )
    if len(unknown) == len(keys):
        _stop(sentence, FAILED)
    _note(f"plait: {printing.plain(sentence)}")


@contextmanager
def _reading(collector: str | None) -> Iterator[Api]:
    """An Api; what goes wrong with it is told on stderr, and ends the command."""
    try:
        from plait import api as reading
    except ModuleNotFoundError as error:
        _stop(str(error), UNUSABLE)
    try:
        with reading.Api(collector) as api:
            yield api
    except reading.NotFound as error:
        _stop(str(error), FAILED)
    except (reading.Unavailable, reading.Refused, reading.WrongVersion) as error:
        _stop(str(error), UNUSABLE)
    except (Unreadable, ValueError) as error:
        _stop(str(error), UNUSABLE)


def _stop(sentence: str, code: int) -> NoReturn:
    printing.err().print(f"plait: {printing.plain(sentence)}", soft_wrap=True)
    raise typer.Exit(code)


def _note(sentence: str) -> None:
    printing.err().print(sentence, style="dim", soft_wrap=True)


def _print_json(value: Any) -> None:
    json.dump(rows.strict(value), sys.stdout, indent=2)
    sys.stdout.write("\n")
