"""Tables on terminals of any width, and in a pipe."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from plait.cli.columns import Column, print_columns

COLUMNS = (
    Column("name", folds_at=8),
    Column("time", spare=1),
    Column("rows", right=True, spare=2),
    Column("a/long/key", right=True, title_folds_at=6),
)
CELLS = [["a-name-of-16-char", "2026-11-22 17:51", "12", "0.0333333"], ["b", "", "3", "1"]]


def printed(width: int, is_terminal: bool) -> tuple[list[int], list[str]]:
    """What there was no room for, and the lines of the table."""
    to = io.StringIO()
    console = Console(file=to, width=width, force_terminal=is_terminal, no_color=True)
    left_out = print_columns(console, COLUMNS, CELLS)
    return left_out, re.sub("\x1b\\[[0-9;]*m", "", to.getvalue()).splitlines()


@pytest.mark.parametrize(("width", "left_out"), [(60, []), (40, [2]), (30, [1, 2]), (20, [1, 2])])
def test_narrow_terminal_folds_text_and_never_a_number(width: int, left_out: list[int]) -> None:
    """Names are folded, columns that can be spared are left out, and numbers stay whole."""
    found, lines = printed(width, is_terminal=True)
    assert found == left_out
    assert max(map(len, lines)) <= width
    assert any("0.0333333" in line for line in lines)
    assert 1 in left_out or any("2026-11-22 17:51" in line for line in lines)


def test_pipe_gets_whole_cells_and_no_space_after_them() -> None:
    """One line for each row, without trailing spaces."""
    left_out, lines = printed(1000, is_terminal=False)
    assert left_out == []
    assert lines == [
        "name               time              rows  a/long/key",
        "a-name-of-16-char  2026-11-22 17:51    12   0.0333333",
        "b                                       3           1",
    ]
