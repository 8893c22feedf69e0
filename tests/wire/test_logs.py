"""Log lines of the programs: one a record, key=value."""

from __future__ import annotations

import logging

from plaitwire.logs import KeyValueFormatter


def line(message: str, *args: object) -> str:
    """A record's line after its time."""
    record = logging.LogRecord("x", logging.INFO, "f", 1, message, args, None)
    return KeyValueFormatter().format(record).split(" ", 1)[1]


def test_a_phrase_and_its_values_are_apart() -> None:
    """The phrase is msg; the values follow as they were written."""
    assert line("ready: grpc=%s", "h:1") == "level=info msg=ready grpc=h:1"
    assert line("still here") == 'level=info msg="still here"'


def test_a_colon_in_a_phrase_is_no_value() -> None:
    """Only key=value ends a phrase."""
    assert line("odd: not a value") == 'level=info msg="odd: not a value"'


def test_a_record_is_one_line() -> None:
    """Whatever a peer put into it."""
    assert "\n" not in line("bad: error=%r", "two\nlines")
    assert "\n" not in line("two\nlines")
