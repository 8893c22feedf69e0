"""Tables: as wide as the terminal at most; in a pipe every cell whole, with nothing after it.

Rule: on a terminal text may be folded where its column says so; a number or a time never is. Where
      there is no room, whole columns are left out, and the caller is told which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

SPACE: Final = 2
"""Between two columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column, and what may happen to it on a narrow terminal."""

    title: str
    right: bool = False
    """Numbers stand on the right."""
    folds_at: int | None = None
    """It may be folded to this many characters, or further where nothing else helps."""
    title_folds_at: int | None = None
    """Its title alone may be folded, to this many characters."""
    spare: int = 0
    """Of the columns that may be left out, the one with the largest number goes first; 0: none."""


def print_columns(
    console: Console,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    styles: Sequence[str] = (),
) -> list[int]:
    """Print a table.

    Args:
        console: where to.
        columns: the columns.
        rows: a cell for each column, without control characters.
        styles: of each row, on a terminal; none: all plain.

    Returns:
        The columns for which there was no room, by their place.
    """
    shown = _fitting(columns, rows, console.width)
    cells = [[row[at] for at in shown] for row in rows]
    chosen = [columns[at] for at in shown]
    if console.is_terminal:
        console.print(_table(chosen, cells, styles))
    else:
        _print_lines(console, chosen, cells)
    return [at for at in range(len(columns)) if at not in shown]


def _fitting(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Which columns there is room for."""
    needed = [_needed(column, [row[at] for row in rows]) for at, column in enumerate(columns)]
    shown = list(range(len(columns)))
    while sum(needed[at] + SPACE for at in shown) - SPACE > width:
        at = max(shown, key=lambda each: columns[each].spare)
        if not columns[at].spare:
            break
        shown.remove(at)
    return shown


def _needed(column: Column, cells: Sequence[str]) -> int:
    widest = max(map(cell_len, cells), default=0)
    title = cell_len(column.title)
    if column.title_folds_at is not None:
        title = min(title, column.title_folds_at)
    needed = max(widest, title)
    return needed if column.folds_at is None else min(needed, column.folds_at)


def _table(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], styles: Sequence[str]
) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, SPACE - 1, 0, 0)
    )
    for at, column in enumerate(columns):
        folds = column.folds_at is not None
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=not folds and column.title_folds_at is None,
            min_width=None if folds else _needed(column, [row[at] for row in cells]),
            max_width=None if folds else _needed(column, [row[at] for row in cells]),
        )
    for at, row in enumerate(cells):
        table.add_row(*row, style=styles[at] if styles else "")
    return table


def _print_lines(
    console: Console, columns: Sequence[Column], cells: Sequence[Sequence[str]]
) -> None:
    lines = [[column.title for column in columns], *cells]
    widths = [max(cell_len(line[at]) for line in lines) for at in range(len(columns))]
    for line in lines:
        padded = []
        for column, cell, width in zip(columns, line, widths, strict=True):
            space = " " * (width - cell_len(cell))
            padded.append(space + cell if column.right else cell + space)
        console.print((" " * SPACE).join(padded).rstrip(" "), soft_wrap=True)
